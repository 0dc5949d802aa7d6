"""NIR's neurons and ours: constants, units and what NIR has no word for."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..spiking import (
    AbstractDecay,
    AbstractInputGain,
    AbstractReset,
    AbstractSurrogate,
    ConstantGain,
    EulerDecay,
    ExactDecay,
    LeakGain,
    LICell,
    LIFCell,
    RateGain,
    SubtractReset,
    SynapticCurrent,
    ValueReset,
)
from ..spiking._parameter import AbstractParameter, ParameterLike
from ..spiking._surrogate import with_tie
from ._discretization import Discretization


NOTE = "eqx_dynamics"
"""The key of our own notes in a node's metadata: what NIR has no word for, and our constants to the last bit."""


def write_neuron(nir: Any, cell: LIFCell | LICell, name: str) -> Any:
    """The NIR node of a leaky integrator or leaky integrate-and-fire cell."""
    _require_known(cell, name)
    synapse = cell.synapse
    tau, keep = _values(cell.tau_mem), _kept(cell.decay, cell.dt, cell.tau_mem)
    gain = _gain(cell)
    with np.errstate(divide="ignore", invalid="ignore"):
        resistance = gain / (1 - keep)
    constants: dict[str, np.ndarray] = {"v_leak": _values(cell.rest)}
    if isinstance(cell, LIFCell):
        constants |= {"v_threshold": _values(cell.threshold), "v_reset": _level(cell.reset)}
    if np.all(np.isinf(tau)):
        kind = nir.IF if isinstance(cell, LIFCell) else nir.I
        constants = {k: v for k, v in constants.items() if k != "v_leak"} | {"r": 1000 * gain / cell.dt}
    elif np.any(np.isinf(tau)):
        raise ValueError(f"`{name}`: NIR cannot hold a layer in which only some neurons leak; split it in two.")
    elif synapse is None:
        kind = nir.LIF if isinstance(cell, LIFCell) else nir.LI
        constants |= {"tau": tau / 1000, "r": resistance}
    else:
        kind = nir.CubaLIF if isinstance(cell, LIFCell) else nir.CubaLI
        jump = 1 / (1 - _kept(cell.decay, cell.dt, synapse.tau_syn))
        tau_syn = _values(synapse.tau_syn) / 1000
        constants |= {"tau_mem": tau / 1000, "tau_syn": tau_syn, "r": resistance, "w_in": jump}
    full = {key: np.broadcast_to(value, cell.size).copy() for key, value in constants.items()}
    return kind(**full, metadata={NOTE: _note(cell)})


How: TypeAlias = Discretization | AbstractSurrogate
"""How to read a graph: as this discretization says, or as our notes say, with this surrogate."""


def read_neuron(nir: Any, node: Any, name: str, how: How) -> LIFCell | LICell:
    """The cell of a neuron node: from our own notes if they are there and still agree, otherwise from NIR's values."""
    note = (node.metadata or {}).get(NOTE)
    if isinstance(how, AbstractSurrogate) and note is not None:
        cell = _from_note(node, note, how)
        again = write_neuron(nir, cell, name)
        if all(np.allclose(getattr(again, k), getattr(node, k), rtol=1e-6, atol=0) for k in _arrays(node)):
            return cell
        how = _discretization_of(cell)
    if isinstance(how, AbstractSurrogate):
        raise ValueError(
            f"`discretization` is needed: the node {name!r} was not written by eqx_dynamics, and NIR says nothing of "
            "the step. Give `Discretization(dt=...)`, or `Discretization.like_snntorch()` or `.like_norse()`."
        )
    return _from_values(nir, node, name, how)


