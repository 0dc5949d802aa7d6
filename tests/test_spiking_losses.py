"""Decoders and losses of spike trains: closed forms, gradients, and what is refused."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import eqx_dynamics.spiking as sp
from eqx_dynamics import scan


pytestmark = pytest.mark.usefixtures("light_compilation")

# (time, batch, classes): neuron 0 of sample 0 fires in steps 1 and 3, neuron 1 of it never; ...
SPIKES = jnp.asarray(
    [[[0, 0], [1, 0]], [[1, 0], [0, 1]], [[0, 0], [0, 1]], [[1, 0], [0, 1]]],
    dtype=jnp.float32,
)
LABELS = jnp.asarray([0, 1])


def _impulses(steps: list[int], num_steps: int = 40) -> jax.Array:
    return jnp.zeros((num_steps, 1)).at[jnp.asarray(steps, dtype=jnp.int32)].set(1.0)


def test_decoders():
    assert sp.spike_count(SPIKES).tolist() == [[2, 0], [1, 3]]
    np.testing.assert_allclose(sp.spike_rate(SPIKES, dt=2.0), [[250.0, 0], [125.0, 375.0]])
    assert sp.first_spike_time(SPIKES).tolist() == [[1, 3], [0, 1]]
    assert sp.first_spike_time(SPIKES > 0).tolist() == [[1, 3], [0, 1]]
    assert sp.max_membrane(SPIKES * -2.0 + 1.0).tolist() == [[1, 1], [1, 1]]
    assert float(sp.accuracy(sp.spike_count(SPIKES), LABELS)) == 1.0
    assert float(sp.accuracy(-sp.first_spike_time(SPIKES), LABELS)) == 0.5


def test_trace_is_the_impulse_response():
    trace = sp.exponential_trace(_impulses([2]), 5.0, dt=0.5)[:, 0]
    expected = np.where(np.arange(40) >= 2, np.exp(-0.1 * (np.arange(40) - 2)), 0)
    np.testing.assert_allclose(trace, expected, rtol=1e-5)
    per_neuron = sp.exponential_trace(jnp.ones((3, 2, 2)), jnp.asarray([1.0, 1e9]))
    np.testing.assert_allclose(per_neuron[-1, 0], [1 + math.exp(-1) + math.exp(-2), 3.0], rtol=1e-6)


def test_van_rossum_closed_forms():
    """One spike more counts 1/2 even in the last step; a shift by d costs 1 - exp(-d / tau) for any step length."""
    empty = jnp.zeros((40, 1))
    for step in (0, 39):
        np.testing.assert_allclose(sp.van_rossum(_impulses([step]), empty, tau=7.0, dt=0.5), 0.5, rtol=1e-5)
    distance = sp.van_rossum(_impulses([10]), _impulses([16]), tau=7.0, dt=0.5)
    np.testing.assert_allclose(distance, 1 - math.exp(-3.0 / 7.0), rtol=1e-5)
    assert float(sp.van_rossum(_impulses([3]), _impulses([3]))) == 0.0
    with jax.enable_x64(True):
        trains = jnp.asarray(np.random.default_rng(0).random((6, 2, 3)))
        check_grads(jax.jit(lambda s: sp.van_rossum(s, trains[::-1], tau=3.0)), (trains,), order=1)


def test_losses_by_hand():
    def ce(z, y):
        return math.log(sum(math.exp(v - z[y]) for v in z))

    count = (ce((2, 0), 0) + ce((1, 3), 1)) / 2
    np.testing.assert_allclose(sp.ce_count(SPIKES, LABELS), count, rtol=1e-6)
    by_step = [ce(SPIKES[t, b].tolist(), b) for t in range(4) for b in range(2)]
    np.testing.assert_allclose(sp.ce_rate(SPIKES, LABELS), np.mean(by_step), rtol=1e-6)
    np.testing.assert_allclose(sp.ce_max_membrane(SPIKES, LABELS), (ce((1, 0), 0) + ce((1, 1), 1)) / 2, rtol=1e-6)
    earliest = (ce((-0.5, -1.5), 0) + ce((0, -0.5), 1)) / 2
    np.testing.assert_allclose(sp.ce_first_spike(SPIKES, LABELS, temperature=2.0), earliest, rtol=1e-6)
    smooth = 0.8 * ce((2, 0), 0) + 0.1 * (ce((2, 0), 0) + ce((2, 0), 1))
    np.testing.assert_allclose(sp.ce_count(SPIKES[:, :1], LABELS[:1], smoothing=0.2), smooth, rtol=1e-6)
    rates = np.array([[0.5, 0], [0.25, 0.75]]) - np.array([[0.9, 0.1], [0.1, 0.9]])
    np.testing.assert_allclose(sp.mse_rate(SPIKES, LABELS, correct=0.9, incorrect=0.1), (rates**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        sp.mse_count(SPIKES, LABELS, correct=0.9, incorrect=0.1), 4 * (rates**2).mean(), rtol=1e-5
    )
    errors = np.asarray(SPIKES) - np.eye(2)[None]
    np.testing.assert_allclose(sp.mse_membrane(SPIKES, LABELS), (errors**2).mean(), rtol=1e-6)
    late = np.array([[1 - 0, 3 - 3], [0 - 3, 1 - 0]]) / 4
    np.testing.assert_allclose(sp.mse_first_spike(SPIKES, LABELS), (late**2).mean(), rtol=1e-6)


def test_no_batch_and_many_axes():
    assert sp.ce_count(SPIKES[:, 0], LABELS[0]).shape == ()
    spikes, labels = SPIKES[:, None].repeat(3, 1), jnp.tile(LABELS[None], (3, 1))
    np.testing.assert_allclose(sp.ce_rate(spikes, labels), sp.ce_rate(SPIKES, LABELS), rtol=1e-6)
    assert float(sp.mse_count(SPIKES > 0, LABELS)) == float(sp.mse_count(SPIKES, LABELS))


def test_first_spike_gradient():
    """-1 at the first spike and nowhere else; a silent neuron learns from the last step; forward mode agrees."""
    weights = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    gradient = jax.grad(lambda s: jnp.sum(weights * sp.first_spike_time(s)))(SPIKES)
    expected = np.zeros((4, 2, 2))
    expected[1, 0, 0], expected[3, 0, 1], expected[0, 1, 0], expected[1, 1, 1] = -1, -2, -3, -4
    np.testing.assert_array_equal(gradient, expected)
    tangent = jax.jvp(sp.first_spike_time, (SPIKES,), (jnp.ones_like(SPIKES),))[1]
    np.testing.assert_array_equal(tangent, -np.ones((2, 2)))
    squares = lambda s: jnp.sum(sp.first_spike_time(s) ** 2)  # noqa: E731
    second = jax.jvp(jax.grad(squares), (SPIKES,), (jnp.ones_like(SPIKES),))[1]
    np.testing.assert_array_equal(second, 2 * (jax.grad(lambda s: -jnp.sum(sp.first_spike_time(s)))(SPIKES)))


def test_a_later_target_delays_the_spike():
    """A LIF neuron is trained to fire in step 12 by the gradient of the time alone."""
    cell = sp.LIFCell(1, 10.0)

    def loss(current):
        spikes, _ = scan(cell, jnp.broadcast_to(current, (30, 1)), cell.init_state())
        return jnp.sum((sp.first_spike_time(spikes) - 12) ** 2)

    def descend(current, _):
        return current - 1e-3 * jnp.sign(jax.grad(loss)(current)), loss(current)

    current, losses = jax.jit(lambda c: jax.lax.scan(descend, c, length=300))(jnp.asarray([1.7]))
    assert losses[0] > 4
    assert float(loss(current)) == 0.0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: sp.ce_count(SPIKES, jnp.asarray([0, 1, 1])),
            "`labels` must.* batch axes of `spikes`.*time first",
        ),
        (lambda: sp.mse_membrane(SPIKES, jnp.asarray(0)), "`labels` must have the batch axes of `membranes`"),
        (lambda: sp.ce_count(SPIKES[:0], LABELS), "`spikes` must have at least one time step"),
        (lambda: sp.max_membrane(SPIKES[:0]), "`membranes` must have at least one time step"),
        (
            lambda: sp.cross_entropy(SPIKES[0], LABELS, smoothing=1.0),
            "`smoothing` must be at least 0 and below 1; got",
        ),
        (lambda: sp.cross_entropy(SPIKES[0], jnp.asarray([0, 1, 1])), "`labels` must have the batch axes"),
        (lambda: sp.accuracy(SPIKES[0], jnp.asarray([0])), "`labels` must have the batch axes"),
        (lambda: sp.ce_first_spike(SPIKES, LABELS, temperature=0.0), "`temperature` must be above 0 steps; got 0"),
        (lambda: sp.spike_rate(SPIKES, dt=0.0), "`dt` must be above 0 ms"),
        (lambda: sp.exponential_trace(SPIKES, -1.0), "`tau` must be above 0 ms; got -1"),
        (lambda: sp.van_rossum(SPIKES, SPIKES[:2]), "`targets` must have the shape"),
    ],
)
def test_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_that_is_no_class(label):
    with pytest.raises(eqx.EquinoxRuntimeError, match="`labels` must be classes from 0 to 1"):
        eqx.filter_jit(sp.ce_count)(SPIKES, jnp.asarray([0, label]))
