"""Attention layers: weights handed back in the caller's order, memory of edges, dropout, bipartite self-loops."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_graph.nn as egnn
from eqx_graph import EdgeIndex
from eqx_graph.ops import segment_softmax, segment_sum


NUM_NODES = 6
# 2 -> 2 is a self-loop, 0 -> 1 is there twice, node 5 is isolated.
EDGES = np.array([[0, 0, 1, 2, 2, 4, 0, 1, 4], [1, 1, 0, 2, 3, 1, 2, 3, 0]], dtype=np.int32)
LAYOUT = EdgeIndex.from_array(EDGES, num_senders=NUM_NODES, num_receivers=NUM_NODES)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(NUM_NODES, 5)), jnp.float32)
EDGE_ATTR = jnp.asarray(RNG.normal(size=(EDGES.shape[1], 3)), jnp.float32)

MAKE = {
    "GATConv": lambda key, **kw: egnn.GATConv(5, 4, 2, edge_dim=3, key=key, **kw),
    "GATv2Conv": lambda key, **kw: egnn.GATv2Conv(5, 4, 2, edge_dim=3, key=key, **kw),
    "TransformerConv": lambda key, **kw: egnn.TransformerConv(5, 4, 2, edge_dim=3, key=key, **kw),
}


@pytest.mark.parametrize("name", MAKE)
def test_weights_come_back_in_the_callers_order(name, getkey):
    layer = MAKE[name](getkey())
    run = eqx.filter_jit(lambda edges: layer(X, edges, EDGE_ATTR, return_attention_weights=True))
    (out, weights), (out_layout, weights_layout) = run(EDGES), run(LAYOUT)
    np.testing.assert_allclose(out, out_layout, atol=1e-6)
    np.testing.assert_array_equal(weights.edge_index, weights_layout.edge_index)
    np.testing.assert_allclose(weights.alpha, weights_layout.alpha, atol=1e-6)
    np.testing.assert_array_equal(weights.edge_index[:, : EDGES.shape[1]], EDGES)
    receivers = np.asarray(weights.edge_index[1])
    total = np.zeros((NUM_NODES, 2))
    np.add.at(total, receivers, np.asarray(weights.alpha))
    reached = np.bincount(receivers, minlength=NUM_NODES) > 0
    np.testing.assert_allclose(total, np.where(reached[:, None], 1.0, 0.0) * np.ones((1, 2)), atol=1e-6)
    if name != "TransformerConv":  # one loop per node is appended, the old one keeps its place and loses its weight
        np.testing.assert_array_equal(weights.edge_index[:, EDGES.shape[1] :], np.tile(np.arange(NUM_NODES), (2, 1)))
        np.testing.assert_array_equal(weights.alpha[3], 0.0)


def _largest_per_edge(fn, *args, num_edges: int) -> int:
    """Largest number of entries per edge among the arrays of a program that have a row for every edge."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            for var in eqn.outvars:
                shape = getattr(var.aval, "shape", ())
                if num_edges in shape:
                    yield int(np.prod(shape)) // num_edges
            for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
                inner = inner.jaxpr if hasattr(inner, "jaxpr") else inner
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    return max(walk(jax.make_jaxpr(fn)(*args).jaxpr))


@pytest.mark.parametrize("name", MAKE)
def test_no_array_holds_heads_times_channels_for_every_edge(name, getkey):
    num_nodes, num_edges = 97, 100_003
    edge_index = RNG.integers(0, num_nodes, size=(2, num_edges)).astype(np.int32)
    edges = EdgeIndex.from_array(edge_index, num_senders=num_nodes, num_receivers=num_nodes)
    x, edge_attr = jnp.ones((num_nodes, 5)), jnp.ones((num_edges, 3))
    make = {"GATConv": egnn.GATConv, "GATv2Conv": egnn.GATv2Conv, "TransformerConv": egnn.TransformerConv}[name]
    layer = make(5, 16, 2, edge_dim=3, key=getkey())
    step = eqx.filter_value_and_grad(lambda layer, x, e: jnp.sum(layer(x, edges, e) ** 2))
    arrays, static = eqx.partition(layer, eqx.is_array)
    per_edge = _largest_per_edge(
        lambda arrays, x, e: step(eqx.combine(arrays, static), x, e), arrays, x, edge_attr, num_edges=num_edges
    )
    assert per_edge <= 6, per_edge  # heads * channels would be 32; edge features are 3, heads times them 6


