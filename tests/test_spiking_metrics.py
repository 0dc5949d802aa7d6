"""Regularisers and metrics of spike trains on trains whose numbers are known."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_dynamics.spiking as sp


pytestmark = pytest.mark.usefixtures("light_compilation")
# (time, batch, neurons): counts 2, 0 in the first sample and 4, 1 in the second.
SPIKES = jnp.asarray([[[1, 0], [1, 0]], [[0, 0], [1, 1]], [[1, 0], [1, 0]], [[0, 0], [1, 0]]], dtype=jnp.float32)


def test_regularizers():
    np.testing.assert_allclose(sp.activity_penalty(SPIKES), 7 / 16)
    rates = np.array([3 / 4, 1 / 8]) * 500  # Hz, steps of 2 ms
    np.testing.assert_allclose(sp.rate_penalty(SPIKES, 100.0, dt=2.0), np.mean((rates / 100 - 1) ** 2), rtol=1e-6)
    np.testing.assert_allclose(sp.silence_penalty(SPIKES, 2.0), (0 + 1.5**2) / 2)
    np.testing.assert_allclose(sp.sparsity_penalty(SPIKES, 0.5), (0.5**2 / 2 + (2 - 0.5)) / 2)
    assert float(sp.silence_penalty(SPIKES > 0, 0.25)) == 0.0
    assert float(sp.sparsity_penalty(SPIKES, 2.5)) == 0.0


def test_their_gradients_push_the_right_way():
    silent = jnp.zeros((4, 2, 2))
    assert np.all(np.asarray(jax.grad(lambda s: sp.silence_penalty(s, 1.0))(silent)) < 0)
    assert np.all(np.asarray(jax.grad(lambda s: sp.rate_penalty(s, 10.0))(silent)) < 0)
    assert np.all(np.asarray(jax.grad(lambda s: sp.sparsity_penalty(s, 0.5))(SPIKES)) > 0)
    assert np.all(np.asarray(jax.grad(sp.activity_penalty)(silent)) > 0)


def test_interval_cv():
    """A clock has none, alternating intervals of 2 and 4 have 1/3, few spikes have no number, Poisson trains have 1."""
    trains = np.zeros((61, 4), np.float32)
    trains[::5, 0] = 1
    trains[np.cumsum([0] + [2, 4] * 10), 1] = 1
    trains[[3, 9], 2] = 1
    cv = sp.interval_cv(jnp.asarray(trains))
    np.testing.assert_allclose(cv[:2], [0, 1 / 3], atol=1e-6)
    assert np.all(np.isnan(cv[2:]))
    poisson = sp.rate_encode(jnp.full(8, 0.02), 20_000, key=jr.key(0))
    # A geometric distribution has a coefficient of variation of sqrt(1 - p).
    np.testing.assert_allclose(sp.interval_cv(poisson).mean(), math.sqrt(0.98), atol=0.03)


def test_synchrony():
    """1 for equal trains, 1 / sqrt(N) for independent ones, 0 for two that cancel."""
    one = sp.rate_encode(jnp.full((2, 1), 0.1), 3000, key=jr.key(0))
    np.testing.assert_allclose(sp.synchrony(jnp.tile(one, (1, 1, 5))), [1.0, 1.0], rtol=1e-4)
    many = sp.rate_encode(jnp.full(100, 0.1), 3000, key=jr.key(1))
    np.testing.assert_allclose(sp.synchrony(many, tau=2.0), 0.1, atol=0.02)
    assert np.isnan(sp.synchrony(jnp.zeros((5, 3))))


def test_synops():
    np.testing.assert_allclose(sp.synops(SPIKES, 10), [20.0, 50.0])
    np.testing.assert_allclose(sp.synops(SPIKES > 0, jnp.asarray([1.0, 3.0])), [2.0, 7.0])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sp.activity_penalty(SPIKES[:0]), "`spikes` must have at least one time step"),
        (lambda: sp.rate_penalty(SPIKES, 0.0), "`target` must be above 0 Hz; got 0"),
        (lambda: sp.silence_penalty(SPIKES, 0.0), "`minimum` must be above 0 spikes; got 0"),
        (lambda: sp.sparsity_penalty(SPIKES, -1.0), "`maximum` must not be negative; got -1"),
        (lambda: sp.interval_cv(SPIKES[:0]), "`spikes` must have at least one time step"),
        (lambda: sp.synchrony(SPIKES, tau=0.0), "`tau` must be above 0 ms; got 0"),
        (lambda: sp.synops(SPIKES, -1), "`fan_out` must not be negative; got -1"),
    ],
)
def test_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
