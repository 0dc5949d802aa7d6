"""The nonlinear neurons: their patterns, their integrators, and steps at which other libraries overflow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_dynamics.spiking as sp
from eqx_dynamics import Recorded, scan


def _count(cell: Any, current: float, milliseconds: float) -> float:
    xs = jnp.full((round(milliseconds / cell.dt), 1), current)
    return float(jax.jit(lambda xs: scan(cell, xs, cell.init_state())[0].sum())(xs))


def _record(cell: Any, xs: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    (spikes, states), _ = jax.jit(lambda xs: scan(Recorded(cell), xs, cell.init_state()))(xs)
    return np.asarray(spikes[:, 0]), np.asarray(states.membrane[:, 0])


@pytest.mark.parametrize(
    ("make", "current"),
    [
        (lambda dt: sp.ExpIFCell(1, dt=dt), 30.0),
        (lambda dt: sp.QIFCell(1, dt=dt), 30.0),
        (lambda dt: sp.AdExCell(1, dt=dt), 60.0),
        (lambda dt: sp.IzhikevichCell(1, dt=dt), 14.0),
        (lambda dt: sp.GIFCell(1, dt=dt), 2.0),
    ],
    ids=["ExpIF", "QIF", "AdEx", "Izhikevich", "GIF"],
)
def test_a_step_of_a_millisecond_is_finite_and_near_the_fine_solution(make: Any, current: float) -> None:
    coarse, fine = _count(make(1.0), current, 500.0), _count(make(0.05), current, 500.0)
    assert fine >= 3
    assert abs(coarse - fine) <= max(2, 0.25 * fine)
    cell = make(1.0)

    @jax.jit
    def gradient(xs: jax.Array) -> jax.Array:
        return jax.grad(lambda xs: scan(cell, xs, cell.init_state())[0].sum())(xs)

    far = jnp.concatenate([jnp.full((60, 1), current), jnp.full((20, 1), 1e4), jnp.full((20, 1), -1e4)])
    assert np.isfinite(gradient(far)).all()


def test_the_cap_of_the_upstroke_is_finite_where_brainstate_overflows() -> None:
    state = sp.MembraneOnlyState(jnp.array([-45.0, 0.0, 40.0]))
    cell = sp.ExpIFCell(3, dt=1.0)
    spikes, new = cell(jnp.full(3, 500.0), state)
    np.testing.assert_array_equal(spikes, 1.0)
    np.testing.assert_array_equal(new.membrane, -68.0)


def test_runge_kutta_is_of_fourth_order_and_exponential_euler_exact_for_leaks() -> None:
    def leak(y: jax.Array) -> jax.Array:
        return -y / 10 + 0.3

    start, exact = jnp.array(1.0), 3 + (1 - 3) * np.exp(-0.4)
    np.testing.assert_allclose(sp.ExponentialEuler().advance(leak, start, 4.0), exact, rtol=1e-6)

    def error(integrator: sp.AbstractIntegrator) -> float:
        with jax.enable_x64(True):
            y = jnp.array([1.0, 0.0])
            turned = integrator.advance(lambda y: jnp.stack([-y[1], y[0]]), y, 1.0)
            return float(np.abs(np.asarray(turned) - [np.cos(1), np.sin(1)]).max())

    assert 14 < error(sp.RungeKutta4(substeps=8)) / error(sp.RungeKutta4(substeps=16)) < 18
    assert 1.7 < error(sp.ForwardEuler(substeps=20)) / error(sp.ForwardEuler(substeps=40)) < 2.3


def test_hodgkin_huxley_at_rest_and_firing() -> None:
    cell = sp.HodgkinHuxleyCell(2)
    # The second neuron is driven: 10 uA/cm2 makes the 1952 axon fire at about 68 Hz.
    driven = jnp.tile(jnp.array([[0.0, 10.0]]), (10_000, 1))
    (spikes, states), _ = jax.jit(lambda xs: scan(Recorded(cell), xs, cell.init_state()))(driven)
    assert np.abs(states.membrane[:, 0] + 65.0).max() < 0.3
    assert float(spikes[:, 0].sum()) == 0 and int(spikes[:, 1].sum()) in range(32, 38)
    membrane = states.membrane[:, 1]
    assert 25 < membrane.max() < 50 and -80 < membrane.min() < -70
    # Gates stay fractions at any step.
    state = cell.init_state()
    _, new = sp.HodgkinHuxleyCell(2, dt=5.0)(jnp.full(2, 10.0), state)
    assert all(0 <= float(gate[0]) <= 1 for gate in (new.h, new.m, new.n))


def test_morris_lecar_and_fitzhugh_nagumo_oscillate_only_when_driven() -> None:
    for cell, weak, strong in ((sp.MorrisLecarCell(1), 20.0, 100.0), (sp.FitzHughNagumoCell(1), 0.0, 0.5)):
        assert _count(cell, weak, 400.0) == 0
        assert _count(cell, strong, 400.0) >= 2


def test_twenty_presets_and_four_of_their_patterns() -> None:
    assert len(sp.IZHIKEVICH_PRESETS) == 20

    def intervals(name: str, milliseconds: float = 400.0) -> np.ndarray:
        preset = sp.IZHIKEVICH_PRESETS[name]
        cell = sp.IzhikevichCell.preset(name, 1)
        spikes, _ = _record(cell, jnp.full((round(milliseconds / cell.dt), 1), preset.input))
        return cell.dt * np.diff(np.nonzero(spikes)[0])

    tonic = intervals("tonic_spiking")
    assert len(tonic) > 5 and np.ptp(tonic[2:]) < 0.1 * tonic.mean()
    assert len(intervals("phasic_spiking")) == 0
    bursting = intervals("tonic_bursting")
    assert bursting.max() > 4 * bursting.min()
    adapting = intervals("spike_frequency_adaptation")
    assert adapting[-1] > 1.5 * adapting[0]
    with pytest.raises(ValueError, match=r"`name` must be one of .*tonic_bursting"):
        sp.IzhikevichCell.preset("chattering", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(sp.IZHIKEVICH_PRESETS))
def test_every_preset_follows_its_published_program(name: str) -> None:
    """Against Izhikevich's forward Euler with the same constants, spike for spike at a fine step."""
    p, dt = sp.IZHIKEVICH_PRESETS[name], 0.02
    cell = sp.IzhikevichCell.preset(name, 1, dt=dt)
    onset = round(20 / dt)
    pulse = p.input * (np.arange(round(150 / dt)) >= onset)
    if p.stimulus == "ramp":
        pulse = p.input * np.clip((np.arange(len(pulse)) - onset) / (len(pulse) - onset), 0, 1)
    if name.startswith("inhibition"):
        pulse = np.where(np.arange(len(pulse)) >= onset, 75.0, 80.0)
    spikes, membrane = _record(cell, jnp.asarray(pulse[:, None].astype(np.float32)))
    v, u, expected = p.initial_membrane, p.initial_recovery, []
    for step, current in enumerate(pulse):
        dv = 0.04 * v * v + p.linear * v + p.constant - u + current
        v, u = v + dt * dv, u + dt * p.a * (p.b * (v - p.recovery_offset) - u)
        if v >= 30:
            v, u = p.c, u + p.d
            expected.append(step)
    got = np.nonzero(spikes)[0]
    assert np.isfinite(membrane).all()
    assert abs(len(got) - len(expected)) <= max(1, 0.1 * len(expected))
    if expected:
        assert abs(got[0] - expected[0]) * dt < 2.0