def _from_values(nir: Any, node: Any, name: str, how: Discretization) -> LIFCell | LICell:
    size = tuple(int(n) for n in np.shape(node.r))
    if not size:
        raise ValueError(f"`graph`: the node {name!r} has constants without a shape; write one value for each neuron.")
    values = {key: np.asarray(getattr(node, key), np.float64) for key in _arrays(node)}
    if isinstance(node, nir.IF | nir.I):
        gain = values["r"] if how.per_step else values["r"] * how.dt * how.time_unit / 1000 / 1000
        options: dict[str, Any] = {"tau_mem": math.inf, "input_gain": ConstantGain(_constant(_snap(gain, node.r)))}
    else:
        cuba = isinstance(node, nir.CubaLIF | nir.CubaLI)
        tau = values["tau_mem" if cuba else "tau"] * how.time_unit
        factor, synapse = values["r"], None
        if cuba:
            tau_syn = values["tau_syn"] * how.time_unit
            jump = values["w_in"] * (1.0 if how.per_step else 1 - _kept(how.decay, how.dt, tau_syn))
            # The current is counted in jumps: what an input of one adds to it.
            factor, synapse = factor * _snap(jump, node.w_in), SynapticCurrent(_constant(tau_syn))
        gain = factor * (1 - _kept(how.decay, how.dt, tau))
        jumps = _snap(gain, node.r) == 1
        input_gain = ConstantGain(1.0) if jumps.all() else LeakGain(_constant(factor))
        options = {"tau_mem": _constant(tau), "input_gain": input_gain, "synapse": synapse}
        options["rest"] = _constant(values["v_leak"])
    options |= {"decay": how.decay, "dt": how.dt}
    if "v_threshold" not in values:
        return LICell(size, **options)
    level = _constant(values["v_reset"])
    if isinstance(how.reset, SubtractReset):
        reset: AbstractReset = dataclasses.replace(how.reset, base=level)
    else:
        reset = dataclasses.replace(how.reset, value=level) if isinstance(how.reset, ValueReset) else how.reset
    return LIFCell(size, threshold=_constant(values["v_threshold"]), reset=reset, surrogate=how.surrogate, **options)


_DECAYS: dict[str, type[AbstractDecay]] = {"exact": ExactDecay, "euler": EulerDecay}
_GAINS: dict[str, Callable[..., AbstractInputGain]] = {"leak": LeakGain, "constant": ConstantGain, "rate": RateGain}
_RESETS: dict[str, Callable[..., AbstractReset]] = {"subtract": SubtractReset, "value": ValueReset}


def _note(cell: LIFCell | LICell) -> dict[str, Any]:
    note: dict[str, Any] = {
        "dt": cell.dt,
        "decay": _name_of(_DECAYS, cell.decay),
        "input_gain": _name_of(_GAINS, cell.input_gain),
        "gain": _stored(_factor(cell.input_gain)),
        "tau_mem": _stored(cell.tau_mem),
        "rest": _stored(cell.rest),
    }
    if cell.synapse is not None:
        note["tau_syn"] = _stored(cell.synapse.tau_syn)
    if isinstance(cell, LIFCell):
        keep = cell.reset.keep_gradient if isinstance(cell.reset, ValueReset) else False
        note |= {
            "threshold": _stored(cell.threshold),
            "reset": _name_of(_RESETS, cell.reset),
            "level": _stored(_level_of(cell.reset)),
            "timing": cell.reset.timing,
            "emit": cell.reset.emit,
            "detach": int(cell.reset.detach),
            "keep_gradient": int(keep),
            "tie": cell.surrogate.tie,
        }
    return note


def _from_note(node: Any, note: dict[str, Any], surrogate: AbstractSurrogate) -> LIFCell | LICell:
    size = tuple(int(n) for n in np.shape(node.r))
    gain = _GAINS[str(note["input_gain"])](_exact(note["gain"], size))
    synapse = SynapticCurrent(_exact(note["tau_syn"], size)) if "tau_syn" in note else None
    options: dict[str, Any] = {
        "rest": _exact(note["rest"], size),
        "decay": _DECAYS[str(note["decay"])](),
        "input_gain": gain,
    }
    options |= {"synapse": synapse, "dt": float(note["dt"])}
    if "threshold" not in note:
        return LICell(size, _exact(note["tau_mem"], size), **options)
    how = {"timing": str(note["timing"]), "emit": str(note["emit"]), "detach": bool(note["detach"])}
    if note["reset"] == "value":
        how["keep_gradient"] = bool(note["keep_gradient"])
    reset = _RESETS[str(note["reset"])](_exact(note["level"], size), **how)
    surrogate = with_tie(surrogate, ">=" if note["tie"] == ">=" else ">")
    tau, threshold = _exact(note["tau_mem"], size), _exact(note["threshold"], size)
    return LIFCell(size, tau, threshold=threshold, reset=reset, surrogate=surrogate, **options)


