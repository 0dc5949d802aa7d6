"""Fresh deep networks that fire in every layer, and the report on those that do not."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_dynamics as dyn
import eqx_dynamics.spiking as snn


pytestmark = pytest.mark.usefixtures("light_compilation")
KEYS = jr.split(jr.key(0), 12)
XS = jr.bernoulli(KEYS[0], 0.05, (60, 8, 40)).astype(float)


def _deep(key: jax.Array) -> dyn.Sequential:
    layers: list[Any] = []
    for i, k in enumerate(jr.split(key, 6)):
        layers += [eqx.nn.Linear(40, 40, key=k), snn.LIFCell(40, 10.0)]
        if i == 3:
            layers[-1] = snn.Recurrent(layers[-1], eqx.nn.Linear(40, 40, use_bias=False, key=KEYS[1]))
    return dyn.Sequential(layers)


def _rates(diagnosis: snn.Diagnosis) -> np.ndarray:
    rates = np.array([float(layer.rate) for layer in diagnosis.layers])
    return rates[~np.isnan(rates)]


@eqx.filter_jit
def _diagnosed(network: dyn.Sequential) -> snn.Diagnosis:
    return snn.diagnose(network, XS)


def test_a_fresh_deep_network_fires_in_every_layer() -> None:
    """Equinox's own weights leave it silent; drawn from constants every layer fires, calibrated at its target."""
    fresh = _deep(KEYS[2])
    assert _rates(_diagnosed(fresh))[-1] == 0
    drawn = snn.initialize(fresh, input_rate=0.05, key=KEYS[3])
    found = _diagnosed(drawn)
    expected = float(snn.fluctuation_rate(snn.LIFCell(40, 10.0)))
    assert np.all((_rates(found) > expected / 3) & (_rates(found) < expected * 3)), str(found)
    assert found.problems() == {}
    calibrated = eqx.filter_jit(snn.calibrate)(fresh, XS, 0.1)
    found = _diagnosed(calibrated)
    np.testing.assert_allclose(_rates(found), 0.1, atol=0.005)
    assert found.problems() == {}
    assert _rates(_diagnosed(fresh))[-1] == 0  # The network put in is as it was.


@pytest.mark.parametrize("synapse", [None, snn.SynapticCurrent(4.0)])
def test_the_deviation_is_that_of_the_membrane(synapse: snn.SynapticCurrent | None) -> None:
    """The response to one spike, squared and summed, is the variance of a membrane per input spike."""
    cell = snn.LIFCell(1, 8.0, threshold=2.0, rest=-1.0, reset=snn.NoReset(), synapse=synapse)
    impulse = jnp.zeros((300, 1)).at[0].set(1.0)
    (_, states), _ = dyn.scan(dyn.Recorded(cell), impulse, cell.init_state())
    energy = float(jnp.sum((states.membrane + 1) ** 2))
    std = float(snn.fluctuation_std(cell, 50, 0.1, distance=2.0))
    assert 2.0 * std * np.sqrt(50 * 0.1 * energy) == pytest.approx(2 - (-1), rel=1e-4)
    # And one step is as like the next as the rate takes it to be.
    response = np.asarray(states.membrane + 1)[:, 0]
    likeness = (response[1:] * response[:-1]).sum() / (response**2).sum()
    want = np.arccos(likeness) / (2 * np.pi) * np.exp(-0.5)
    assert float(snn.fluctuation_rate(cell)) == pytest.approx(want, rel=1e-3)


@pytest.mark.slow
def test_calibrated_constraints_stay() -> None:
    """Dale's law, masks and sparse weights are scaled within their bounds; behind a convolution its norm is."""
    sign, mask = jnp.where(jnp.arange(40) < 32, 1, -1), jr.bernoulli(KEYS[6], 0.5, (20, 40))
    dale = snn.Dale(jr.normal(KEYS[7], (20, 40)), sign)
    sparse = snn.SparseConnection.fixed_probability(20, 30, 0.3, 0.01, key=KEYS[8])
    conv = [lambda x: x[..., None, :], eqx.nn.Conv1d(1, 2, 3, padding=1, key=KEYS[9])]
    conv += [dyn.PerSample(eqx.nn.GroupNorm(1, 2), 2), snn.LIFCell((2, 40), 10.0)]
    dense = [lambda x: x.sum(-2), snn.DenseConnection(snn.Masked(dale, mask)), snn.LIFCell(20, 10.0)]
    network = dyn.Sequential([*conv, *dense, sparse, snn.LIFCell(30, 10.0)])
    calibrated = eqx.filter_jit(snn.calibrate)(network, XS, 0.08)
    np.testing.assert_allclose(_rates(_diagnosed(calibrated)), 0.08, atol=0.01)
    layers: Any = calibrated.layers
    before, after = snn.Masked(dale, mask).value(), layers[5].weight.value()
    ratio = np.asarray(after)[np.asarray(mask)] / np.asarray(before)[np.asarray(mask)]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-2)
    assert np.all(np.asarray(after)[~np.asarray(mask)] == 0)
    assert isinstance(layers[7].weight, snn.Frozen)  # A weight that was a fixed number stays fixed.


