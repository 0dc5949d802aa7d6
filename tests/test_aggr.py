"""Aggregations as objects: PyG's conventions at the edges of their domains, groups in any order, what is refused."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_graph.nn import aggr


NUM = 4
INDEX = jnp.array([2, 0, 2, -1, 0, 2, 4, 3])  # group 1 is empty; -1 and 4 count nowhere
X = jnp.asarray(np.random.default_rng(0).uniform(0.1, 2, (8, 3)), jnp.float32)

ALL = {
    "sum": aggr.Sum(),
    "mean": aggr.Mean(),
    "max": aggr.Max(),
    "min": aggr.Min(),
    "mul": aggr.Mul(),
    "var": aggr.Var(),
    "std": aggr.Std(),
    "logsumexp": aggr.LogSumExp(),
    "softmax": aggr.Softmax(2.0),
    "powermean": aggr.PowerMean(3.0),
    "median": aggr.Median(),
    "quantile": aggr.Quantile(0.25),
    "sort": aggr.Sort(2),
}
EMPTY = dict.fromkeys(ALL, 0.0) | {"mul": 1.0, "powermean": 1e-4 ** (1 / 3)}


@pytest.mark.parametrize("name", ALL)
def test_order_of_rows_empty_groups_and_finite_gradients(name):
    aggregation = ALL[name]
    out = aggregation(X, INDEX, NUM)
    order = np.random.default_rng(1).permutation(8)
    np.testing.assert_allclose(aggregation(X[order], INDEX[order], NUM), out, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[1], EMPTY[name], rtol=1e-5)
    wild = X.at[3].set(1e30).at[6].set(-1e30)
    np.testing.assert_allclose(aggregation(wild, INDEX, NUM), out, rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(aggregation(x, INDEX, NUM) ** 2))(X.at[1].set(0))
    assert np.all(np.isfinite(gradient)) and np.all(np.asarray(gradient)[[3, 6]] == 0)


def test_parameters_of_aggregations_are_learned():
    for make in (aggr.Softmax, aggr.PowerMean):
        gradient = jax.grad(lambda p, make=make: jnp.sum(make(p)(X, INDEX, NUM)))(jnp.array([1.0, 2.0, 0.5]))
        assert gradient.shape == (3,) and np.all(np.abs(gradient) > 1e-4)
    semi, full = (aggr.Softmax(1.0, semi_grad=s) for s in (True, False))
    weights = jax.grad(lambda x: semi(x, INDEX, NUM).sum())(X)
    np.testing.assert_allclose(weights[jnp.array([0, 2, 5])].sum(0), 1, rtol=1e-5)  # the weights themselves
    assert not np.allclose(weights, jax.grad(lambda x: full(x, INDEX, NUM).sum())(X))


def test_variance_of_large_numbers_does_not_cancel():
    x = jnp.array([[1e4], [1e4 + 1], [1e4 + 2]], jnp.float32)
    np.testing.assert_allclose(aggr.Var()(x, jnp.zeros(3, int), 1), [[2 / 3]], rtol=1e-5)


def test_sort_takes_the_largest_last_channels():
    x = jnp.array([[1.0, 5.0], [2.0, 7.0], [3.0, 6.0], [4.0, 1.0]])
    out = aggr.Sort(2)(x, jnp.array([0, 0, 0, 1]), 3)
    np.testing.assert_array_equal(out, [[2, 7, 3, 6], [4, 1, 0, 0], [0, 0, 0, 0]])


def test_lstm_reads_rows_in_order_and_stops_where_it_is_told():
    key = jr.key(0)
    index = jnp.array([1, 0, 1, 1])
    x = X[:4]
    own = aggr.LSTM(3, 5, pad=False, key=key)
    (cell,) = own.lstm
    for node, rows in ((0, [1]), (1, [0, 2, 3]), (2, [])):
        state = (jnp.zeros(5), jnp.zeros(5))
        for row in rows:
            state = cell(x[row], state)
        np.testing.assert_allclose(own(x, index, 3)[node], state[0], rtol=1e-5, atol=1e-7)
    padded = aggr.LSTM(3, 5, key=key)
    state = cell(jnp.zeros(3), cell(jnp.zeros(3), cell(x[1], (jnp.zeros(5), jnp.zeros(5)))))
    np.testing.assert_allclose(padded(x, index, 3)[0], state[0], rtol=1e-5)
    bounded = aggr.LSTM(3, 5, max_degree=3, key=key)
    np.testing.assert_allclose(jax.jit(lambda x, i: bounded(x, i, 3))(x, index), padded(x, index, 3), rtol=1e-5)
    with pytest.raises(Exception, match="`max_degree`=2 is smaller than the largest group"):
        jax.block_until_ready(aggr.LSTM(3, 5, max_degree=2, key=key)(x, index, 3))


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"`q` must be in \[0, 1\]; got -0.1"):
        aggr.Quantile((0.5, -0.1))


def test_several_aggregations_that_agree_have_a_finite_deviation():
    spread = aggr.Multi(["mean", "max"], "std")
    x = jnp.array([[1.0], [3.0], [2.0]])  # the second group has one row, whose mean is its maximum
    gradient = jax.grad(lambda x: jnp.sum(spread(x, jnp.array([0, 0, 1]), 2)))(x)
    np.testing.assert_allclose(gradient, [[-(0.5**1.5)], [0.5**1.5], [0.0]], rtol=1e-6)
