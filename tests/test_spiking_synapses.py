"""Synapses against closed forms and fine integration, their gradients, and what is refused."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import eqx_dynamics.spiking as sp
from eqx_dynamics import Recorded, scan


pytestmark = pytest.mark.usefixtures("light_compilation")


def _train(steps: list[int], num_steps: int = 60) -> jax.Array:
    return jnp.zeros((num_steps, 1)).at[jnp.asarray(steps, dtype=jnp.int32)].set(1.0)


def _run(cell, xs):
    return scan(cell, xs, cell.init_state(xs.shape[1:-1]))[0]


SPIKES = jnp.asarray((np.random.default_rng(0).random((12, 2, 3)) < 0.3).astype(np.float32))
CELLS = {
    "exponential": sp.ExponentialSynapse(3, jnp.asarray([2.0, 5.0, 9.0])),
    "dual": sp.DualExponentialSynapse(3, 2.0, jnp.asarray([4.0, 5.0, 9.0])),
    "alpha": sp.AlphaSynapse(3, jnp.asarray([2.0, 5.0, 9.0])),
    "ampa": sp.KineticSynapse.ampa(3),
    "gaba_a": sp.KineticSynapse.gaba_a(3, dt=0.5),
    "nmda": sp.NMDASynapse(3),
    "stp": sp.STPSynapse(3, tau_recovery=jnp.asarray([20.0, 50.0, 90.0])),
    "std": sp.STDSynapse(3, increment=jnp.asarray([0.1, 0.5, 1.0])),
}


def test_linear_impulse_responses():
    """The exact solutions at the end of each step, whatever its length."""
    time = 0.5 * np.arange(-3, 57)
    after = time >= 0
    xs = _train([3])
    g = _run(sp.ExponentialSynapse(1, 6.0, dt=0.5), xs)[:, 0]
    np.testing.assert_allclose(g, np.where(after, np.exp(-time / 6), 0), rtol=1e-5)
    g = _run(sp.AlphaSynapse(1, 6.0, dt=0.5), xs)[:, 0]
    np.testing.assert_allclose(g, np.where(after, time / 6 * np.exp(-time / 6), 0), atol=1e-6)
    np.testing.assert_allclose(g.max(), math.exp(-1), rtol=1e-5)
    g = _run(sp.DualExponentialSynapse(1, 2.0, 8.0, dt=0.5), xs)[:, 0]
    peak = math.log(4) * 16 / 6
    top = math.exp(-peak / 8) - math.exp(-peak / 2)
    np.testing.assert_allclose(g, np.where(after, (np.exp(-time / 8) - np.exp(-time / 2)) / top, 0), atol=1e-6)
    plain = _run(sp.DualExponentialSynapse(1, 2.0, 8.0, dt=0.5, normalize=False), xs)[:, 0]
    np.testing.assert_allclose(plain, g * top, atol=1e-6)


def test_held_alpha_nears_the_exact_one():
    errors = []
    for dt in (1.0, 0.25):
        num_steps = round(30 / dt)
        exact = _run(sp.AlphaSynapse(1, 6.0, dt=dt), _train([0], num_steps))
        held = _run(sp.AlphaSynapse(1, 6.0, exact=False, dt=dt), _train([0], num_steps))
        errors.append(float(jnp.max(jnp.abs(held - exact))))
    assert 3 < errors[0] / errors[1] < 5


def test_kinetics_against_fine_integration():
    """One step of 1 ms is twenty of 0.05 ms: exact for constant transmitter; NMDA's second equation to first order."""
    coarse = _run(sp.KineticSynapse(1, alpha=0.9, beta=0.2, concentration=0.5, duration=3.0), _train([0, 10], 20))
    fine = sp.KineticSynapse(1, alpha=0.9, beta=0.2, concentration=0.5, duration=3.0, dt=0.05)
    fine_g = _run(fine, _train([0, 200], 400))
    np.testing.assert_allclose(coarse, fine_g[19::20], rtol=1e-4)
    exact = _run(sp.NMDASynapse(1, duration=1.0, dt=0.01), _train([0], 1000))
    errors = []
    for every in (10, 5):
        coarse = _run(sp.NMDASynapse(1, duration=1.0, dt=0.01 * every), _train([0], 1000 // every))
        errors.append(float(jnp.max(jnp.abs(coarse - exact[every - 1 :: every]))))
        assert float(coarse[-1, 0]) > 0.5
    assert 2 <= errors[0] / errors[1] < 2.5  # (10 - 1) / (5 - 1) = 2.25 for first order


def test_steady_state_of_plasticity():
    """At a constant rate release settles where loss and recovery balance."""
    increment, tau, interval = 0.4, 50.0, 10
    xs = _train(list(range(0, 400, interval)), 400)
    out = _run(sp.STDSynapse(1, increment=increment, tau=tau), xs)[:, 0][::interval]
    kept = math.exp(-interval / tau)
    np.testing.assert_allclose(out[0], 1.0)
    np.testing.assert_allclose(out[-1], (1 - kept) / (1 - (1 - increment) * kept), rtol=1e-4)
    cell = sp.STPSynapse(1, increment=increment, tau_facilitation=30.0, tau_recovery=tau)
    out = _run(cell, xs)[:, 0][::interval]
    fading = math.exp(-interval / 30)
    u = increment / (1 - (1 - increment) * fading)
    np.testing.assert_allclose(out[-1], u * (1 - kept) / (1 - (1 - u) * kept), rtol=1e-4)


def test_nothing_is_made_of_nothing():
    """What is released is what is lost: resources in = out + left, with recovery switched off."""
    xs = _train([0, 1, 2, 5], 8)
    for jumps in ("after_decay", "before_decay"):
        cell = sp.STPSynapse(1, increment=0.5, tau_recovery=1e9, jumps=jumps)
        out, state = scan(cell, xs, cell.init_state())
        np.testing.assert_allclose(out.sum() + state.resources[0], 1.0, rtol=1e-5)


def test_outputs():
    g, v = jnp.asarray([1.0, 2.0]), jnp.asarray([-65.0, 0.0])
    np.testing.assert_allclose(sp.ReversalOutput(-80.0)(g, v), [-15.0, -160.0])
    np.testing.assert_allclose(sp.MagnesiumBlock(0.0, 0.0)(g, v), [65.0, 0.0])
    blocked = 65 / (1 + 1.2 / 3.57 * math.exp(0.062 * 65))
    np.testing.assert_allclose(sp.MagnesiumBlock()(g, v), [blocked, 0.0], rtol=1e-6)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_scan_is_the_step_loop_and_batches_are_independent(cell):
    ys, state = scan(Recorded(cell), SPIKES, cell.init_state((2,)))
    one = cell.init_state()
    for t in range(4):
        y, one = cell(SPIKES[t, 1], one)
        np.testing.assert_allclose(ys[0][t, 1], y, rtol=1e-6)
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(jnp.all(jnp.isfinite(leaf))), (ys, state)))


