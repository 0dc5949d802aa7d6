"""Quantities of brainunit at the boundary: in any unit of the right kind, the same numbers, nothing inside the scan."""

import pathlib
import sys

import brainunit as u
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, Float, PRNGKeyArray

import eqx_dynamics.spiking as sp
from eqx_dynamics import AbstractCell, Cell, Recorded, Sequential, scan


REFERENCE = pathlib.Path(__file__).parent / "reference" / "snn"


class LIFNet(AbstractCell[sp.LIFState]):
    """The BrainState document's network with its units: a linear layer gives mA, the neuron has mV, ms and Ohm."""

    i2r: eqx.nn.Linear
    lif: sp.LIFCell

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> sp.LIFState:
        return self.lif.init_state(shape)

    def __call__(
        self, x: Float[Array, " n_in"], state: sp.LIFState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, " n_out"], sp.LIFState]:
        return self.lif(sp.magnitude(self.i2r(x) * u.mA, "mA"), state)


def make_net(lif: sp.LIFCell) -> LIFNet:
    library = np.load(REFERENCE / "seed_brainstate_2024.npz")
    weights = jnp.asarray(library["W"].T), jnp.asarray(library["b"])
    return LIFNet(eqx.tree_at(lambda m: (m.weight, m.bias), eqx.nn.Linear(2, 3, key=jr.key(0)), weights), lif)


QUANTITIES = {
    "as the document": dict(tau=5.0 * u.ms, v_threshold=1.0 * u.mV, v_rest=0.0 * u.mV, dt=0.1 * u.ms),
    "in other units": dict(tau=5000 * u.us, v_threshold=u.mV, v_reset=0 * u.volt, dt=1e-4 * u.second),
    "resistance": dict(resistance=1.0 * u.mV / u.mA),
}


@pytest.mark.parametrize("case", QUANTITIES)
def test_the_documents_network_with_units_gives_its_numbers(case: str) -> None:
    library, printed = np.load(REFERENCE / "seed_brainstate_2024.npz"), np.load(REFERENCE / "seed_printed.npz")
    net = make_net(sp.LIFCell.like_brainstate(3, **QUANTITIES[case]))
    (_, states), _ = eqx.filter_jit(eqx.filter_vmap(lambda xs: scan(Recorded(net), xs, net.init_state()), in_axes=1))(
        jnp.asarray(library["xs"])
    )
    np.testing.assert_allclose(jnp.swapaxes(states.membrane, 0, 1), library["V"], atol=1e-5)
    _, after = net.lif(jnp.asarray(printed["lif_I"]), net.init_state((5,)))
    view = sp.with_units(after)
    assert view.membrane.unit == u.mV and view.current is None
    np.testing.assert_allclose(view.membrane.to_decimal(u.uvolt), 1000 * printed["lif_V"], atol=1e-4)


def test_units_cost_nothing_inside_the_scan() -> None:
    """The program is that of the plain network, to the last operation."""
    with_units = make_net(sp.LIFCell.like_brainstate(3, **QUANTITIES["as the document"]))
    lif = sp.LIFCell.like_brainstate(3, 5.0, dt=0.1)

    def plain(x: Array, state: sp.LIFState, *, key: PRNGKeyArray | None = None) -> tuple[Array, sp.LIFState]:
        return lif(with_units.i2r(x), state)

    def program(cell: Cell) -> str:
        return str(jax.make_jaxpr(lambda xs: scan(cell, xs, lif.init_state()))(jnp.ones((8, 2))))

    assert program(with_units) == program(plain)