def _discretization_of(cell: LIFCell | LICell) -> Discretization:
    if isinstance(cell, LICell):
        return Discretization(cell.dt, decay=cell.decay)
    return Discretization(cell.dt, decay=cell.decay, reset=cell.reset, surrogate=cell.surrogate)


def _require_known(cell: LIFCell | LICell, name: str) -> None:
    """Raise a `ValueError` for parts of a neuron that NIR has no node for."""
    parts = {"`synapse` is delayed": cell.synapse is not None and cell.synapse.delayed}
    parts["`decay` is your own"] = type(cell.decay) not in _DECAYS.values()
    parts["`input_gain` is your own"] = type(cell.input_gain) not in _GAINS.values()
    if isinstance(cell, LIFCell):
        parts["`adaptation` is not None"] = cell.adaptation is not None
        parts["`refractory` is not None"] = cell.refractory is not None
        parts["`reset` is not a SubtractReset or ValueReset"] = type(cell.reset) not in _RESETS.values()
    if np.all(np.isinf(_values(cell.tau_mem))):
        parts["it has a `synapse` and no leak"] = cell.synapse is not None
        parts["it has a `rest` and no leak"] = bool(np.any(_values(cell.rest) != 0))
    wrong = [part for part, is_wrong in parts.items() if is_wrong]
    if wrong:
        raise ValueError(
            f"`{name}` cannot be written to NIR, which has no node for it: {', '.join(wrong)}. Leave that part out, or "
            "save the model with `eqx_dynamics.training.save_model`."
        )


def _values(parameter: ParameterLike) -> np.ndarray:
    return np.asarray(parameter.value() if isinstance(parameter, AbstractParameter) else parameter, np.float64)


def _stored(parameter: ParameterLike) -> float | np.ndarray:
    """A number as a number, an array as an array of at least one axis."""
    values = _values(parameter)
    return float(values) if isinstance(parameter, float | int) else np.atleast_1d(values)


def _exact(stored: Any, size: tuple[int, ...]) -> float | Array:
    """A number for a number, an array for an array, in the default dtype."""
    value = np.asarray(stored)
    if value.ndim == 0:
        return float(value)
    return jnp.asarray(value.reshape(()) if value.shape == (1,) != size else value, dtype=float)


def _constant(values: np.ndarray) -> float | Array:
    """One number where all neurons agree (fixed), otherwise an array (learned)."""
    return float(values.flat[0]) if values.size and (values == values.flat[0]).all() else jnp.asarray(values, float)


def _snap(values: np.ndarray, stored: Any) -> np.ndarray:
    """Ones where the values are one up to the rounding of the dtype they were stored in."""
    dtype = np.asarray(stored).dtype
    eps = np.finfo(dtype if np.issubdtype(dtype, np.floating) else np.float64).eps
    return np.where(np.abs(values - 1) < 64 * eps, 1.0, values)


def _kept(decay: AbstractDecay, dt: float, tau: ParameterLike) -> np.ndarray:
    """The decay factor of a step, in double precision."""
    ratio = dt / _values(tau)
    return np.asarray(1 - ratio if isinstance(decay, EulerDecay) else np.exp(-ratio))


def _gain(cell: LIFCell | LICell) -> np.ndarray:
    """What an input of one adds to the membrane in a step."""
    factor = _values(_factor(cell.input_gain))
    if isinstance(cell.input_gain, ConstantGain):
        return factor
    rate = isinstance(cell.input_gain, RateGain)
    shrunk = cell.dt / _values(cell.tau_mem) if rate else 1 - _kept(cell.decay, cell.dt, cell.tau_mem)
    return np.asarray(factor * shrunk)


def _factor(gain: AbstractInputGain) -> ParameterLike:
    return gain.value if isinstance(gain, ConstantGain) else gain.resistance  # pyright: ignore[reportAttributeAccessIssue]


def _level_of(reset: AbstractReset) -> ParameterLike:
    return reset.base if isinstance(reset, SubtractReset) else reset.value  # pyright: ignore[reportAttributeAccessIssue]


def _level(reset: AbstractReset) -> np.ndarray:
    return _values(_level_of(reset))


def _name_of(table: dict[str, Any], part: eqx.Module) -> str:
    return next(name for name, kind in table.items() if type(part) is kind)


def _arrays(node: Any) -> list[str]:
    """Names of a node's constants."""
    return [f.name for f in dataclasses.fields(node) if f.name not in ("input_type", "output_type", "metadata")]
