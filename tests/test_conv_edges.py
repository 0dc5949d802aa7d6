"""Layers that run a network on every edge: what is taken out of it changes no number; neighbours found on the way."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_graph.nn as egnn
from eqx_graph import EdgeIndex


NUM_NODES = 6
EDGES = np.array([[0, 0, 1, 2, 2, 4, 0, 1, 4], [1, 1, 0, 2, 3, 1, 2, 3, 0]], dtype=np.int32)
LAYOUT = EdgeIndex.from_array(EDGES, num_senders=NUM_NODES, num_receivers=NUM_NODES)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(NUM_NODES, 5)), jnp.float32)
EDGE_ATTR = jnp.asarray(RNG.normal(size=(EDGES.shape[1], 3)), jnp.float32)


class Opaque(eqx.Module):
    """Hides a network's layers, so that nothing can be taken out of it."""

    inner: Any

    def __call__(self, x):
        return self.inner(x)


def _networks(key, inputs: int, outputs: int):
    keys = jr.split(key, 3)
    yield eqx.nn.MLP(inputs, outputs, 8, 2, activation=jnp.tanh, key=keys[0])
    yield eqx.nn.Sequential(
        [eqx.nn.Linear(inputs, 8, key=keys[1]), eqx.nn.Lambda(jnp.tanh), eqx.nn.Linear(8, outputs, key=keys[2])]
    )
    yield eqx.nn.Linear(inputs, outputs, use_bias=False, key=keys[2])


def _value_and_grads(layer, *args):
    def loss(layer, *args):
        out = layer(*args)
        return jnp.sum(jnp.sin(out)), out

    (_, out), grads = eqx.filter_jit(eqx.filter_value_and_grad(loss, has_aux=True))(layer, *args)
    return out, jax.tree.leaves(grads)


def test_factorised_matrices_are_the_matrices_of_every_edge(getkey):
    for nn, aggr in zip(_networks(getkey(), 3, 20), ("sum", "max", "mean"), strict=True):
        key = getkey()
        whole = _value_and_grads(egnn.NNConv(5, 4, Opaque(nn), aggr, key=key), X, EDGES, EDGE_ATTR)
        got = _value_and_grads(egnn.NNConv(5, 4, nn, aggr, key=key), X, LAYOUT, EDGE_ATTR)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, whole)


def test_no_edge_has_a_matrix(getkey):
    num_edges = 50_021
    edge_index = RNG.integers(0, 13, size=(2, num_edges)).astype(np.int32)
    edges = EdgeIndex.from_array(edge_index, num_senders=13, num_receivers=13)
    conv = egnn.NNConv(5, 4, eqx.nn.MLP(3, 20, 6, 1, key=getkey()), key=getkey())
    step = eqx.filter_grad(lambda conv, x, e: jnp.sum(conv(x, edges, e) ** 2))
    text = str(jax.make_jaxpr(lambda x, e: step(conv, x, e))(jnp.ones((13, 5)), jnp.ones((num_edges, 3))))
    assert f"{num_edges},3]" in text and f"{num_edges},20]" not in text and f"{num_edges},5,4]" not in text


def test_the_first_map_of_an_edge_network_may_move_to_the_nodes(getkey):
    for nn, aggr in zip(_networks(getkey(), 10, 4), ("max", "mean", "max"), strict=True):
        whole = _value_and_grads(egnn.EdgeConv(Opaque(nn), aggr), X, EDGES)
        got = _value_and_grads(egnn.EdgeConv(nn, aggr), X, LAYOUT)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, whole)


def test_a_common_offset_costs_edge_convolution_no_digits(getkey):
    nn = eqx.nn.Linear(10, 4, use_bias=False, key=getkey())
    nn = eqx.tree_at(lambda n: n.weight, nn, nn.weight.at[:, :5].set(0.0))  # differences only
    conv = egnn.EdgeConv(nn)
    grid = jnp.round(X * 64) / 64  # exact in float32 beside the offset
    np.testing.assert_allclose(conv(grid + 4096.0, EDGES), conv(grid, EDGES), atol=1e-5)


def _points(conv, x, batch=None):
    return eqx.filter_jit(conv)(x, batch)


def test_nearest_neighbours_by_batch_ties_to_the_lower_number():
    points = jnp.array([[0.0], [1.0], [-1.0], [5.0], [5.5]])

    def offsets(z):  # nn([x_i, x_j - x_i]) = x_j - x_i
        return z[1:]

    # Node 0 lies between 1 and 2: with k=2 the tie goes to node 1.
    np.testing.assert_array_equal(_points(egnn.DynamicEdgeConv(offsets, 2, "sum"), points)[0], [1.0])
    np.testing.assert_array_equal(_points(egnn.DynamicEdgeConv(offsets, 3, "sum"), points)[0], [0.0])
    batch = np.array([0, 0, 0, 1, 1])
    got = _points(egnn.DynamicEdgeConv(offsets, 3, "sum"), points, batch)
    # The second graph has two nodes: two neighbours each, the third place stays empty.
    np.testing.assert_allclose(got[:, 0], [0.0, -3.0, 3.0, 0.5, -0.5])
    np.testing.assert_allclose(egnn.DynamicEdgeConv(offsets, 9, "mean")(points, batch)[3], [0.25])


