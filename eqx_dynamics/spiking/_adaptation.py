"""What a neuron's own spikes do to its later excitability."""

import abc

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ._decay import AbstractDecay
from ._parameter import ParameterLike, require, require_part_fits, resolve
from ._units import in_unit


class AbstractAdaptation(eqx.Module):
    r"""A variable that every spike raises and that decays: $a \leftarrow \delta a + j s$, $\delta$ from `tau_adapt`."""

    tau_adapt: ParameterLike = eqx.field(default=200.0, converter=in_unit("ms"))
    increment: ParameterLike = eqx.field(default=1.0, kw_only=True)
    in_reset: bool = eqx.field(static=True, default=False, kw_only=True)
    detach: bool = eqx.field(static=True, default=False, kw_only=True)

    @abc.abstractmethod
    def threshold(self, threshold: Array | float, adaptation: Float[Array, "..."]) -> Float[Array, "..."] | float:
        """The threshold at this level of adaptation."""

    @abc.abstractmethod
    def drive(self, drive: Float[Array, "..."], adaptation: Float[Array, "..."]) -> Float[Array, "..."]:
        """The input current at this level of adaptation."""

    def relax(self, adaptation: Float[Array, "..."], dt: float, decay: AbstractDecay) -> Float[Array, "..."]:
        """The variable one step later, with no spike."""
        return decay.factor(dt, resolve(self.tau_adapt, adaptation)) * adaptation

    def jump(self, adaptation: Float[Array, "..."], spikes: Float[Array, "..."]) -> Float[Array, "..."]:
        """The variable after spikes."""
        spikes = jax.lax.stop_gradient(spikes) if self.detach else spikes
        return adaptation + resolve(self.increment, adaptation) * spikes

    def check(self, dt: float, decay: AbstractDecay, size: tuple[int, ...]) -> None:
        """Raise a `ValueError` for constants that are not positive, do not fit `size`, or are unstable at `dt` (ms)."""
        require(self.tau_adapt, "tau_adapt", above=0.0)
        require(self.increment, "increment", unit="mV")
        require_part_fits(self, "adaptation", size)
        decay.check(dt, self.tau_adapt, "tau_adapt")


class ThresholdAdaptation(AbstractAdaptation):
    r"""Every spike raises the threshold: fire where $v \ge \theta + b\, a$ (Bellec et al., NeurIPS 2018, eq. 2: LSNN).

    **Arguments:**

    - `tau_adapt`: time constant of the recovery, ms.
    - `strength`: $b$, mV. `increment`: what one spike adds to $a$.
    - `in_reset`: a soft reset subtracts the raised threshold (spyx), not the resting one (BrainState).
    - `detach`: no gradient through the spike that adapts (Norse's recurrent LSNN).
    """

    strength: ParameterLike = eqx.field(default=1.0, kw_only=True, converter=in_unit("mV"))

    def threshold(self, threshold: Array | float, adaptation: Float[Array, "..."]) -> Float[Array, "..."] | float:
        return threshold + resolve(self.strength, adaptation) * adaptation

    def drive(self, drive: Float[Array, "..."], adaptation: Float[Array, "..."]) -> Float[Array, "..."]:
        return drive


class CurrentAdaptation(AbstractAdaptation):
    r"""Every spike adds an outward current: the membrane is driven by $I - a$ (spike-frequency adaptation).

    **Arguments:** `tau_adapt`: time constant of the recovery, ms; `increment`: current added by one
    spike; `detach`: as for `ThresholdAdaptation`.
    """

    def threshold(self, threshold: Array | float, adaptation: Float[Array, "..."]) -> Float[Array, "..."] | float:
        return threshold

    def drive(self, drive: Float[Array, "..."], adaptation: Float[Array, "..."]) -> Float[Array, "..."]:
        return drive - adaptation