@pytest.mark.parametrize(
    ("scale", "problem"),
    [(1e-3, "silent: 100% of the neurons never fire"), (1e2, "saturated"), (jnp.nan, "not finite")],
)
def test_trouble_is_named_with_its_layer_and_its_remedy(scale: float, problem: str) -> None:
    network = snn.initialize(_deep(KEYS[2]), key=KEYS[3])
    weight = jnp.abs(network.layers[4].weight) * scale  # pyright: ignore[reportAttributeAccessIssue]
    network = eqx.tree_at(lambda n: n.layers[4].weight, network, weight)
    found = _diagnosed(network)
    problems = found.problems()
    path = "layers[4]" if problem == "not finite" else "layers[5]"
    assert problems[path].startswith(problem)
    assert next(iter(problems)) == path
    assert f"{path}: {problem}" in str(found)
    assert len(str(found).splitlines()) == 1 + 12 + len(problems)


def test_explosions_and_nested_paths() -> None:
    inner = dyn.Sequential([eqx.nn.Linear(40, 3, key=KEYS[9]), snn.LICell(3)])
    network = dyn.Sequential([lambda x: x * 1e9, inner])
    problems = snn.diagnose(network, XS).problems()
    assert set(problems) == {"layers[0]", "layers[1].layers[0]", "layers[1].layers[1]"}
    assert problems["layers[1].layers[0]"].startswith("exploding: |output| reaches")
    assert snn.diagnose(snn.LIFCell(40), XS).layers[0].path == "LIFCell"


@pytest.mark.slow
def test_neurons_of_every_kind_are_reported_and_calibrated_wherever_they_stand() -> None:
    silent = snn.AlphaCell(40, threshold=1e3), snn.HodgkinHuxleyCell(40), snn.LIFCell(40, threshold=1e3)
    network = dyn.Sequential([snn.Residual(silent[2]), snn.Parallel([silent[0], silent[1]])])
    problems = _diagnosed(network).problems()
    assert set(problems) == {"layers[0].cell", "layers[1].branches[0]", "layers[1].branches[1]"}
    assert all(problem.startswith("silent: 100%") for problem in problems.values())
    dense = eqx.nn.Linear(40, 40, key=KEYS[9])
    calibrated = eqx.filter_jit(snn.calibrate)(dyn.Sequential([dense, snn.AlphaCell(40)]), XS, 0.1)
    np.testing.assert_allclose(_rates(_diagnosed(calibrated)), 0.1, atol=0.01)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="`input_rate` must be above 0"):
        snn.fluctuation_std(snn.LIFCell(3), 4, 0.0)
    with pytest.raises(ValueError, match="`fan_in` must be above 0"):
        snn.fluctuation_std(snn.LIFCell(3), 0, 0.1)
    with pytest.raises(ValueError, match=r"`network` must hold an eqx\.nn\.Linear or Conv"):
        snn.initialize(dyn.Sequential([snn.LIFCell(3)]), key=KEYS[0])
    with pytest.raises(ValueError, match="`target_rate` must be below 1"):
        snn.calibrate(_deep(KEYS[2]), XS, 1.0)
    with pytest.raises(ValueError, match=r"`network` has no weights between `layers\[0\]`"):
        snn.calibrate(dyn.Sequential([snn.LIFCell(40)]), XS)
    silent = dyn.Sequential([eqx.nn.Linear(40, 3, use_bias=False, key=KEYS[9]), snn.LIFCell(3)])
    with pytest.raises(Exception, match=r"`layers\[1\]` fire at the target. Its input may be silent"):
        jax.block_until_ready(eqx.filter_jit(snn.calibrate)(silent, 0 * XS))
    with pytest.raises(ValueError, match=r"`xs` must be \(time, batch, ...\)"):
        snn.diagnose(snn.LIFCell(3), jnp.ones(3))
    with pytest.raises(ValueError, match="`explosion` must be above 0"):
        snn.diagnose(snn.LIFCell(40), XS, explosion=0.0)