def test_gif_in_brainstates_order() -> None:
    """Currents first, the membrane they drive last; the threshold sees the membrane of before (brainpy.state 0.1.0)."""
    reset = sp.ValueReset(-70.0, timing="before_decay", detach=False)
    order = sp.ExponentialEuler(sequential=True)
    cell = sp.GIFCell(1, a=0.005, fast_jump=0.5, slow_jump=-0.3, fast_kept=0.1, reset=reset, integrator=order, dt=1.0)
    v, fast, slow, theta, expected = -70.0, 0.0, 0.0, -50.0, []
    for _ in range(60):
        if v >= theta:
            v, fast, slow, theta = -70.0, 0.1 * fast + 0.5, slow - 0.3, max(-60.0, theta)
        fast, slow, before = fast * np.exp(-0.2), slow * np.exp(-0.02), v
        v = -70 + 20 * (fast + slow + 2.0) + (v + 70 - 20 * (fast + slow + 2.0)) * np.exp(-1 / 20)
        towards = -50 + 0.005 / 0.01 * (before + 70)
        theta = towards + (theta - towards) * np.exp(-0.01)
        expected.append(v)
    spikes, membrane = _record(cell, jnp.full((60, 1), 2.0))
    assert spikes.sum() >= 2
    np.testing.assert_allclose(membrane, expected, rtol=1e-5)


def test_resonator_prefers_its_frequency() -> None:
    cell = sp.ResonateAndFireCell(1, tau_mem=50.0, frequency=40.0, threshold=1.0)
    steps = np.arange(400)

    def spikes(frequency: float) -> float:
        xs = jnp.asarray(0.1 * np.cos(2 * np.pi * frequency * steps / 1000)[:, None].astype(np.float32))
        return _record(cell, xs)[0].sum()

    assert spikes(40.0) > 0
    assert spikes(15.0) == spikes(90.0) == 0
    with pytest.raises(ValueError, match="`frequency` must be at most 500 Hz"):
        sp.ResonateAndFireCell(1, frequency=600.0)


def test_conductances_pull_towards_their_reversal_potentials() -> None:
    cell = sp.CobaLIFCell(1, threshold=100.0)
    _, up = _record(cell, jnp.full((3000, 1), 5.0))
    _, down = _record(cell, jnp.full((3000, 1), -5.0))
    assert -1.0 < up[-1] < 0.0 and -80.0 < down[-1] < -79.0


