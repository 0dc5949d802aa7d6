"""The leaky neuron against closed forms, its options, and what it refuses."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqx_dynamics.spiking as sp
from eqx_dynamics import Recorded, scan


def _run(cell: Any, xs: jax.Array) -> tuple[np.ndarray, Any]:
    (out, states), _ = jax.jit(lambda xs: scan(Recorded(cell), xs, cell.init_state(xs.shape[1:-1])))(xs)
    return np.asarray(out), states


def test_impulse_response_of_the_readout() -> None:
    cell = sp.LICell(2, 8.0, input_gain=sp.ConstantGain(), dt=0.5)
    out, _ = _run(cell, jnp.zeros((20, 2)).at[0].set(1.0))
    expected = np.exp(-0.5 * np.arange(20) / 8.0)
    np.testing.assert_allclose(out, np.stack([expected] * 2, 1), rtol=1e-5)


def test_constant_current_fires_with_the_period_of_the_equation() -> None:
    cell = sp.LIFCell(1, 20.0, threshold=1.0, reset=sp.ValueReset(), dt=0.01)
    spikes, _ = _run(cell, jnp.full((12_000, 1), 1.5))
    intervals = 0.01 * np.diff(np.nonzero(spikes[:, 0])[0])
    np.testing.assert_allclose(intervals, 20.0 * math.log(1.5 / 0.5), atol=0.02)


def test_a_current_based_neuron_is_a_filter_before_a_neuron() -> None:
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32))
    cell = sp.LIFCell(4, 10.0, synapse=sp.SynapticCurrent(5.0))
    filtered, _ = _run(sp.LICell(4, 5.0, input_gain=sp.ConstantGain()), xs)
    plain, _ = _run(sp.LIFCell(4, 10.0), jnp.asarray(filtered))
    np.testing.assert_array_equal(_run(cell, xs)[0], plain)


def test_no_leak_counts_its_input() -> None:
    spikes, _ = _run(sp.integrate_and_fire(1), jnp.full((100, 1), 0.25))
    assert spikes.sum() == 25


def test_a_held_membrane_waits_out_the_refractory_period() -> None:
    strong = jnp.full((40, 1), 100.0)
    for steps in (1, 4):
        cell = sp.LIFCell(1, 5.0, refractory=sp.Refractory(steps), reset=sp.ValueReset())
        spikes, states = _run(cell, strong)
        fired = np.nonzero(spikes[:, 0])[0]
        assert set(np.diff(fired)) == {steps + 1}
        np.testing.assert_array_equal(states.membrane[fired[0] : fired[1], 0], 0.0)


def test_adaptation_slows_firing() -> None:
    current = jnp.full((300, 1), 3.0)
    plain, _ = _run(sp.LIFCell(1, 10.0), current)
    for adaptation in (sp.ThresholdAdaptation(100.0, strength=0.5), sp.CurrentAdaptation(100.0, increment=0.2)):
        adapted, _ = _run(sp.LIFCell(1, 10.0, adaptation=adaptation), current)
        early, late = adapted[:100].sum(), adapted[200:].sum()
        assert late < early < plain[:100].sum()


def test_parameters_may_differ_between_neurons_and_be_learned() -> None:
    taus = [3.0, 10.0, 40.0]
    xs = jnp.asarray(np.random.default_rng(1).normal(1.5, 1.0, size=(50, 2, 3)).astype(np.float32))
    together, _ = _run(sp.LIFCell(3, jnp.array(taus)), xs)
    for i, tau in enumerate(taus):
        np.testing.assert_array_equal(together[..., i : i + 1], _run(sp.LIFCell(1, tau), xs[..., i : i + 1])[0])

    @eqx.filter_grad
    def gradients(cell: sp.LIFCell) -> jax.Array:
        return scan(cell, xs, cell.init_state((2,)))[0].sum()

    learned = sp.LIFCell(3, sp.Positive(np.array(taus)), threshold=jnp.array(1.0), rest=sp.Frozen(np.zeros(3)))
    grads = gradients(learned)
    assert grads.tau_mem.raw.shape == (3,) and np.all(np.asarray(grads.tau_mem.raw) != 0)
    assert float(grads.threshold) < 0
    np.testing.assert_array_equal(grads.rest.array, 0.0)


def test_parametrisations_keep_their_range_and_value() -> None:
    np.testing.assert_allclose(sp.Positive(7.0, lower=1.0).value(), 7.0, rtol=1e-6)
    np.testing.assert_allclose(sp.Bounded(0.3).value(), 0.3, rtol=1e-6)
    far = eqx.tree_at(lambda p: p.raw, sp.Positive(7.0, lower=1.0), jnp.array(-50.0))
    assert float(far.value()) >= 1.0
    tau = sp.tau_from_beta(jnp.array([0.5, 1.0]), 2.0)
    np.testing.assert_allclose(tau, [2 / math.log(2), math.inf], rtol=1e-6)


def test_states_stay_float32_and_spikes_keep_the_input_dtype() -> None:
    cell = sp.LIFCell(3)
    for x in (jnp.ones(3, jnp.bfloat16), jnp.ones(3, jnp.int32), jnp.ones(3, bool)):
        spikes, state = cell(x, cell.init_state())
        assert state.membrane.dtype == jnp.float32
        assert spikes.dtype == (x.dtype if x.dtype == jnp.bfloat16 else jnp.float32)


def test_no_reset_is_linear() -> None:
    xs = jnp.asarray(np.random.default_rng(2).normal(size=(25, 3)).astype(np.float32))
    cell = sp.LIFCell(3, 9.0, reset=sp.NoReset())
    np.testing.assert_allclose(_run(cell, xs)[1].membrane, _run(sp.LICell(3, 9.0), xs)[0], atol=1e-6)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "negative tau": (lambda: sp.LIFCell(3, -1.0), "`tau_mem` must be above 0 ms; got -1"),
    "zero tau": (lambda: sp.LICell(3, 0.0), "`tau_mem` must be above 0 ms; got 0"),
    "one negative tau": (lambda: sp.LIFCell(2, jnp.array([5.0, -2.0])), "`tau_mem` must be above 0 ms; got -2"),
    "NaN tau": (lambda: sp.LIFCell(3, math.nan), "`tau_mem` must be"),
    "negative tau_syn": (lambda: sp.LIFCell(3, synapse=sp.SynapticCurrent(-1.0)), "`tau_syn` must be above 0"),
    "negative dt": (lambda: sp.LIFCell(3, dt=-1.0), "`dt` must be above 0 ms; got -1"),
    "dt beyond Euler": (lambda: sp.LIFCell(3, 2.0, decay=sp.EulerDecay(), dt=3.0), "`dt` must be at most `tau_mem`"),
    "threshold below reset": (
        lambda: sp.LIFCell(3, reset=sp.ValueReset(2.0)),
        "`threshold` must be above `reset.value`",
    ),
    "threshold below rest": (lambda: sp.LIFCell(3, rest=1.5), "`threshold` must be above `rest`"),
    "threshold below base": (
        lambda: sp.LIFCell(3, reset=sp.SubtractReset(1.0)),
        "`threshold` must be above `reset.base`",
    ),
    "NaN threshold": (lambda: sp.LIFCell(3, threshold=math.nan), "`threshold` must not be NaN"),
    "per-neuron misfit": (lambda: sp.LIFCell(3, jnp.ones(4)), r"`tau_mem` must be one number or broadcast .* \(3,\)"),
    "empty size": (lambda: sp.LIFCell(0), "`size` must be positive"),
    "old spikes after reset": (lambda: sp.LIFCell(3, reset=sp.SubtractReset(emit="old")), '`emit="old"` needs'),
    "refractory and late reset": (
        lambda: sp.LIFCell(3, refractory=sp.Refractory(2), reset=sp.SubtractReset(timing="after_decay")),
        "`refractory` needs a reset `timing`",
    ),
    "no refractory steps": (lambda: sp.Refractory(0), "`steps` must be at least 1"),
    "beta of zero": (lambda: sp.LIF.like_snntorch(3, 0.0), "`beta` must be above 0"),
    "beta above one": (lambda: sp.LIF.like_spyx(3, 1.1), "`beta` must be at most 1"),
    "threshold below BrainState's reset": (
        lambda: sp.LIF.like_brainstate(3, v_reset=2.0),
        "`threshold` must be above `reset.base`",
    ),
    "no step in BrainState's": (lambda: sp.LIF.like_brainstate(3, tau_ref=2.0, dt=0.0), "`dt` must be above 0 ms"),
    "not positive": (lambda: sp.Positive(-3.0), "`initial` must be above 0"),
    "out of bounds": (lambda: sp.Bounded(1.5), "`initial` must be below 1"),
    "negative adaptation": (lambda: sp.LIFCell(3, adaptation=sp.CurrentAdaptation(-1.0)), "`tau_adapt` must be above"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_constants_are_named(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_inputs_that_do_not_fit_are_named() -> None:
    cell = sp.LIFCell(3)
    with pytest.raises(ValueError, match=r"`x` must end in the neuron axes \(3,\) of LIFCell; got shape \(2, 4\)"):
        cell(jnp.ones((2, 4)), cell.init_state((2,)))
    with pytest.raises(ValueError, match=r"`state` of LIFCell holds \(2, 3\) but `x` is \(5, 3\)"):
        cell(jnp.ones((5, 3)), cell.init_state((2,)))
    batch_first = jnp.ones((2, 30, 3))
    with pytest.raises(ValueError, match=r"put the axes of `x` in the order \(time, batch, neurons\)"):
        scan(cell, batch_first, cell.init_state((2,)))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"input_gain": sp.LeakGain(jnp.ones((5, 1)))}, "input_gain.resistance"),
        ({"adaptation": sp.ThresholdAdaptation(20.0, strength=jnp.ones((4, 5)))}, "adaptation.strength"),
        ({"reset": sp.ValueReset(jnp.zeros(4))}, "reset.value"),
    ],
)
def test_constants_of_parts_must_fit_the_neurons(part, name):
    """A column would be a constant of each sample, in a batch of as many."""
    with pytest.raises(ValueError, match=f"`{name}` must be one number or broadcast against the neurons"):
        sp.LIFCell(5, **part)
