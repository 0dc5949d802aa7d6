"""The leaky membrane that every linear neuron and readout shares: v <- rest + beta (v - rest) + gain * current."""

import equinox as eqx
import jax
from jaxtyping import Array

from ._decay import AbstractDecay, AbstractInputGain
from ._parameter import ParameterLike, require, require_fits, resolve
from ._units import in_unit


class SynapticCurrent(eqx.Module):
    r"""A current between input and membrane, $i \leftarrow \alpha i + x$: makes a neuron current-based (two states).

    **Arguments:**

    - `tau_syn`: time constant, ms.
    - `delayed`: the input of a step reaches the membrane one step later (Norse's LSNN).
    """

    tau_syn: ParameterLike = eqx.field(default=5.0, converter=in_unit("ms"))
    delayed: bool = eqx.field(static=True, default=False)


def leak(
    drive: Array,
    membrane: Array,
    tau_mem: ParameterLike,
    rest: ParameterLike,
    decay: AbstractDecay,
    input_gain: AbstractInputGain,
    dt: float,
) -> Array:
    r"""$v_{rest} + \beta (v - v_{rest}) + g I$."""
    tau = resolve(tau_mem, membrane)
    beta = _as(decay.factor(dt, tau), membrane)
    gain = _as(input_gain.factor(dt, tau, beta, membrane), membrane)
    resting = resolve(rest, membrane)
    if isinstance(resting, float) and resting == 0:
        return beta * membrane + gain * drive
    return resting + beta * (membrane - resting) + gain * drive


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


def check_leak(
    size: tuple[int, ...],
    tau_mem: ParameterLike,
    rest: ParameterLike,
    decay: AbstractDecay,
    synapse: SynapticCurrent | None,
    dt: float,
) -> None:
    """Raise a `ValueError` unless the time constants and the step make a stable leaky membrane of shape `size`."""
    require(dt, "dt", above=0.0)
    taus = {"tau_mem": tau_mem} | ({} if synapse is None else {"tau_syn": synapse.tau_syn})
    for name, tau in taus.items():
        require(tau, name, above=0.0, remedy="Learn it as `Positive(...)` to keep it so.")
        require_fits(tau, name, size)
        decay.check(dt, tau, name)
    require(rest, "rest", unit="mV")
    require_fits(rest, "rest", size)


def _as(factor: Array | float, like: Array) -> Array | float:
    return factor.astype(like.dtype) if isinstance(factor, jax.Array) else factor
