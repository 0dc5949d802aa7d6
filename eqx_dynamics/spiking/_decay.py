"""How a leaky variable forgets in one step, and how strongly an input enters."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._parameter import ParameterLike, concrete, resolve
from ._units import in_unit


Factor = Float[Array, "..."] | float


class AbstractDecay(eqx.Module):
    r"""The factor $\beta$ by which a variable with time constant $\tau$ shrinks in one step $\Delta t$."""

    @abc.abstractmethod
    def factor(self, dt: float, tau: Factor) -> Factor:
        r"""$\beta$, from the step and the time constant, both in ms."""

    @abc.abstractmethod
    def check(self, dt: float, tau: ParameterLike, name: str) -> None:
        """Raise a `ValueError` if `dt` (ms) is beyond the scheme's stability bound for `tau` (ms)."""


class ExactDecay(AbstractDecay):
    r"""$\beta = e^{-\Delta t / \tau}$: the exact solution for an input that is constant during the step."""

    def factor(self, dt: float, tau: Factor) -> Factor:
        return jnp.exp(-dt / tau)

    def check(self, dt: float, tau: ParameterLike, name: str) -> None:
        return None


class EulerDecay(AbstractDecay):
    r"""$\beta = 1 - \Delta t / \tau$: the forward Euler step of Norse and SpikingJelly; needs $\Delta t \le \tau$."""

    def factor(self, dt: float, tau: Factor) -> Factor:
        return 1 - dt / tau

    def check(self, dt: float, tau: ParameterLike, name: str) -> None:
        values = concrete(tau)
        if values is not None and dt > values.min():
            raise ValueError(
                f"`dt` must be at most `{name}` with EulerDecay, which otherwise oscillates; got dt={dt:g} ms for "
                f"{name}={float(values.min()):g} ms. Use a smaller `dt` or `ExactDecay()`."
            )


class AbstractInputGain(eqx.Module):
    """What the input of one step is multiplied by before it is added to the membrane."""

    @abc.abstractmethod
    def factor(self, dt: float, tau: Factor, beta: Factor, like: Float[Array, "..."]) -> Factor:
        r"""The gain, from the step (ms), the time constant (ms) and the decay factor $\beta$."""


class ConstantGain(AbstractInputGain):
    """Input jumps the membrane by itself times `value` (snnTorch, spyx, SpikingJelly without `decay_input`)."""

    value: ParameterLike = 1.0

    def factor(self, dt: float, tau: Factor, beta: Factor, like: Float[Array, "..."]) -> Factor:
        return resolve(self.value, like)


class LeakGain(AbstractInputGain):
    r"""$(1 - \beta) R$: a constant input $I$ drives the membrane to $R I$ whatever the time constant.

    BrainState, jaxpike; and with `EulerDecay`, where $1 - \beta = \Delta t/\tau$, Norse and SpikingJelly.
    """

    resistance: ParameterLike = eqx.field(default=1.0, converter=in_unit("ohm"))

    def factor(self, dt: float, tau: Factor, beta: Factor, like: Float[Array, "..."]) -> Factor:
        return (1 - beta) * resolve(self.resistance, like)


class RateGain(AbstractInputGain):
    r"""$R\, \Delta t / \tau$: the forward Euler input of Lapicque's neuron, with $\tau = R C$."""

    resistance: ParameterLike = eqx.field(default=1.0, converter=in_unit("ohm"))

    def factor(self, dt: float, tau: Factor, beta: Factor, like: Float[Array, "..."]) -> Factor:
        return resolve(self.resistance, like) * dt / tau