def test_dynamic_neighbours_are_those_of_the_distance_matrix(getkey):
    x = jnp.asarray(RNG.normal(size=(40, 3)), jnp.float32)
    nn = eqx.nn.MLP(6, 4, 8, 1, key=getkey())
    distance = np.linalg.norm(np.asarray(x)[:, None] - np.asarray(x)[None], axis=-1)
    senders = np.argsort(distance, axis=1, kind="stable")[:, :5]
    edges = np.stack([senders.reshape(-1), np.repeat(np.arange(40), 5)]).astype(np.int32)
    got = _value_and_grads(egnn.DynamicEdgeConv(nn, 5), x)
    want = _value_and_grads(egnn.EdgeConv(nn), x, edges)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_crystal_convolution_is_its_formula(getkey):
    conv = egnn.CGConv(5, 3, key=getkey())
    z = jnp.concatenate([X[EDGES[1]], X[EDGES[0]], EDGE_ATTR], axis=1)
    message = jax.nn.sigmoid(jax.vmap(conv.lin_f)(z)) * jax.nn.softplus(jax.vmap(conv.lin_s)(z))
    want = X.at[EDGES[1]].add(message)
    np.testing.assert_allclose(conv(X, LAYOUT, EDGE_ATTR), want, atol=1e-5)


def test_crystal_convolution_normalises_with_a_state(getkey):
    conv, state = eqx.nn.make_with_state(egnn.CGConv)(5, 3, batch_norm=True, key=getkey())
    out, new = conv(X, LAYOUT, EDGE_ATTR, state=state)
    inner = out - X
    np.testing.assert_allclose(jnp.mean(inner, axis=0), 0.0, atol=1e-5)
    assert conv.bn is not None and conv.bn.state_index is not None
    assert int(new.get(conv.bn.state_index).num_batches_tracked) == 1
    with pytest.raises(ValueError, match="`state` must be given to a CGConv with `batch_norm`"):
        conv(X, LAYOUT, EDGE_ATTR)