@pytest.mark.parametrize("name", ["exponential", "dual", "alpha", "stp"])
def test_gradients(name):
    with jax.enable_x64(True):
        cell = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if eqx.is_array(leaf) else leaf, CELLS[name])
        arrays, static = eqx.partition(cell, eqx.is_inexact_array)
        xs = SPIKES[:5].astype(jnp.float64)

        def loss(arrays):
            return jnp.sum(jnp.sin(_run(eqx.combine(arrays, static), xs)))

        check_grads(jax.jit(loss), (arrays,), order=1, modes=("rev",))


def test_a_spike_of_a_kinetic_synapse_has_a_gradient():
    """The derivative in a spike is what that spike opens at once."""
    cell = sp.KineticSynapse.ampa(1)
    xs = jnp.zeros((3, 1))

    def opened(x):
        return _run(cell, xs.at[0].set(x))[0, 0]

    slope = jax.grad(lambda x: opened(x)[()])(jnp.zeros(1))
    rate = 0.98 * 0.5
    assert 0 < float(slope[0]) < rate


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sp.ExponentialSynapse(3, 0.0), "`tau` must be above 0 ms; got 0"),
        (lambda: sp.ExponentialSynapse(3, jnp.ones(2)), "`tau` must be one number or broadcast"),
        (lambda: sp.ExponentialSynapse(0), "`size` must be positive"),
        (lambda: sp.AlphaSynapse(3, dt=0.0), "`dt` must be above 0 ms"),
        (lambda: sp.DualExponentialSynapse(3, 5.0, 5.0), "`tau_decay` must be above `tau_rise`.*AlphaSynapse"),
        (lambda: sp.NMDASynapse(3, beta_open=-0.1), "`beta_open` must be above 0; got -0.1"),
        (lambda: sp.STPSynapse(3, increment=1.5), "`increment` must be at most 1; got 1.5"),
        (lambda: sp.STPSynapse(3, tau_recovery=0.5, decay=sp.EulerDecay()), "`dt` must be at most `tau_recovery`"),
        (lambda: sp.STDSynapse(3, tau=0.5, decay=sp.EulerDecay()), "`dt` must be at most `tau`"),
        (lambda: sp.MagnesiumBlock(magnesium=-1.0), "`magnesium` must not be negative; got -1 mM"),
        (lambda: CELLS["ampa"](jnp.zeros(2), CELLS["ampa"].init_state()), "`x` must end in the neuron axes"),
        (lambda: CELLS["stp"](jnp.zeros((4, 3)), CELLS["stp"].init_state()), "`state` of STPSynapse holds"),
    ],
)
def test_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("name", ["ampa", "nmda", "stp", "std"])
def test_weighted_spikes_are_refused(name):
    cell = CELLS[name]
    with pytest.raises(eqx.EquinoxRuntimeError, match=r"`x` of .* must be spikes, 0 or 1"):
        eqx.filter_jit(cell)(jnp.full(3, 0.5), cell.init_state())
