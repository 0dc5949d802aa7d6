"""Gated, modulated and deep layers against their formulas, written edge by edge."""

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
TYPES = np.array([0, 1, 1, 0, 1, 0, 0, 1, 0], np.int32)
RNG = np.random.default_rng(0)
X, X_0 = (jnp.asarray(RNG.normal(size=(NUM_NODES, 4)), jnp.float32) for _ in range(2))
EDGE_ATTR = jnp.asarray(RNG.normal(size=(EDGES.shape[1], 3)), jnp.float32)
WEIGHTS = jnp.asarray(RNG.uniform(0.5, 1.5, size=EDGES.shape[1]), jnp.float32)
SENDERS, RECEIVERS = EDGES


def _summed(messages):
    return jnp.zeros((NUM_NODES, messages.shape[1])).at[RECEIVERS].add(messages)


def _rows(linear, x):
    return jax.vmap(linear)(x)


def _both(layer, *args):
    """The layer on a layout, which must agree with the plain array of edges."""
    before, after = args[: args.index(None)], args[args.index(None) + 1 :]
    plain, fast = (layer(*before, edges, *after) for edges in (EDGES, LAYOUT))
    np.testing.assert_allclose(plain, fast, atol=1e-5)
    return fast


def test_residual_gates(getkey):
    layer = egnn.ResGatedGraphConv(4, 5, edge_dim=3, key=getkey())
    assert layer.lin_skip is not None
    at_i, at_j = (jnp.concatenate([X[ends], EDGE_ATTR], axis=1) for ends in (RECEIVERS, SENDERS))
    gate = jax.nn.sigmoid(_rows(layer.lin_key, at_i) + _rows(layer.lin_query, at_j))
    want = _rows(layer.lin_skip, X) + _summed(gate * _rows(layer.lin_value, at_j))
    np.testing.assert_allclose(_both(layer, X, None, EDGE_ATTR), want, atol=1e-5)


def test_modulated_relations(getkey):
    layer = egnn.FiLMConv(4, 5, 2, act=jnp.tanh, aggr="sum", key=getkey())
    beta, gamma = jnp.split(_rows(layer.film_skip, X), 2, axis=1)
    want = jnp.tanh(gamma * _rows(layer.lin_skip, X) + beta)
    for relation in range(2):
        beta, gamma = jnp.split(_rows(layer.films[relation], X), 2, axis=1)
        message = jnp.tanh(gamma[RECEIVERS] * _rows(layer.lins[relation], X)[SENDERS] + beta[RECEIVERS])
        here = jnp.asarray(TYPES)[:, None] == relation
        want = want + _summed(jnp.where(here, message, 0.0))
    np.testing.assert_allclose(_both(layer, X, None, TYPES), want, atol=1e-5)


def test_gated_recurrence(getkey):
    layer = egnn.GatedGraphConv(5, 2, key=getkey())
    h = jnp.pad(X, ((0, 0), (0, 1)))
    for weight in layer.weight:
        h = jax.vmap(layer.rnn)(_summed(WEIGHTS[:, None] * (h @ weight)[SENDERS]), h)
    np.testing.assert_allclose(_both(layer, X, None, WEIGHTS), h, atol=1e-5)


def test_local_extremum(getkey):
    layer = egnn.LEConv(4, 5, key=getkey())
    difference = _rows(layer.lin1, X)[SENDERS] - _rows(layer.lin2, X)[RECEIVERS]
    want = _summed(WEIGHTS[:, None] * difference) + _rows(layer.lin3, X)
    np.testing.assert_allclose(_both(layer, X, None, WEIGHTS), want, atol=1e-5)


def test_powers_side_by_side_and_the_initial_residual(getkey):
    adjacency = egnn.gcn_norm(EDGES, WEIGHTS, NUM_NODES)
    mix = egnn.MixHopConv(4, 2, (2, 0), key=getkey())
    assert mix.lins[1] is None and mix.lins[2] is not None
    want = jnp.concatenate([_rows(mix.lins[2], adjacency @ (adjacency @ X)), _rows(mix.lins[0], X)], axis=1)
    np.testing.assert_allclose(_both(mix, X, None, WEIGHTS), want, atol=1e-5)
    deep = egnn.GCN2Conv(4, 0.2, theta=0.5, layer=2, key=getkey())
    h = 0.8 * (adjacency @ X) + 0.2 * X_0
    beta = np.log(0.5 / 2 + 1)
    want = (1 - beta) * h + beta * h @ deep.weight1
    np.testing.assert_allclose(_both(deep, X, X_0, None, WEIGHTS), want, atol=1e-5)


def _bad(key):
    return {
        "`theta` and `layer` must be given together": lambda: egnn.GCN2Conv(4, 0.1, theta=0.5, key=key),
        "`powers` must hold at least one number, none below 0": lambda: egnn.MixHopConv(4, 5, (0, -1), key=key),
        "`num_layers` must be at least 1; got 0": lambda: egnn.GatedGraphConv(4, 0, key=key),
        "`x` must have at most out_features=3 features": lambda: egnn.GatedGraphConv(3, 1, key=key)(X, EDGES),
        "`num_relations` must be at least 1; got 0": lambda: egnn.FiLMConv(4, 5, 0, key=key),
        "`edge_type` must be given for 2 relations": lambda: egnn.FiLMConv(4, 5, 2, key=key)(X, EDGES),
        "`edge_attr` must be given: the layer was built with": lambda: egnn.ResGatedGraphConv(
            4, 5, edge_dim=3, key=key
        )(X, EDGES),
    }


@pytest.mark.parametrize("match", list(_bad(jr.key(0))))
def test_bad_input_is_refused_by_name(match, getkey):
    with pytest.raises(ValueError, match=match):
        _bad(getkey())[match]()
