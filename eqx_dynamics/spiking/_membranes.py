"""A leaky neuron through a whole sequence, where the spikes that reset it pass no gradient on."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from .._chunks import MEMBRANE
from .._derivative import with_tangent
from ._leak import Leaky, decayed, driven, leak, through_synapse
from ._parameter import ParameterLike, resolve
from ._reset import AbstractReset
from ._surrogate import AbstractSurrogate, spike


@runtime_checkable
class LeakyNeuron(Leaky, Protocol):
    """A leaky membrane that fires, as `LIFCell` is one."""

    @property
    def threshold(self) -> ParameterLike: ...
    @property
    def reset(self) -> AbstractReset: ...
    @property
    def surrogate(self) -> AbstractSurrogate: ...


def excess_over(
    cell: LeakyNeuron,
    xs: Float[Array, " time *shape"],
    membrane: Float[Array, "*shape"],
    current: Float[Array, "*shape"] | None,
    *,
    unroll: int,
    reverse: bool,
) -> tuple[Float[Array, " time *shape"], Float[Array, "*shape"], Float[Array, "*shape"] | None]:
    r"""How far the membrane is above the threshold before the reset of each step.

    Values and derivatives are two loops, because a loop is fastest that carries what it puts out. Forwards that is
    $v_t = \beta R(v_{t-1}) + g I_t$ with the reset $R$, written over $I_t$. The derivative is that of
    $v_t = w_t + g I_t$ with $w_{t+1} = \beta R(v_t)$, around the known $v_t$: what it carries backwards is the gradient
    of $v_t$, and no step has to be computed again. Where no derivative is asked for, the compiler drops that loop.

    **Returns:** the excess at all steps, and membrane and synaptic current after the last.
    """
    frozen, inputs, start = _constant((cell, xs, (membrane, current)))
    num_steps = xs.shape[0]

    def value(step: Array, carry: Any) -> Any:
        values, before, current, started = carry  # Nothing is pending at the start: the first step resets no one.
        at = num_steps - 1 - step if reverse else step
        spikes = started * spike(frozen.surrogate, before - resolve(frozen.threshold, before))
        x = jax.lax.dynamic_index_in_dim(values, at, keepdims=False)
        drive, current = through_synapse(x, current, frozen.synapse, frozen.decay, frozen.dt)
        after = leak(frozen, drive, _reset(frozen, before, spikes))
        return jax.lax.dynamic_update_index_in_dim(values, after, at, 0), after, current, jnp.ones_like(started)

    def derivative(carry: Any, part: tuple[Array, Array, Array]) -> tuple[Any, Array]:
        waning, current = carry
        drive, current = through_synapse(part[0], current, cell.synapse, cell.decay, cell.dt)
        after = waning + driven(cell, drive, waning)
        left = _reset(cell, with_tangent(part[1], after), spike(cell.surrogate, part[2]))
        return (decayed(cell, left), current), after

    start = (inputs, *start, jnp.zeros((), xs.dtype))
    known, last, last_current, _ = jax.lax.fori_loop(0, num_steps, value, start, unroll=unroll)
    excess = checkpoint_name(known - resolve(frozen.threshold, known), MEMBRANE)
    begin, parts = (decayed(cell, membrane), current), (xs, known, excess)
    (_, current), moved = jax.lax.scan(derivative, begin, parts, reverse=reverse, unroll=unroll)
    end = 0 if reverse else -1
    last = _reset(cell, with_tangent(last, moved[end]), spike(cell.surrogate, excess[end]))
    last_current = None if last_current is None else with_tangent(last_current, current)
    return with_tangent(excess, moved - resolve(cell.threshold, moved)), last, last_current


def _reset(cell: LeakyNeuron, membrane: Array, spikes: Array) -> Array:
    return cell.reset(membrane, spikes, resolve(cell.threshold, membrane))


def _constant(tree: Any) -> Any:
    arrays, static = eqx.partition(tree, eqx.is_inexact_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), static)
