"""What happens to a membrane that has fired, when, and what the gradient is told."""

import abc
from typing import Literal, TypeAlias

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ._parameter import ParameterLike, concrete, require, resolve
from ._units import in_unit


ResetTiming: TypeAlias = Literal["after_spike", "before_decay", "after_decay", "discounted"]
"""When a reset takes effect.

- `"after_spike"`: in the step that fires; the state holds the membrane after its reset (Norse, SpikingJelly, jaxpike).
- `"before_decay"`: at the start of the next step, before the membrane decays; the state holds the membrane that fired
  (BrainState, snnTorch `Leaky` with `"zero"`).
- `"after_decay"`: in the next step, after decay and input (snnTorch `"subtract"`, spyx).
- `"discounted"`: as `"after_spike"`, but a membrane still above threshold after its reset must clear it twice to fire
  again (snnTorch with `reset_delay=False`).
"""


class AbstractReset(eqx.Module):
    """What becomes of the membrane where a neuron fired, and when.

    **Arguments** of every reset, by keyword:

    - `timing`: see `ResetTiming`.
    - `detach`: no gradient through the spike that resets (Zenke & Vogels, Neural Computation 2021, found it helps).
    - `emit`: `"new"`: a step puts out the spikes of the membrane it computed; `"old"`: of the one it was given (spyx).
    """

    timing: ResetTiming = eqx.field(static=True, default="after_spike", kw_only=True)
    detach: bool = eqx.field(static=True, default=True, kw_only=True)
    emit: Literal["new", "old"] = eqx.field(static=True, default="new", kw_only=True)

    @abc.abstractmethod
    def apply(
        self, membrane: Float[Array, "*shape"], spikes: Float[Array, "*shape"], threshold: Array | float
    ) -> Float[Array, "*shape"]:
        """The membrane after the reset, where `spikes` is 1."""

    def __call__(
        self, membrane: Float[Array, "*shape"], spikes: Float[Array, "*shape"], threshold: Array | float
    ) -> Float[Array, "*shape"]:
        """`apply`, with no gradient through the spikes if `detach`."""
        return self.apply(membrane, jax.lax.stop_gradient(spikes) if self.detach else spikes, threshold)


class SubtractReset(AbstractReset):
    r"""Soft reset: $v \leftarrow v - s\,(\theta - v_{base})$; what exceeded the threshold stays.

    **Arguments:**

    - `base`: membrane that a neuron exactly at threshold is taken to, mV.
    """

    base: ParameterLike = eqx.field(default=0.0, converter=in_unit("mV"))

    def apply(
        self, membrane: Float[Array, "*shape"], spikes: Float[Array, "*shape"], threshold: Array | float
    ) -> Float[Array, "*shape"]:
        return membrane - spikes * (threshold - resolve(self.base, membrane))


class ValueReset(AbstractReset):
    r"""Hard reset: $v \leftarrow (1 - s) v + s\, v_{reset}$. `ValueReset()` is the reset to zero.

    **Arguments:**

    - `value`: $v_{reset}$, mV.
    - `keep_gradient`: a fired membrane passes its gradient on as if it had been shifted (BrainState),
      $v + s (v_{reset} - \mathrm{sg}(v))$ with sg = stop gradient; otherwise a fired membrane is forgotten.
    """

    value: ParameterLike = eqx.field(default=0.0, converter=in_unit("mV"))
    keep_gradient: bool = eqx.field(static=True, default=False)

    def apply(
        self, membrane: Float[Array, "*shape"], spikes: Float[Array, "*shape"], threshold: Array | float
    ) -> Float[Array, "*shape"]:
        value = resolve(self.value, membrane)
        if self.keep_gradient:
            return membrane - spikes * (jax.lax.stop_gradient(membrane) - value)
        return membrane * (1 - spikes) + spikes * value


class NoReset(AbstractReset):
    """The membrane is left alone: a linear filter with a threshold, which can run in parallel over time."""

    def apply(
        self, membrane: Float[Array, "*shape"], spikes: Float[Array, "*shape"], threshold: Array | float
    ) -> Float[Array, "*shape"]:
        return membrane


def check_threshold(threshold: ParameterLike, rest: ParameterLike | None, reset: AbstractReset) -> None:
    """Raise a `ValueError` for a threshold that is NaN, or not above the rest and the reset."""
    require(threshold, "threshold", unit="mV")
    value = concrete(threshold)
    floors: dict[str, ParameterLike] = {} if rest is None else {"rest": rest}
    if isinstance(reset, SubtractReset):
        floors["reset.base"] = reset.base
    if isinstance(reset, ValueReset):
        floors["reset.value"] = reset.value
    for name, floor in floors.items():
        known = concrete(floor)
        if value is not None and known is not None and (value <= known).any():
            raise ValueError(
                f"`threshold` must be above `{name}`, or the neuron fires for ever; got threshold={value.min():g} mV "
                f"and {name}={known.max():g} mV."
            )
