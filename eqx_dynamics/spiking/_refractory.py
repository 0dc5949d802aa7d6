"""Silence after a spike."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._surrogate import AbstractSurrogate, spike


class Refractory(eqx.Module):
    """After a spike the membrane is held, and cannot fire, for a number of steps.

    **Arguments:**

    - `steps`: how many steps; a refractory time in ms is `round(time / dt)` (one less for BrainState's `LIFRef`, which
      counts the spiking step).
    - `differentiable`: let the surrogate see the countdown, as Norse does; otherwise it is a constant for gradients.
    - `silent`: a held membrane does not fire. BrainState's does, if a soft reset left it above threshold, and that
      starts the period anew.
    """

    steps: int = eqx.field(static=True)
    differentiable: bool = eqx.field(static=True, default=False)
    silent: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {self.steps}. Use `refractory=None` for none.")


def hold(
    refractory: Refractory, surrogate: AbstractSurrogate, spikes: Array, before: Array, after: Array, countdown: Array
) -> tuple[Array, Array, Array]:
    """Spikes, membrane and steps left, given the membrane `before` and `after` a step that ignored the period."""
    if refractory.differentiable:
        held = spike(surrogate, countdown)
        membrane, spikes = (1 - held) * after + held * before, (1 - held) * spikes
        return spikes, membrane, (1 - spikes) * jax.nn.relu(countdown - held) + spikes * refractory.steps
    waiting = countdown > 0
    if refractory.silent:
        spikes, after = jnp.where(waiting, 0, spikes), jnp.where(waiting, before, after)
    left = jnp.where(spikes > 0, refractory.steps, jnp.maximum(countdown - 1, 0)).astype(countdown.dtype)
    return spikes, after, left


def freeze(refractory: Refractory | None, before: Array, after: Array, countdown: Array | None) -> Array:
    """The membrane that decides about firing: one that is held has not moved."""
    if refractory is None or countdown is None or refractory.differentiable:
        return after
    return jnp.where(countdown > 0, before, after)
