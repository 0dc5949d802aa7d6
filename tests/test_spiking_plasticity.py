"""Spike-timing-dependent plasticity against its window, a loop over all pairs, and delayed reward."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqx_dynamics.spiking as sp
from eqx_dynamics import scan


pytestmark = pytest.mark.usefixtures("light_compilation")
RNG = np.random.default_rng(0)
WEIGHT = jnp.asarray(RNG.uniform(0.4, 0.6, (2, 3)).astype(np.float32))
PRE = (RNG.random((15, 4, 3)) < 0.3).astype(np.float32)
POST = (RNG.random((15, 4, 2)) < 0.3).astype(np.float32)
RATES: dict[str, Any] = {"rate_plus": 0.01, "rate_minus": 0.012, "tau_plus": 15.0, "tau_minus": 30.0}


def _run(rule, *spikes):
    xs = tuple(jnp.asarray(s) for s in spikes)
    return scan(rule, xs, rule.init_state(xs[0].shape[1:-1]))


def _all_pairs(dt: float, sample: int) -> np.ndarray:
    """What every pair of spikes of one sample adds up to."""
    total = np.zeros((2, 3))
    for t_post, i in np.argwhere(POST[:, sample]):
        for t_pre, j in np.argwhere(PRE[:, sample]):
            delay = (t_post - t_pre) * dt
            total[i, j] += 0.01 * math.exp(-delay / 15) if delay >= 0 else 0
            total[i, j] -= 0.012 * math.exp(delay / 30) if delay <= 0 else 0
    return total


def test_the_window():
    """A receiver 3 steps after its sender: + A exp(-6 / tau); 3 steps before: - A exp(-6 / tau)."""
    first, later = np.zeros((5, 1)), np.zeros((5, 1))
    first[0], later[3] = 1, 1
    rule = sp.PairSTDP(jnp.asarray([[0.5]]), dt=2.0, **RATES)
    np.testing.assert_allclose(_run(rule, first, later)[0][-1, 0, 0] - 0.5, 0.01 * math.exp(-6 / 15), rtol=1e-4)
    np.testing.assert_allclose(_run(rule, later, first)[0][-1, 0, 0] - 0.5, -0.012 * math.exp(-6 / 30), rtol=1e-4)


def test_all_pairs_summed_over_the_batch():
    rule = sp.PairSTDP(WEIGHT, bounds=sp.HardBounds(-10.0, 10.0), dt=0.5, **RATES)
    weights, state = eqx.filter_jit(_run)(rule, PRE, POST)
    expected = sum(_all_pairs(0.5, sample) for sample in range(4))
    np.testing.assert_allclose(weights[-1] - WEIGHT, expected, atol=1e-5)
    np.testing.assert_array_equal(weights[-1], state.weight)


def test_bounds():
    """Soft bounds scale by the distance, hard ones clip; weights at a bound have finite gradients."""
    soft = sp.SoftBounds(0.0, 1.0, 0.5)
    np.testing.assert_allclose(soft.potentiation(WEIGHT), np.sqrt(1 - np.asarray(WEIGHT)), rtol=1e-6)
    np.testing.assert_allclose(soft.depression(WEIGHT), np.sqrt(np.asarray(WEIGHT)), rtol=1e-6)
    edge = jnp.asarray([[0.0, 1.0]])
    assert np.all(np.isfinite(jax.grad(lambda w: jnp.sum(soft.depression(w) + soft.potentiation(w)))(edge)))
    for bounds in (sp.HardBounds(0.3, 0.7), sp.SoftBounds(0.3, 0.7)):
        rule = sp.PairSTDP(WEIGHT, bounds=bounds, rate_plus=2.0, rate_minus=1.0)
        weights, _ = _run(rule, PRE, POST)
        assert float(weights.min()) >= np.float32(0.3) and float(weights.max()) <= np.float32(0.7)
        assert float(jnp.max(jnp.abs(weights[-1] - WEIGHT))) > 0.05


def test_delayed_reward():
    """A pair of 2 ms, reward 5 ms later: R A exp(-2 / tau) exp(-5 / tau_e); none without reward."""
    pre, post, reward = np.zeros((9, 1)), np.zeros((9, 1)), np.zeros(9)
    pre[0], post[2], reward[7] = 1, 1, 3
    rule = sp.RewardSTDP(sp.PairSTDP(jnp.asarray([[0.5]]), **RATES), 20.0)
    weights, _ = _run(rule, pre, post, reward.astype(np.float32))
    np.testing.assert_array_equal(weights[:7], np.full((7, 1, 1), np.float32(0.5)))
    expected = 3 * 0.01 * math.exp(-2 / 15) * math.exp(-5 / 20)
    np.testing.assert_allclose(weights[-1, 0, 0] - 0.5, expected, rtol=1e-4)


def test_reward_of_each_sample_counts_for_its_own_pairs():
    """With one sample rewarded at the end and no forgetting, its pairs alone change the weight."""
    reward = np.zeros((15, 4), np.float32)
    reward[-1, 2] = 2.0
    pair = sp.PairSTDP(WEIGHT, bounds=sp.HardBounds(-10.0, 10.0), dt=0.5, **RATES)
    weights, _ = _run(sp.RewardSTDP(pair, 1e9), PRE, POST, reward)
    np.testing.assert_allclose(weights[-1] - WEIGHT, 2 * _all_pairs(0.5, 2), atol=1e-5)


def _step(rule, *x):
    return rule(tuple(jnp.asarray(part) for part in x), rule.init_state((4,)))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sp.PairSTDP(WEIGHT, tau_plus=0.0), "`tau_plus` must be above 0 ms; got 0"),
        (lambda: sp.PairSTDP(WEIGHT, rate_minus=-1.0), "`rate_minus` must not be negative; got -1"),
        (lambda: sp.PairSTDP(WEIGHT, dt=0.0), "`dt` must be above 0 ms"),
        (lambda: sp.PairSTDP(WEIGHT, bounds=sp.HardBounds(1.0, 0.0)), "`bounds` must have `lower` below `upper`"),
        (lambda: sp.PairSTDP.like_norse(WEIGHT, dt=100.0), "`dt` must be at most `tau_plus`"),
        (lambda: sp.RewardSTDP(sp.PairSTDP(WEIGHT), -1.0), "`tau_eligibility` must be above 0 ms; got -1"),
        (lambda: _step(sp.PairSTDP(WEIGHT), POST[0], PRE[0]), r"`pre` spikes must have the shape \(4, 3\)"),
        (lambda: _step(sp.PairSTDP(WEIGHT), PRE[0], POST[0, 0]), r"`post` spikes must have the shape \(4, 2\)"),
        (
            lambda: _step(sp.RewardSTDP(sp.PairSTDP(WEIGHT)), PRE[0], POST[0], 1.0),
            "`reward` must be one number a sample",
        ),
    ],
)
def test_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_weights_outside_their_bounds_are_clipped():
    weights, _ = _run(sp.PairSTDP(WEIGHT + 1), np.zeros((1, 4, 3)), np.zeros((1, 4, 2)))
    np.testing.assert_array_equal(weights[0], np.ones((2, 3)))
