"""Segment operations against loops in NumPy, at empty segments, ids out of range, ties, infinities and in gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from eqx_graph import ops


NUM = 6
IDS = np.array([3, 0, 3, 1, -1, 3, 0, 6, 4, 1])  # segment 2 and 5 are empty, -1 and 6 count nowhere, 4 has one row
DATA = np.random.default_rng(0).normal(size=(10, 3)).round(3)
DATA[3, 0] = DATA[9, 0]  # a tie

EMPTY = dict.fromkeys(("sum", "mean", "max", "min", "median", "var", "std", "q"), 0.0) | {"mul": 1.0, "lse": -np.inf}


def lower_median(rows):
    return np.sort(rows, axis=0)[(len(rows) - 1) // 2]


REFERENCE = {
    "sum": (ops.segment_sum, lambda r: r.sum(0)),
    "mean": (ops.segment_mean, lambda r: r.mean(0)),
    "max": (ops.segment_max, lambda r: r.max(0)),
    "min": (ops.segment_min, lambda r: r.min(0)),
    "mul": (ops.segment_mul, lambda r: r.prod(0)),
    "var": (ops.segment_var, lambda r: r.var(0)),
    "std": (ops.segment_std, lambda r: r.std(0)),
    "lse": (ops.segment_logsumexp, lambda r: np.log(np.exp(r).sum(0))),
    "median": (ops.segment_median, lower_median),
    "q": (lambda d, i, n: ops.segment_quantile(d, i, n, 0.3), lambda r: np.quantile(r, 0.3, axis=0)),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_values_and_gradients(name):
    op, reference = REFERENCE[name]
    with jax.enable_x64(True):
        data, ids = jnp.asarray(DATA), jnp.asarray(IDS)
        groups = [DATA[s == IDS] for s in range(NUM)]
        expected = np.stack([reference(g) if len(g) else np.full(3, EMPTY[name]) for g in groups])
        np.testing.assert_allclose(jax.jit(op, static_argnums=2)(data, ids, NUM), expected, rtol=1e-12)
        distinct = data + jnp.arange(30.0).reshape(10, 3) * 1e-2  # no ties: finite differences hold

        @jax.jit  # one program for all evaluations of a mode
        def smooth(d):
            return jnp.where(jnp.isfinite(out := op(jnp.asarray(d), ids, NUM)), out, 0)

        modes = ["fwd", "rev"] if name in ("median", "q") else None
        check_grads(smooth, (distinct,), order=1 if modes else 2, modes=modes or ["fwd", "rev"], atol=1e-5, rtol=1e-5)


def test_softmax_and_its_logarithm():
    with jax.enable_x64(True):
        data, ids = jnp.asarray(DATA), jnp.asarray(IDS)
        weights = ops.segment_softmax(data, ids, NUM)
        expected = np.zeros_like(DATA)
        for s in range(NUM):
            rows = s == IDS
            expected[rows] = np.exp(DATA[rows]) / np.exp(DATA[rows]).sum(0)
        np.testing.assert_allclose(weights, expected, rtol=1e-12)
        inside = (IDS >= 0) & (IDS < NUM)
        logs = ops.segment_log_softmax(data + 1000, ids, NUM)
        np.testing.assert_allclose(logs[inside], np.log(expected[inside]), rtol=1e-9)
        assert np.all(np.asarray(logs)[~inside] == -np.inf)
        check_grads(lambda d: ops.segment_softmax(jnp.asarray(d), ids, NUM), (data,), order=2, atol=1e-6, rtol=1e-6)
        check_grads(
            lambda d: ops.segment_log_softmax(jnp.asarray(d), ids, NUM)[inside], (data,), order=2, atol=1e-6, rtol=1e-6
        )


def test_infinite_logits_have_a_limit():
    inf = jnp.inf
    logits = jnp.array([inf, 1.0, inf, -inf, -inf, -inf, 2.0])
    ids = jnp.array([0, 0, 0, 0, 1, 1, 2])
    value, gradient = jax.jit(
        jax.value_and_grad(lambda z: jnp.sum(ops.segment_softmax(z, ids, 3) * jnp.arange(7.0)), allow_int=False)
    )(logits)
    np.testing.assert_array_equal(ops.segment_softmax(logits, ids, 3), [0.5, 0, 0.5, 0, 0, 0, 1])
    assert np.isfinite(value) and np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(ops.segment_logsumexp(logits, ids, 3), [inf, -inf, 2])
    assert np.all(np.isfinite(jax.grad(lambda z: ops.segment_logsumexp(z, ids, 3)[2])(logits)))


def test_gradients_at_the_places_where_others_give_nan():
    """Singleton segments (standard deviation), zero factors (product), equal entries (maximum), empty segments."""
    ids, pairs, empty = jnp.array([0, 1, 1, 3]), jnp.array([0, 0, 1, 1]), jnp.zeros(0, int)
    std, largest, smallest = ops.segment_std, ops.segment_max, ops.segment_min
    every = [op for op, _ in REFERENCE.values()]

    def product(d):
        return ops.segment_mul(d, pairs, 2).sum()

    @jax.jit
    def gradients(data, factors, nothing):
        some = [jax.grad(lambda d, op=op: op(d, ids, 5).sum())(data) for op in (std, largest, smallest)]
        none = [jax.grad(lambda d, op=op: jnp.nan_to_num(op(d, empty, 2)).sum())(nothing) for op in every]
        return *some, jax.grad(product)(factors), jax.hessian(product)(factors), none

    of_std, of_largest, of_smallest, first, second, none = gradients(
        jnp.array([2.0, 5.0, 5.0, 0.0]), jnp.array([0.0, 3.0, 0.0, 0.0]), jnp.zeros((0, 2))
    )
    np.testing.assert_array_equal(of_std, [0, 0, 0, 0])
    np.testing.assert_array_equal(of_largest, [1, 0.5, 0.5, 1])
    np.testing.assert_array_equal(of_smallest, [1, 0.5, 0.5, 1])
    np.testing.assert_array_equal(first, [3, 0, 0, 0])
    np.testing.assert_array_equal(second, np.kron(np.eye(2), [[0, 1], [1, 0]]))
    assert all(nothing.shape == (0, 2) for nothing in none)


@pytest.mark.parametrize("interpolation", ["linear", "lower", "higher", "midpoint", "nearest"])
def test_quantile_interpolations(interpolation):
    for q in (0.0, 0.25, 0.6, 1.0):
        out = ops.segment_quantile(jnp.asarray(DATA), jnp.asarray(IDS), NUM, q, interpolation=interpolation)
        for s in (0, 1, 3, 4):
            expected = np.quantile(DATA[s == IDS], q, axis=0, method=interpolation)
            np.testing.assert_allclose(out[s], expected, rtol=1e-5, err_msg=f"{q} {s}")


def test_argmax_is_the_first_row():
    out = ops.segment_argmax(jnp.asarray(DATA), jnp.asarray(IDS), NUM)
    expected = np.full((NUM, 3), 10)
    for s in (0, 1, 3, 4):
        rows = np.flatnonzero(s == IDS)
        expected[s] = rows[DATA[rows].argmax(0)]
    np.testing.assert_array_equal(out, expected)


def test_integers_and_errors():
    ids = jnp.array([0, 0, 2])
    numbers = jnp.array([3, -(2**31), 5])
    np.testing.assert_array_equal(ops.segment_max(numbers, ids, 3), [3, 0, 5])
    np.testing.assert_array_equal(ops.segment_min(numbers, ids, 3), [-(2**31), 0, 5])
    np.testing.assert_array_equal(ops.segment_sum(jnp.array([True, True, False]).astype(int), ids, 3), [2, 0, 0])
    np.testing.assert_array_equal(ops.segment_count(jnp.array([0, 0, 7, -1]), 2), [2, 0])
    with pytest.raises(Exception, match=r"`segment_ids` must hold one id|rows"):
        ops.segment_sum(jnp.ones(4), ids, 3)
    with pytest.raises(ValueError, match="`num_segments` must not be negative; got -1"):
        ops.segment_count(ids, -1)
    with pytest.raises(ValueError, match=r"`q` must be in \[0, 1\]; got 1.5"):
        ops.segment_quantile(jnp.ones(3), ids, 3, 1.5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_floats_are_reduced_in_float32(dtype):
    """A sum of ones in bfloat16 stops at 256, in float16 at 2048."""
    ids, ones = jnp.zeros(5000, jnp.int32), jnp.ones((5000, 1), dtype)
    exact = {"sum": 5000, "mean": 1, "logsumexp": 1 + np.log(5000), "var": 0, "std": 0, "max": 1, "min": 1, "mul": 1}
    for name, want in exact.items():
        got = getattr(ops, f"segment_{name}")(ones, ids, 1)
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(jnp.float32), [[want]], rtol=5e-3)
    weights = ops.segment_softmax(logits=ones, segment_ids=ids, num_segments=1)
    np.testing.assert_allclose(weights.astype(jnp.float32).sum(), 1, rtol=5e-3)
    halves = jnp.asarray(np.arange(1000)[:, None] >= 501, dtype)
    assert ops.segment_median(halves, jnp.zeros(1000, jnp.int32), 1).item() == 0
    shares = jax.grad(lambda x: ops.segment_max(x, ids, 1).sum())(ones)
    np.testing.assert_allclose(shares.astype(jnp.float32).sum(), 1, rtol=5e-3)


def test_what_is_no_number_stays_visible():
    data, ids = jnp.asarray([[jnp.nan], [1.0], [2.0]]), jnp.asarray([0, 0, 1])
    for name in ("std", "logsumexp", "sum", "mean", "var"):
        got = getattr(ops, f"segment_{name}")(data, ids, 2)
        assert jnp.isnan(got[0, 0]) and jnp.isfinite(got[1, 0]), name
    assert jnp.isnan(ops.segment_log_softmax(data, ids, 2)[0, 0])