def test_a_step_too_long_for_an_explicit_scheme_is_an_error_at_run_time() -> None:
    cell = sp.HodgkinHuxleyCell(1, integrator=sp.RungeKutta4(), dt=0.5)
    with pytest.raises(RuntimeError, match="`dt` is too long for RungeKutta4: a variable overflowed"):
        eqx.filter_jit(lambda xs: scan(cell, xs, cell.init_state()))(jnp.full((30, 1), 50.0))


@pytest.mark.slow
def test_far_from_any_potential_the_conductances_stay_finite(light_compilation: None) -> None:
    for cell, current in ((sp.HodgkinHuxleyCell(1, dt=1.0), 1e3), (sp.MorrisLecarCell(1, dt=1.0), 1e4)):
        xs = current * jnp.sign(jnp.sin(jnp.arange(80.0) / 6))[:, None]

        def last(xs: jax.Array, cell: Any = cell) -> jax.Array:
            return scan(cell, xs, cell.init_state())[1].membrane.sum()

        value, slope = jax.jit(jax.value_and_grad(last))(xs)
        assert np.isfinite(value) and np.isfinite(slope).all()


def test_a_membrane_compared_twice_takes_no_surrogate_that_draws() -> None:
    for cell in (sp.AlphaCell, sp.HodgkinHuxleyCell):
        with pytest.raises(ValueError, match=f"`surrogate` of {cell.__name__} must not draw its spikes"):
            cell(2, surrogate=sp.Stochastic())


def test_bad_constants_are_named() -> None:
    with pytest.raises(ValueError, match="`tau_mem` must be above 0"):
        sp.ExpIFCell(2, tau_mem=-1.0)
    with pytest.raises(ValueError, match=r"`threshold` must be above `reset.value`"):
        sp.AdExCell(2, threshold=-70.0)
    with pytest.raises(ValueError, match="`capacitance` must be above 0"):
        sp.HodgkinHuxleyCell(2, capacitance=0.0)
    with pytest.raises(ValueError, match="`tau_slow` must be above `tau_fast`"):
        sp.AlphaCell(2, 5.0, 5.0)
    with pytest.raises(ValueError, match="`substeps` must be at least 1"):
        sp.RungeKutta4(substeps=0)
    with pytest.raises(ValueError, match="`dt` must be at most 1 times `tau_mem` with ForwardEuler"):
        sp.ExpIFCell(2, tau_mem=2.0, integrator=sp.ForwardEuler(), dt=3.0)
    assert sp.ExpIFCell(2, tau_mem=2.0, integrator=sp.ForwardEuler(substeps=2), dt=3.0).dt == 3.0
    with pytest.raises(ValueError, match="`tau_syn` must be above 0"):
        sp.AdExCell(2, synapse=sp.SynapticCurrent(0.0))
    with pytest.raises(ValueError, match=r"`dt` must be at most 2.785 times `1 / fast_rate` with RungeKutta4"):
        sp.GIFCell(2, integrator=sp.RungeKutta4(), dt=15.0)
    with pytest.raises(ValueError, match="`dt` must be at most 1 times `capacitance / g_leak` with ForwardEuler"):
        sp.CobaLIFCell(2, integrator=sp.ForwardEuler(), dt=25.0)
    with pytest.raises(ValueError, match="`dt` must be at most 2; got 3"):
        sp.FitzHughNagumoCell(2, dt=3.0)
    with pytest.raises(ValueError, match="`dt` must be below inf ms"):
        sp.HodgkinHuxleyCell(2, dt=float("inf"))
    with pytest.raises(ValueError, match=r"`dt` must be at most half of `capacitance .* got dt=5 ms"):
        sp.MorrisLecarCell(2, dt=5.0)
    with pytest.raises(ValueError, match="`g_sodium` must be at least 0; got -1"):
        sp.HodgkinHuxleyCell(2, g_sodium=-1.0)
    with pytest.raises(ValueError, match="`v2` must be above 0"):
        sp.MorrisLecarCell(2, v2=0.0)
    with pytest.raises(ValueError, match=r"`threshold` must not be below `reset.value`"):
        sp.ResonateAndFireCell(2, reset=sp.ValueReset(2.0))
    for cell in (sp.HodgkinHuxleyCell, sp.FitzHughNagumoCell, sp.AlphaCell, sp.LICell):
        with pytest.raises(ValueError, match="`size` must be positive; got 0"):
            cell(0)
    with pytest.raises(ValueError, match="`a` must be one number or broadcast"):
        sp.IzhikevichCell(2, a=jnp.ones(3))


def test_every_spiking_cell_may_be_recurrent(getkey):
    cell, feedback = sp.AlphaCell(3), jr.normal(getkey(), (3, 3))
    layer = sp.Recurrent(cell, lambda spikes: spikes @ feedback)
    xs = jr.uniform(getkey(), (12, 2, 3))
    got, _ = scan(layer, xs, layer.init_state((2,)))
    state, spikes, want = cell.init_state((2,)), jnp.zeros((2, 3)), []
    for x in xs:
        spikes, state = cell(x + spikes @ feedback, state)
        want.append(spikes)
    np.testing.assert_array_equal(got, jnp.stack(want))
    assert got.any()