@pytest.mark.usefixtures("light_compilation")
def test_padding_has_no_say_in_norms_inside_layers(getkey):
    key, mask = getkey(), np.arange(8) < 6
    x = jnp.pad(X, ((0, 2), (0, 0)), constant_values=9.0)
    ends, attr = jnp.pad(EDGES, ((0, 0), (0, 3)), constant_values=7), jnp.pad(EDGE_ATTR, ((0, 3), (0, 0)))
    ids = np.array([0] * 6 + [1] * 2)
    plain, padded = (X, LAYOUT), (x, ends)

    def check(make, real, padded):
        layer, state = eqx.nn.make_with_state(make)()
        (want, want_state), (got, got_state) = eqx.filter_jit(
            lambda layer, state, copy: (layer(*real, state=state), layer(*padded, mask=mask, state=copy))
        )(layer, *[jax.tree.map(lambda leaf: leaf, state) for _ in range(2)])
        np.testing.assert_allclose(got[:6], want, rtol=1e-4, atol=1e-4)
        for a, b in zip(jax.tree.leaves(got_state), jax.tree.leaves(want_state), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

    check(lambda: egnn.CGConv(5, 3, batch_norm=True, key=key), (*plain, EDGE_ATTR), (*padded, attr))
    check(lambda: egnn.EdgeConv(egnn.MLP([10, 4, 4], key=key)), plain, padded)
    check(lambda: egnn.DynamicEdgeConv(egnn.MLP([10, 4, 4], key=key), 2), (X, ids[:6]), (x, ids))
    check(lambda: egnn.NNConv(5, 2, egnn.MLP([3, 4, 10], key=key), key=key), (*plain, EDGE_ATTR), (*padded, attr))


def _bad(key):
    mlp = eqx.nn.MLP(5, 4, 8, 1, key=key)
    return {
        "`nn` must have in_features . out_features = 20 outputs; got shape .19,.": lambda: egnn.NNConv(
            5, 4, eqx.nn.Linear(3, 19, key=key), key=key
        )(X, EDGES, EDGE_ATTR),
        "`nn` must take .x_i, x_j - x_i., 10 numbers": lambda: egnn.EdgeConv(mlp)(X, EDGES),
        "`k` .number of neighbours. must be at least 1; got 0": lambda: egnn.DynamicEdgeConv(mlp, 0),
        "`edge_attr` must have dim=3 features per edge .None for dim=0.; got None": lambda: egnn.CGConv(5, 3, key=key)(
            X, EDGES
        ),
        "`edge_attr` must have shape .9, 5. to be added to node features": lambda: egnn.GINEConv(mlp)(
            X, EDGES, EDGE_ATTR
        ),
        "`key` must be given with `edge_dim`": lambda: egnn.GINEConv(mlp, edge_dim=3),
        "`nn` must tell its number of input features": lambda: egnn.GINEConv(jnp.tanh, edge_dim=3, key=key),
        "`nn` is an eqx.nn.Sequential.*with a BatchNorm in it": lambda: egnn.GINConv(_with_a_norm(5, key))(X, EDGES),
        "Use `eqx_graph.nn.MLP": lambda: egnn.EdgeConv(_with_a_norm(10, key))(X, EDGES),
    }


def _with_a_norm(in_features, key):
    return eqx.nn.Sequential([eqx.nn.Linear(in_features, 4, key=key), egnn.BatchNorm(4), eqx.nn.Lambda(jnp.tanh)])


@pytest.mark.parametrize("match", list(_bad(jr.key(0))))
def test_bad_input_is_refused_by_name(match, getkey):
    with pytest.raises(ValueError, match=match):
        _bad(getkey())[match]()


@pytest.mark.parametrize("norm", ["batch_norm", "graph_norm"])
def test_a_network_that_mixes_rows_sees_the_edges_that_count(norm):
    """On one edge alone such a norm would give its bias; a masked edge changes nothing."""
    rng = np.random.default_rng(8)
    ends, x = rng.integers(0, 6, (2, 11)).astype(np.int32), jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)

    def conv():
        return egnn.EdgeConv(egnn.MLP([6, 5, 2], norm=norm, key=jr.key(1)), "sum")

    layer, state = eqx.nn.make_with_state(conv)()

    def run(edges):
        return jax.tree.leaves(
            layer(x, edges, **({"state": jax.tree.map(lambda leaf: leaf, state)} if norm == "batch_norm" else {}))
        )[0]

    out = run(EdgeIndex.from_array(ends, num_senders=6, num_receivers=6))
    hidden = (x[ends[1]], x[ends[0]] - x[ends[1]])
    hidden = jnp.concatenate(hidden, axis=1) @ layer.nn.lins[0].weight.T + layer.nn.lins[0].bias[None]
    hidden = (hidden - hidden.mean(0, keepdims=True)) / jnp.sqrt(hidden.var(0, keepdims=True) + 1e-5)
    messages = jax.nn.relu(hidden) @ layer.nn.lins[1].weight.T + layer.nn.lins[1].bias[None]
    np.testing.assert_allclose(out, jnp.zeros((6, 2)).at[ends[1]].add(messages), rtol=2e-4, atol=2e-5)
    more = np.concatenate([ends, np.array([[0, 3], [5, 3]], np.int32)], axis=1)
    masked = EdgeIndex.from_array(more, num_senders=6, num_receivers=6, edge_mask=np.arange(13) < 11)
    np.testing.assert_allclose(run(masked), out, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("spoiled", [1e30, np.inf, np.nan])
def test_padding_may_hold_anything_without_a_mask(spoiled, getkey):
    """Differences are taken beside a mean row, in which padding has no part."""
    conv = egnn.EdgeConv(eqx.nn.MLP(4, 3, 8, 1, key=getkey()))
    x = jr.normal(getkey(), (6, 2))
    edge_index = jnp.asarray([[0, 1, 2, 3, 5, 5], [1, 2, 3, 0, 5, 5]])
    clean, dirty = (conv(x.at[4:].set(value), edge_index)[:4] for value in (0.0, spoiled))
    np.testing.assert_array_equal(clean, dirty)


def test_dropout_in_the_network_of_gin(getkey):
    edge_index, x = jnp.asarray([[0, 1, 2], [1, 2, 0]]), jr.normal(getkey(), (3, 4))
    mlp = egnn.MLP([4, 8, 8], dropout=0.5, norm=None, key=getkey())
    one_row = eqx.nn.Sequential([eqx.nn.Linear(4, 8, key=getkey()), eqx.nn.Dropout(0.5)])
    for nn in (mlp, one_row):
        cases: list[tuple[Any, tuple]] = [(egnn.GINConv(nn), ()), (egnn.GINEConv(nn), (jnp.ones((3, 4)),))]
        for conv, rest in cases:
            first, again, other = (conv(x, edge_index, *rest, key=jr.key(n)) for n in (0, 0, 1))
            assert (first == again).all() and (first != other).any()
            with pytest.raises((ValueError, RuntimeError), match="key"):
                conv(x, edge_index, *rest)
            still = eqx.nn.inference_mode(conv)
            np.testing.assert_array_equal(still(x, edge_index, *rest, key=jr.key(0)), still(x, edge_index, *rest))
