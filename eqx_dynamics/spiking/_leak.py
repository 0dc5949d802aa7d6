"""The leaky membrane that every linear neuron and readout shares: v <- rest + beta (v - rest) + gain * current."""

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
from jaxtyping import Array

from ._decay import AbstractDecay, AbstractInputGain
from ._parameter import ParameterLike, require, require_fits, require_part_fits, require_step, resolve
from ._units import in_unit


class SynapticCurrent(eqx.Module):
    r"""A current between input and membrane, $i \leftarrow \alpha i + x$: makes a neuron current-based (two states).

    **Arguments:**

    - `tau_syn`: time constant, ms.
    - `delayed`: the input of a step reaches the membrane one step later (Norse's LSNN).
    """

    tau_syn: ParameterLike = eqx.field(default=5.0, converter=in_unit("ms"))
    delayed: bool = eqx.field(static=True, default=False)


@runtime_checkable
class Leaky(Protocol):
    """The constants of a leaky membrane, as `LIFCell` and `LICell` have them."""

    @property
    def tau_mem(self) -> ParameterLike: ...
    @property
    def rest(self) -> ParameterLike: ...
    @property
    def decay(self) -> AbstractDecay: ...
    @property
    def input_gain(self) -> AbstractInputGain: ...
    @property
    def synapse(self) -> SynapticCurrent | None: ...
    @property
    def dt(self) -> float: ...
    @property
    def size(self) -> tuple[int, ...]: ...


def leak(cell: Leaky, drive: Array, membrane: Array) -> Array:
    r"""$v_{rest} + \beta (v - v_{rest}) + g I$."""
    return decayed(cell, membrane) + driven(cell, drive, membrane)


def decayed(cell: Leaky, membrane: Array) -> Array:
    r"""What is left of a membrane after a step: $v_{rest} + \beta (v - v_{rest})$."""
    beta, resting = _beta(cell, membrane), resolve(cell.rest, membrane)
    if isinstance(resting, float) and resting == 0:
        return beta * membrane
    return resting + beta * (membrane - resting)


def driven(cell: Leaky, drive: Array, membrane: Array) -> Array:
    """What a current adds to a membrane (which only tells the shape) in a step: $g I$."""
    tau = resolve(cell.tau_mem, membrane)
    return _as(cell.input_gain.factor(cell.dt, tau, _beta(cell, membrane), membrane), membrane) * drive


def through_synapse(
    x: Array, current: Array | None, synapse: SynapticCurrent | None, decay: AbstractDecay, dt: float
) -> tuple[Array, Array | None]:
    """What drives the membrane, and the synaptic current after the step."""
    if synapse is None or current is None:
        return x, current
    alpha = _as(decay.factor(dt, resolve(synapse.tau_syn, current)), current)
    if synapse.delayed:
        return current, alpha * current + x
    current = alpha * current + x
    return current, current


def check_leak(cell: Leaky) -> None:
    """Raise a `ValueError` unless the time constants and the step make a stable leaky membrane."""
    require_step(cell.dt)
    taus = {"tau_mem": cell.tau_mem} | ({} if cell.synapse is None else {"tau_syn": cell.synapse.tau_syn})
    for name, tau in taus.items():
        require(tau, name, above=0.0, remedy="Learn it as `Positive(...)` to keep it so.")
        require_fits(tau, name, cell.size)
        cell.decay.check(cell.dt, tau, name)
    require(cell.rest, "rest", unit="mV")
    require_fits(cell.rest, "rest", cell.size)
    require_part_fits(cell.input_gain, "input_gain", cell.size)


def _beta(cell: Leaky, membrane: Array) -> Array | float:
    return _as(cell.decay.factor(cell.dt, resolve(cell.tau_mem, membrane)), membrane)


def _as(factor: Array | float, like: Array) -> Array | float:
    return factor.astype(like.dtype) if isinstance(factor, jax.Array) else factor