CELLS = {
    "lif": (
        lambda m, v, o: sp.LIFCell(2, m(20.0), threshold=v(15.0), rest=v(-65.0), reset=sp.ValueReset(v(-60.0))),
        lambda c: (c.tau_mem, c.threshold, c.rest, c.reset.value),
        (20.0, 15.0, -65.0, -60.0),
    ),
    "gains and currents": (
        lambda m, v, o: sp.LICell(2, input_gain=sp.LeakGain(o(3.0)), synapse=sp.SynapticCurrent(m(4.0)), rest=v(1.0)),
        lambda c: (c.input_gain.resistance, c.synapse.tau_syn, c.rest),
        (3.0, 4.0, 1.0),
    ),
    "adaptation": (
        lambda m, v, o: sp.LIFCell(2, adaptation=sp.ThresholdAdaptation(m(90.0), strength=v(2.0))),
        lambda c: (c.adaptation.tau_adapt, c.adaptation.strength),
        (90.0, 2.0),
    ),
    "norse": (lambda m, v, o: sp.LIFCell.like_norse(2, m(8.0), m(4.0)), lambda c: (c.tau_mem, c.dt), (8.0, 1.0)),
    "adex": (
        lambda m, v, o: sp.AdExCell(2, tau_adapt=m(40.0), sharpness=v(2.0), dt=m(0.2)),
        lambda c: (c.tau_adapt, c.sharpness, c.dt),
        (40.0, 2.0, 0.2),
    ),
    "synapse": (
        lambda m, v, o: sp.DualExponentialSynapse(2, m(1.0), m(9.0)),
        lambda c: (c.tau_rise, c.tau_decay),
        (1.0, 9.0),
    ),
    "depression": (lambda m, v, o: sp.STDSynapse(2, tau=m(50.0)), lambda c: (c.tau,), (50.0,)),
    "kinetics": (lambda m, v, o: sp.MagnesiumBlock(v(-5.0)), lambda c: (c.reversal,), (-5.0,)),
    "delay": (lambda m, v, o: sp.Delay(2, m(3.0)), lambda c: (c.delay, c.steps), (3.0, 3)),
    "plasticity": (
        lambda m, v, o: sp.RewardSTDP(sp.PairSTDP(jnp.ones((1, 1)), tau_plus=m(9.0)), m(700.0)),
        lambda c: (c.pair.tau_plus, c.tau_eligibility),
        (9.0, 700.0),
    ),
}


@pytest.mark.parametrize("case", CELLS)
def test_constructors_take_quantities(case: str) -> None:
    make, constants, expected = CELLS[case]
    cell = make(lambda t: t / 1000 * u.second, lambda v: v / 1000 * u.volt, lambda o: o * u.ohm)
    got = constants(cell)
    assert got == pytest.approx(expected, rel=1e-12)
    assert all(isinstance(value, float | int) for value in got), "a number stays a number: fixed, not learned"
    assert eqx.tree_equal(jax.tree.structure(cell), jax.tree.structure(make(float, float, float)))


def test_arrays_with_units_are_learned_as_arrays_are() -> None:
    cell = sp.LIFCell(2, jnp.array([5.0, 9.0]) * u.ms)
    np.testing.assert_array_equal(cell.tau_mem, [5.0, 9.0])
    assert isinstance(cell.tau_mem, jax.Array)
    learned = sp.LIFCell(2, sp.Positive(sp.magnitude(0.005 * u.second, "ms")))
    assert isinstance(learned.tau_mem, sp.Positive)
    np.testing.assert_allclose(learned.tau_mem.value(), 5.0, rtol=1e-6)
    hodgkin = sp.HodgkinHuxleyCell(1, g_sodium=0.12 * u.siemens / u.cm2, capacitance=1 * u.uF / u.cm2)
    assert (hodgkin.g_sodium, hodgkin.capacitance) == pytest.approx((120.0, 1.0))


def test_views_of_states_have_units_and_come_back() -> None:
    lif = sp.LIFCell(2, rest=-65.0, threshold=-50.0, reset=sp.ValueReset(-65.0), synapse=sp.SynapticCurrent())
    state = Sequential([lif, sp.LICell(2)]).init_state((3,))
    view = sp.with_units({"net": state, "other": jnp.ones(2)})
    assert view["net"][0].membrane.unit == u.mV and view["net"][0].current.unit == u.mA
    np.testing.assert_allclose((view["net"][0].membrane / u.volt), -0.065, rtol=1e-6)
    np.testing.assert_array_equal(view["other"], 1.0)
    back = sp.without_units(view)
    assert eqx.tree_equal(back, {"net": state, "other": jnp.ones(2)})
    gates = sp.with_units(sp.HodgkinHuxleyCell(2).init_state())
    assert gates.membrane.unit == u.mV and isinstance(gates.m, jax.Array)


def test_wrong_kinds_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"a unit such as ms is needed here; got 5. mV"):
        sp.LIFCell(2, 5.0 * u.mV)
    with pytest.raises(ValueError, match="`tau_mem` must be above 0 ms; got -5"):
        sp.LIFCell(2, -5.0 * u.ms)
    with pytest.raises(TypeError, match="`quantity` must have a unit"):
        sp.magnitude(5.0, "ms")
    state = eqx.tree_at(lambda s: s.membrane, sp.LICell(2).init_state(), 3.0 * u.ms)
    with pytest.raises(ValueError, match="a unit such as mV is needed here"):
        sp.without_units(state)
    monkeypatch.setitem(sys.modules, "brainunit", None)
    with pytest.raises(ImportError, match=r"`with_units` needs .*eqx-graph-dynamics\[units\]"):
        sp.with_units(sp.LICell(2).init_state())
    sp.LIFCell(2, 5.0)