@pytest.mark.parametrize("in_features", [3, 40], ids=["narrow", "wide"])
@pytest.mark.parametrize("bipartite", [False, True])
def test_gat_is_its_formula_on_either_side_of_the_linear_map(in_features, bipartite, getkey):
    """Narrow features are multiplied by the product of a and W, wide ones by W first."""
    heads, channels = 4, 3
    sizes = (in_features, in_features + 1) if bipartite else in_features
    conv = egnn.GATConv(sizes, channels, heads, add_self_loops=False, bias=False, key=getkey())
    edge_index = RNG.integers(0, 5, size=(2, 30)).astype(np.int32)
    x = jr.normal(getkey(), (7, in_features))
    nodes = (x, jr.normal(getkey(), (5, in_features + 1))) if bipartite else x
    edges = EdgeIndex.from_array(edge_index, num_senders=7, num_receivers=5 if bipartite else 7)

    def by_definition(conv, nodes):
        senders, receivers = nodes if bipartite else (nodes, nodes)
        maps = (conv.lin_src, conv.lin_dst) if bipartite else (conv.lin, conv.lin)
        sent, own = (
            (v @ m.weight.T).reshape(-1, heads, channels) for v, m in zip((senders, receivers), maps, strict=True)
        )
        s, r = jnp.asarray(edge_index)
        logits = jax.nn.leaky_relu((sent * conv.att_src).sum(-1)[s] + (own * conv.att_dst).sum(-1)[r], 0.2)
        weights = segment_softmax(logits, r, receivers.shape[0])
        return segment_sum(weights[..., None] * sent[s], r, receivers.shape[0]).reshape(-1, heads * channels)

    def output_and_gradients(function):
        def loss(conv_and_nodes):
            out = function(*conv_and_nodes)
            return (out**2).sum(), out

        return eqx.filter_jit(eqx.filter_grad(loss, has_aux=True))((conv, nodes))

    ours = output_and_gradients(lambda conv, nodes: conv(nodes, edges))
    expected = output_and_gradients(by_definition)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_dropout_needs_a_key_and_keeps_the_mean(name, getkey):
    layer = MAKE[name](getkey(), dropout=0.4)
    with pytest.raises(ValueError, match="`key` must be given while dropout is active"):
        layer(X, LAYOUT, EDGE_ATTR)
    plain = eqx.nn.inference_mode(layer)(X, LAYOUT, EDGE_ATTR)
    run = eqx.filter_jit(lambda keys: jax.vmap(lambda key: layer(X, LAYOUT, EDGE_ATTR, key=key))(keys))
    draws = run(jr.split(jr.key(0), 2000))
    assert not bool(jnp.allclose(draws[0], draws[1]))
    # Inverted dropout keeps the mean: 2000 draws of order 1 leave a standard error of about 0.02.
    np.testing.assert_allclose(jnp.mean(draws, axis=0), plain, atol=0.1)


def test_bipartite_loops_join_equal_numbers(getkey):
    conv = egnn.GATConv((5, 3), 4, 2, bias=False, key=getkey())
    edge_index = np.array([[0, 1, 5, 2], [0, 1, 2, 2]], np.int32)
    x = X, jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)
    layout = EdgeIndex.from_array(edge_index, num_senders=6, num_receivers=3)
    out, weights = conv(x, edge_index, return_attention_weights=True)
    np.testing.assert_allclose(out, conv(x, layout), atol=1e-6)
    np.testing.assert_array_equal(weights.edge_index[:, 4:], [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(weights.alpha[jnp.array([0, 1, 3])], 0.0)  # given loops, replaced
    by_hand = egnn.GATConv((5, 3), 4, 2, bias=False, add_self_loops=False, key=getkey())
    by_hand = eqx.tree_at(lambda c: (c.lin_src, c.lin_dst, c.att_src, c.att_dst), by_hand, _weights(conv))
    with_loops = np.array([[5, 0, 1, 2], [2, 0, 1, 2]], np.int32)
    np.testing.assert_allclose(out, by_hand(x, with_loops), atol=1e-6)


def _weights(conv):
    return conv.lin_src, conv.lin_dst, conv.att_src, conv.att_dst


@pytest.mark.parametrize("make", [egnn.GATConv, egnn.GATv2Conv, egnn.TransformerConv])
def test_flow_turns_the_edges_round(make, getkey):
    key = getkey()
    forward, backward = make(5, 4, 2, key=key), make(5, 4, 2, flow="target_to_source", key=key)
    turned = EDGES[::-1].copy()
    want, turned_weights = forward(X, turned, return_attention_weights=True)
    np.testing.assert_allclose(backward(X, EDGES), want, atol=1e-6)
    out, weights = backward(X, LAYOUT, return_attention_weights=True)
    np.testing.assert_allclose(out, want, atol=1e-6)
    np.testing.assert_array_equal(weights.edge_index, turned_weights.edge_index[::-1])  # as the caller gave them


def test_agnn_weights_neighbours_by_cosine():
    conv = egnn.AGNNConv(add_self_loops=False)
    x = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    edge_index = np.array([[1, 2], [0, 0]], np.int32)
    weights = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    np.testing.assert_allclose(conv(x, edge_index)[0], weights[0] * x[1] + weights[1] * x[2], rtol=1e-6)
    grad = jax.grad(lambda x: jnp.sum(conv(x, edge_index)))(jnp.zeros((3, 2)))
    assert bool(jnp.all(jnp.isfinite(grad)))


def _bad(key):
    plain = egnn.GATConv(5, 4, key=key)
    edged = egnn.GATConv(5, 4, edge_dim=3, key=key)
    transformer = egnn.TransformerConv(5, 4, edge_dim=3, key=key)
    return {
        "no weights for it. Build it with `edge_dim=3`": lambda: plain(X, EDGES, EDGE_ATTR),
        "`edge_attr` must have 3 features per row; got an array of shape .9, 2.": lambda: edged(
            X, EDGES, EDGE_ATTR[:, :2]
        ),
        "`edge_attr` must have one row for each of the 9 edges": lambda: edged(X, LAYOUT, EDGE_ATTR[:4]),
        "`x` must have 5 features per row": lambda: edged(X[:, :4], EDGES),
        "`edge_attr` must be given: the layer was built with `edge_dim`": lambda: transformer(X, EDGES),
        "`share_weights` needs as many features": lambda: egnn.GATv2Conv((5, 4), 4, share_weights=True, key=key),
        "`x` must hold features of receivers too; got .x_src, None.. GATConv": lambda: egnn.GATv2Conv(5, 4, key=key)(
            (X, None), LAYOUT
        ),
    }


@pytest.mark.parametrize("match", list(_bad(jr.key(0))))
def test_bad_input_is_refused_by_name(match, getkey):
    with pytest.raises(ValueError, match=match):
        _bad(getkey())[match]()
