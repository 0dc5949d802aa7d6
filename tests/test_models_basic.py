"""Stacks of layers: a step of training with every option, state and masks passed on, options refused by name."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_graph.nn as egnn
from eqx_graph import EdgeIndex


NUM_NODES = 7
EDGES = np.array([[0, 0, 1, 2, 2, 4, 0, 1, 4], [1, 1, 0, 2, 3, 1, 2, 3, 0]], dtype=np.int32)
X = jnp.asarray(np.random.default_rng(0).normal(size=(NUM_NODES, 5)), jnp.float32)

MODELS = {
    "GCN": lambda key: egnn.GCN(5, 8, 3, 2, dropout=0.3, norm="graph_norm", key=key),
    "GraphSAGE": lambda key: egnn.GraphSAGE(5, 8, 2, 2, jk="max", norm="layer_norm", dropout=0.3, key=key),
    "GIN": lambda key: egnn.GIN(5, 8, 2, 2, jk="lstm", train_eps=True, dropout=0.3, key=key),
    "GAT": lambda key: egnn.GAT(5, 8, 2, 2, heads=2, v2=True, act="elu", dropout=0.3, key=key),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_of_a_stack_learns(name, getkey):
    model = MODELS[name](getkey())
    edges = EdgeIndex.from_array(EDGES, num_senders=NUM_NODES, num_receivers=NUM_NODES)

    @eqx.filter_jit
    def gradient(model, key):
        return eqx.filter_grad(lambda m: jnp.sum(jnp.sin(m(X, edges, key=key))))(model)

    grads = jax.tree.leaves(gradient(model, jr.key(0)))
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in grads)
    # A hidden bias or edge may sit behind a dead ReLU; whole matrices do not.
    assert all(bool(jnp.any(g != 0)) for g in grads if g.ndim == 2 and min(g.shape) > 1)
    with pytest.raises(ValueError, match="`key` must be given while dropout is active"):
        model(X, edges)
    assert eqx.nn.inference_mode(model)(X, edges).shape == (NUM_NODES, 2)


def test_batch_norms_in_a_stack_read_the_mask_and_write_the_state(getkey):
    model, state = eqx.nn.make_with_state(egnn.GCN)(5, 8, 2, 2, norm="batch_norm", key=getkey())
    mask = np.arange(NUM_NODES) < NUM_NODES - 1
    padding_edges = np.concatenate([EDGES, np.full((2, 3), NUM_NODES - 1)], axis=1).astype(np.int32)
    run = eqx.filter_jit(lambda x, edges, mask, state: model(x, edges, mask=mask, state=state))
    padded, _ = run(X.at[-1].set(1e3), padding_edges, mask, state)
    real, new = run(X[:-1], EDGES, None, state)
    np.testing.assert_allclose(padded[:-1], real, atol=1e-5)
    norm = model.norms[0]
    assert isinstance(norm, egnn.BatchNorm) and norm.state_index is not None
    assert int(new.get(norm.state_index).num_batches_tracked) == 1
    with pytest.raises(ValueError, match="`state` must be given to a BatchNorm"):
        model(X, EDGES)


@pytest.mark.parametrize("norm", [egnn.GraphNorm(5), egnn.LayerNorm(5), egnn.PairNorm(), egnn.InstanceNorm(5)])
def test_norms_by_graph_need_no_number_of_graphs_and_treat_each_alone(norm):
    batch = np.array([0, 3, 0, 3, 3, 9, 9])  # graphs without nodes, numbers above the number of nodes
    whole = eqx.filter_jit(norm)(X, jnp.asarray(batch))
    np.testing.assert_allclose(whole, norm(X, batch, 10), atol=1e-5)
    for graph in (0, 3, 9):
        alone = norm(X[batch == graph], np.zeros((batch == graph).sum(), np.int32), 1)
        np.testing.assert_allclose(whole[batch == graph], alone, atol=1e-5)


def test_perceptron_sizes_options_and_errors(getkey):
    mlp = egnn.MLP(in_features=5, hidden_features=6, out_features=2, num_layers=3, norm=None, key=getkey())
    assert [lin.weight.shape for lin in mlp.lins] == [(6, 5), (6, 6), (2, 6)]
    np.testing.assert_allclose(mlp(X)[3:4], mlp(X[3:4]), rtol=1e-5)
    bad = {
        "`channel_list`, or `in_features`": lambda: egnn.MLP(in_features=3, key=getkey()),
        "`hidden_features` must be given for num_layers=2": lambda: egnn.MLP(
            in_features=3, out_features=2, num_layers=2, key=getkey()
        ),
        "`channel_list` must hold at least two sizes": lambda: egnn.MLP([3], key=getkey()),
        "`bias` must have one entry for each of the 2 layers; got 1": lambda: egnn.MLP(
            [3, 4, 2], bias=[True], key=getkey()
        ),
        "`act` must be a function, None or one of": lambda: egnn.MLP([3, 4], act="step", key=getkey()),
        "`norm` must be a function of the features, None or one of": lambda: egnn.MLP(
            [3, 4, 2], norm="unit", key=getkey()
        ),
        "`num_layers` must be at least 1; got 0": lambda: egnn.GCN(3, 4, 0, key=getkey()),
        "`hidden_features` must be a multiple of `heads`": lambda: egnn.GAT(3, 5, 2, 2, heads=2, key=getkey()),
        "`share_weights` needs `v2=True`": lambda: egnn.GAT(3, 4, 2, share_weights=True, key=getkey()),
        "`edge_weight` must be None: the layers of GIN": lambda: egnn.GIN(5, 4, 1, key=getkey())(
            X, EDGES, jnp.ones(EDGES.shape[1])
        ),
    }
    for match, call in bad.items():
        with pytest.raises((ValueError, TypeError), match=match):
            call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda k: egnn.GCNConv(0, 2, key=k), "`in_features` must be at least 1; got 0"),
        (lambda k: egnn.SAGEConv((3, -1), 2, key=k), r"`in_features` must be at least 1; got \(3, -1\)"),
        (lambda k: egnn.GATConv(4, 2, heads=0, key=k), "`heads` must be at least 1; got 0"),
        (lambda k: egnn.GATv2Conv(4, 2, edge_dim=0, key=k), "`edge_dim` must be at least 1; got 0"),
        (
            lambda k: egnn.TransformerConv(4, 2, dropout=2.0, key=k),
            r"`dropout` must be a probability in \[0, 1\]; got 2.0",
        ),
        (
            lambda k: egnn.GCN(4, 8, 2, dropout=float("nan"), key=k),
            r"`dropout` must be a probability in \[0, 1\]; got nan",
        ),
        (lambda k: egnn.GIN(4, 0, 2, key=k), "`hidden_features` must be at least 1; got 0"),
        (lambda k: egnn.MLP([4, 0, 2], key=k), r"`channel_list` must be at least 1; got \(4, 0, 2\)"),
    ],
)
def test_sizes_and_rates_that_make_no_layer_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(jr.key(0))


@pytest.mark.parametrize("norm", ["batch_norm", "layer_norm"])
def test_padding_has_no_say_in_the_norms_of_perceptrons(norm):
    model, state = eqx.nn.make_with_state(lambda: egnn.GIN(3, 4, 2, norm=norm, key=jr.key(0)))()
    x = jr.normal(jr.key(1), (7, 3)).at[5:].set(100.0)
    ends = jnp.array([[0, 1, 3, 4, 6, 6], [1, 2, 3, 0, 6, 6]])
    states = [jax.tree.map(lambda leaf: leaf, state) for _ in range(2)]  # each can be used once
    out, after = model(x[:5], ends[:, :4], mask=jnp.ones(5, bool), state=states[0])
    padded, padded_after = model(x, ends, mask=jnp.arange(7) < 5, state=states[1])
    np.testing.assert_allclose(padded[:5], out, rtol=1e-4, atol=1e-5)
    for got, want in zip(jax.tree.leaves(padded_after), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
