"""Codes of numbers as spikes: what they say can be read back, and what is refused."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_dynamics.spiking as sp


pytestmark = pytest.mark.usefixtures("light_compilation")
X = jnp.asarray([[0.0, 0.3, 0.7, 1.0]])


def test_rate_and_poisson_statistics():
    """Means within four standard errors of the probabilities; extremes exact; the same key draws the same."""
    num_steps = 4000
    spikes = sp.rate_encode(X, num_steps, key=jr.key(0), gain=0.5)
    assert spikes.shape == (num_steps, 1, 4) and set(np.unique(spikes)) == {0.0, 1.0}
    p = 0.5 * np.asarray(X)
    assert np.all(np.abs(spikes.mean(0) - p) <= 4 * np.sqrt(p * (1 - p) / num_steps))
    np.testing.assert_array_equal(spikes, sp.rate_encode(X, num_steps, key=jr.key(0), gain=0.5))
    rates = jnp.asarray([0.0, 50.0, 400.0])
    spikes = sp.poisson_encode(rates, num_steps, key=jr.key(1), dt=0.5)
    p = 1 - np.exp(-np.asarray(rates) * 0.5e-3)
    assert np.all(np.abs(spikes.mean(0) - p) <= 4 * np.sqrt(p * (1 - p) / num_steps))


def test_latency():
    log = sp.latency_encode(X, 10, tau=5.0, threshold=0.2)
    step = [round(5 * math.log(v / (v - 0.2))) for v in (0.3, 0.7, 1.0)]
    assert log.sum(0).tolist() == [[0, 1, 1, 1]]
    assert log[:, 0].argmax(0)[1:].tolist() == step
    linear = sp.latency_encode(X, 11, curve="linear", threshold=0.1, fire_below=True)
    assert linear.sum(0).tolist() == [[1, 1, 1, 1]]
    assert linear[:, 0].argmax(0).tolist() == [9, 7, 3, 0]
    fitted = sp.latency_encode(X, 10, fire_below=True)
    assert fitted[:, 0].argmax(0).tolist()[0] == 9
    assert sp.latency_encode(X, 3, tau=100.0, threshold=0.2).sum() == 0
    assert np.all(np.isfinite(jax.grad(lambda x: sp.latency_encode(x, 10).sum())(X)))


def test_delta():
    xs = jnp.asarray([[0.5], [1.5], [1.2], [0.1], [0.1]])
    assert sp.delta_encode(xs, threshold=0.3, off_spikes=True)[:, 0].tolist() == [0, 1, 0, -1, 0]
    assert sp.delta_encode(xs, threshold=0.3, initial=0.0)[:, 0].tolist() == [1, 1, 0, 0, 0]


def test_population():
    code = sp.population_encode(X, 3)
    expected = np.exp(-((np.asarray(X)[..., None] - np.array([0, 0.5, 1])) ** 2) / (2 * 0.25))
    np.testing.assert_allclose(code, expected, rtol=1e-6)
    assert code.argmax(-1).tolist() == [[0, 1, 1, 2]]
    np.testing.assert_allclose(sp.population_encode(X, 2, low=-1, high=1, width=0.1)[0, 3], [0, 1], atol=1e-6)


def test_phase_round_trip():
    x = jnp.asarray(np.random.default_rng(0).random(50).astype(np.float32))
    spikes = sp.phase_encode(x, 16, period=8)
    np.testing.assert_array_equal(spikes[:8], spikes[8:])
    decoded = sp.phase_decode(spikes, period=8)
    np.testing.assert_allclose(decoded, np.floor(np.asarray(x) * 256) / 256, rtol=1e-6)
    assert float(sp.phase_decode(sp.phase_encode(jnp.asarray(1.0), 8))) == 255 / 256


def test_rank_order():
    x = jnp.asarray([[0.2, 0.9, 0.9, 0.5], [4.0, 3.0, 2.0, 1.0]])
    assert sp.rank_order_encode(x).argmax(0).tolist() == [[3, 0, 1, 2], [0, 1, 2, 3]]
    assert sp.rank_order_encode(x, 2).sum(0).tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]


def test_constant_current_period():
    """A neuron with an exact leak fires every tau ln(I / (I - theta)) ms; below threshold never."""
    neuron = sp.LIFCell(3, 20.0, reset=sp.ValueReset(0.0), dt=0.1)
    spikes = sp.constant_current_encode(jnp.asarray([[0.9, 1.5, 4.0]]), 1000, neuron)
    assert spikes[:, 0, 0].sum() == 0
    for column, current in ((1, 1.5), (2, 4.0)):
        times = np.nonzero(np.asarray(spikes[:, 0, column]))[0]
        np.testing.assert_array_equal(np.diff(times), math.ceil(200 * math.log(current / (current - 1))))
    once = sp.first_spikes(spikes)
    assert once.sum(0).tolist() == [[0, 1, 1]]
    np.testing.assert_array_equal(sp.first_spike_time(once), sp.first_spike_time(spikes))
    assert sp.constant_current_encode(jnp.ones((2, 3)), 4).shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sp.rate_encode(X, -1, key=jr.key(0)), "`num_steps` must be at least 0; got -1"),
        (lambda: sp.poisson_encode(X, 2, key=jr.key(0), dt=0.0), "`dt` must be above 0 ms"),
        (lambda: sp.latency_encode(X, 0), "`num_steps` must be at least 1"),
        (lambda: sp.latency_encode(X, 5, threshold=0.0), "`threshold` must be above 0"),
        (lambda: sp.latency_encode(X, 5, threshold=1.0, curve="linear"), "`threshold` must be below 1"),
        (lambda: sp.latency_encode(X, 5, tau=0.0), "`tau` must be above 0 steps"),
        (lambda: sp.latency_encode(X, 5, epsilon=0.0), "`epsilon` must be above 0"),
        (lambda: sp.delta_encode(X[:0]), "`xs` must have at least one time step"),
        (lambda: sp.delta_encode(X, threshold=-1.0), "`threshold` must be above 0; got -1"),
        (lambda: sp.population_encode(X, 1), "`num_neurons` must be at least 2"),
        (lambda: sp.population_encode(X, 3, low=1.0), "`high` must be above `low`; got low=1, high=1"),
        (lambda: sp.population_encode(X, 3, width=0.0), "`width` must be above 0"),
        (lambda: sp.phase_encode(X, 8, period=25), "`period` must be from 1 to 24 phases; got 25"),
        (lambda: sp.phase_decode(X, period=3), "`spikes` must have whole periods of 3 steps; got 1 steps"),
        (lambda: sp.rank_order_encode(X, -1), "`num_steps` must be at least 0"),
        (lambda: sp.constant_current_encode(X, 3, sp.LIFCell(5)), "`x` must end in the neuron axes"),
    ],
)
def test_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: sp.rate_encode(x, 2, key=jr.key(0), gain=2.0), r"`x` times `gain` must lie in \[0, 1\]"),
        (lambda x: sp.poisson_encode(x - 0.5, 2, key=jr.key(0)), "`rates` must be at least 0 Hz"),
        (lambda x: sp.latency_encode(x + 0.1, 2, curve="linear"), "`x` must be at most 1"),
        (lambda x: sp.phase_encode(x - 0.1, 2), r"`x` must lie in \[0, 1\]"),
        (lambda x: sp.latency_encode(x / 0, 2), "`x` must not be NaN"),
        (lambda x: sp.delta_encode(x / 0), "`xs` must not be NaN"),
        (lambda x: sp.rank_order_encode(x / 0), "`x` must not be NaN"),
    ],
)
def test_refused_when_run(call, match):
    with pytest.raises(eqx.EquinoxRuntimeError, match=match):
        eqx.filter_jit(call)(X)
