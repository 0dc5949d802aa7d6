"""Norms with running statistics: padding does not count, they follow torch's rule."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_graph.nn.norm import BatchNorm, InstanceNorm, RunningStatistics


RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3)).astype(np.float32)
MASK = np.array([True] * 5 + [False] * 3)


def _kept(norm: BatchNorm | InstanceNorm, state: eqx.nn.State | None) -> RunningStatistics:
    assert norm.state_index is not None and state is not None
    return state.get(norm.state_index)


def test_padding_changes_no_value_no_gradient_and_no_statistic():
    norm, state = eqx.nn.make_with_state(BatchNorm)(3)

    @eqx.filter_jit
    def run(x, mask, cotangent, state):
        def loss(x):
            y, new = norm(x, state, mask=mask)
            return jnp.sum(y * cotangent), (y, _kept(norm, new))

        (_, aux), grad = jax.value_and_grad(loss, has_aux=True)(x)
        return aux, grad

    cotangent = jnp.asarray(RNG.normal(size=X.shape), jnp.float32)
    (padded, kept), grad = run(jnp.asarray(X) * jnp.where(MASK, 1.0, 1e6)[:, None], MASK, cotangent, state)
    (real, kept_real), grad_real = run(jnp.asarray(X[:5]), None, cotangent[:5], state)
    np.testing.assert_allclose(padded[:5], real, atol=1e-5)
    np.testing.assert_array_equal(padded[5:], 0.0)
    np.testing.assert_allclose(grad[:5], grad_real, atol=1e-5)
    np.testing.assert_array_equal(grad[5:], 0.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), kept, kept_real)


def test_running_statistics_and_inference():
    norm, state = eqx.nn.make_with_state(BatchNorm)(3, momentum=0.25)
    for _ in range(2):
        _, state = norm(jnp.asarray(X), state)
    kept = _kept(norm, state)
    keep = 0.75**2
    np.testing.assert_allclose(kept.running_mean, (1 - keep) * X.mean(0), rtol=1e-5)
    np.testing.assert_allclose(kept.running_var, keep + (1 - keep) * X.var(0, ddof=1), rtol=1e-5)
    fixed = eqx.nn.inference_mode(norm)
    y, same = fixed(jnp.asarray(X), state)
    want = (X - np.asarray(kept.running_mean)) / np.sqrt(np.asarray(kept.running_var) + 1e-5)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    assert eqx.tree_equal(same, state)


def test_without_momentum_statistics_are_the_mean_of_batches():
    norm, state = eqx.nn.make_with_state(BatchNorm)(3, momentum=None)
    _, state = norm(jnp.asarray(X[:4]), state)
    _, state = norm(jnp.asarray(X[4:]), state)
    np.testing.assert_allclose(_kept(norm, state).running_mean, X.mean(0), rtol=1e-5, atol=1e-6)


def test_no_rows_leave_the_running_statistics_as_they_are():
    norm, state = eqx.nn.make_with_state(BatchNorm)(3)
    y, after = norm(jnp.zeros((0, 3)), state)
    kept = _kept(norm, after)
    assert y.shape == (0, 3)
    np.testing.assert_array_equal(kept.running_mean, 0.0)
    np.testing.assert_array_equal(kept.running_var, 1.0)
    assert kept.num_batches_tracked == 1  # as in torch


def test_padding_graphs_enter_no_running_statistics_of_instances():
    norm, state = eqx.nn.make_with_state(InstanceNorm)(3, track_running_stats=True)
    states = [jax.tree.map(lambda leaf: leaf, state) for _ in range(3)]
    ids = jnp.array([0, 0, 1, 1, 1, 2, 2, 2])
    out, after = norm(jnp.asarray(X[:5]), ids[:5], 2, state=states[0])
    padded, padded_after = norm(jnp.asarray(X), ids, 3, mask=MASK, state=states[1])
    np.testing.assert_allclose(padded[:5], out, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), _kept(norm, padded_after), _kept(norm, after)
    )
    mean = 0.1 * (X[:2].mean(0) + X[2:5].mean(0)) / 2
    np.testing.assert_allclose(_kept(norm, after).running_mean, mean, rtol=1e-5, atol=1e-7)
    _, untouched = norm(jnp.asarray(X), ids, 3, mask=np.zeros(8, bool), state=states[2])
    assert eqx.tree_equal(_kept(norm, untouched), _kept(norm, state))


def test_bad_input_is_refused_by_name():
    norm, state = eqx.nn.make_with_state(BatchNorm)(3)
    with pytest.raises(ValueError, match="`state` must be given to a BatchNorm that tracks"):
        norm(jnp.asarray(X))
    with pytest.raises(ValueError, match="`x` must have 3 features per row"):
        norm(jnp.asarray(X[:, :2]), state)
    with pytest.raises(ValueError, match="`x` must have more than one node for batch statistics; got 1"):
        norm(jnp.asarray(X[:1]), state)
    with pytest.raises(ValueError, match="`allow_single_element` needs `track_running_stats=True`"):
        BatchNorm(3, track_running_stats=False, allow_single_element=True)
    single, state = eqx.nn.make_with_state(BatchNorm)(3, allow_single_element=True)
    np.testing.assert_allclose(single(jnp.asarray(X[:1]), state)[0], X[:1] / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_masked_rows_may_hold_anything():
    norm, state = eqx.nn.make_with_state(BatchNorm)(2)
    x, mask = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32), jnp.arange(5) < 3

    def loss(x):
        return jnp.sum(norm(x, jax.tree.map(lambda leaf: leaf, state), mask=mask)[0][:3] ** 3)

    want = jax.grad(loss)(x)
    for spoiled in (jnp.inf, jnp.nan, 1e30):
        np.testing.assert_array_equal(jax.grad(loss)(x.at[3:].set(spoiled)), want)
