"""Spikes: a step forward, a chosen curve backward, at any order of differentiation."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._derivative import with_tangent
from ._parameter import require


Tie: TypeAlias = Literal[">=", ">"]
"""Whether a membrane exactly at threshold fires (SpikingJelly, BrainState: yes; snnTorch, Norse, spyx: no)."""

_POSITIVE = ("slope", "width", "radius", "sigma", "s", "period", "num_terms", "order")


class AbstractSurrogate(eqx.Module):
    r"""What stands in for the derivative of the step $H(x)$, where $x$ = membrane minus threshold.

    A surrogate is a curve, `derivative`, and a rule for ties. The curve may itself be differentiated, to any order.

    **Raises:** `ValueError` for a constant that is NaN, or a slope or width that is not positive.
    """

    tie: Tie = eqx.field(static=True, default=">=", kw_only=True)

    def __check_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float | int) or eqx.is_array(value):
                require(value, field.name, above=0.0 if field.name in _POSITIVE else None, unit="")
            if field.name == "inner" and isinstance(value, AbstractStochasticSurrogate):
                raise ValueError(
                    f"`inner` of {type(self).__name__} must not draw its spikes, which would be lost; got "
                    f"{type(value).__name__}. Scale its own constants."
                )

    @abc.abstractmethod
    def derivative(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The curve $g'(x)$ used in place of the derivative of the step; elementwise."""


def _step(surrogate: AbstractSurrogate, x: Array, noise: Array | None = None) -> Array:
    drawn = x if noise is None else x + noise
    fired = (drawn >= 0 if surrogate.tie == ">=" else drawn > 0).astype(x.dtype)
    return with_tangent(fired, x, jnp.broadcast_to(surrogate.derivative(x).astype(x.dtype), x.shape))


def spike(
    surrogate: AbstractSurrogate, x: Float[Array, "*shape"], *, key: PRNGKeyArray | None = None
) -> Float[Array, "*shape"]:
    r"""Ones where the neuron fires and zeros elsewhere, differentiated by the surrogate.

    $s = H(x)$ forward and $\partial s / \partial x := g'(x)$ in every derivative. Forward and reverse mode nest in any
    order, inside and outside of loops: the derivative of the rule is that of the curve.

    **Arguments:**

    - `surrogate`: the curve $g'$ and the rule for ties.
    - `x`: membrane minus threshold, mV or dimensionless.
    - `key`: needed by stochastic surrogates only.

    **Returns:** 0. or 1., the shape and dtype of `x`.

    **Raises:** `ValueError` if the surrogate is stochastic and no key is given.
    """
    if isinstance(surrogate, AbstractStochasticSurrogate):
        if key is None:
            raise ValueError(f"`key` is missing: {type(surrogate).__name__} draws its spikes; pass `key=` to the cell.")
        noise = jax.lax.stop_gradient(surrogate.noise(key, x))
        # The noise moves the step, not the curve: the gradient is that of the firing probability.
        return _step(surrogate, x, noise)
    return _step(surrogate, x)


class AbstractStochasticSurrogate(AbstractSurrogate):
    """A surrogate that also draws: the neuron fires where $x$ plus noise is positive."""

    @abc.abstractmethod
    def noise(self, key: PRNGKeyArray, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """A sample added to `x` before the step."""


def check_deterministic(surrogate: AbstractSurrogate, name: str) -> None:
    """Raise a `ValueError` for a surrogate that draws, where a membrane is compared twice: it would draw again."""
    if isinstance(surrogate, AbstractStochasticSurrogate):
        raise ValueError(
            f"`surrogate` of {name} must not draw its spikes: the cell looks at one membrane in two steps and would "
            f"draw again; got {type(surrogate).__name__}. Use it in a cell that resets in the step that fires."
        )


class StraightThrough(AbstractSurrogate):
    """$g'(x) = 1$ (Bengio et al. 2013, arXiv 1308.3432); snnTorch's `straight_through_estimator`."""

    def derivative(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.ones_like(x)


class DerivativeOf(AbstractSurrogate):
    """The derivative of any function you write: `DerivativeOf(jnp.tanh)` uses $1 - \\tanh^2 x$.

    The function must be elementwise. spyx's `custom` instead takes the derivative itself, and its default, documented
    as straight-through, is $g'(x) = x$: pass `DerivativeOf(lambda x: x)` for straight-through.
    """

    function: Callable[[Array], Array] = eqx.field(static=True)

    def derivative(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jax.jvp(self.function, (x,), (jnp.ones_like(x),))[1]


class Scaled(AbstractSurrogate):
    """Another surrogate's curve times a factor: `derivative(x) = factor * inner.derivative(x)`."""

    inner: AbstractSurrogate
    factor: Float[Array, ""] | float

    def derivative(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.factor * self.inner.derivative(x)


class Stretched(AbstractSurrogate):
    r"""A surrogate for a rescaled argument: the curve of $H(x / w)$, $g'(x / w) / w$.

    BrainState's neurons pass $(v - \theta) / (\theta - v_{reset})$: wrap the surrogate with that width (mV).
    """

    inner: AbstractSurrogate
    width: Float[Array, ""] | float

    def derivative(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.inner.derivative(x / self.width) / self.width


class Stochastic(AbstractStochasticSurrogate):
    r"""Spikes drawn with probability $\sigma(k x)$; the gradient is that of the probability.

    $s = H(x + \epsilon)$ with logistic noise $\epsilon$ of scale $1/k$, and $g'(x) = k \sigma(kx) (1 - \sigma(kx))$,
    the exact derivative of $E[s]$. Norse's `logistic` draws the same spikes but passes the gradient straight through;
    snnTorch's `SSO` fires deterministically and randomises the gradient instead.
    """

    slope: Float[Array, ""] | float = 4.0

    def derivative(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        probability = jax.nn.sigmoid(self.slope * x)
        return self.slope * probability * (1 - probability)

    def noise(self, key: PRNGKeyArray, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jr.logistic(key, x.shape, x.dtype) / self.slope


def with_tie(surrogate: AbstractSurrogate, tie: Tie) -> AbstractSurrogate:
    """The same curve with another rule for ties."""
    return surrogate if surrogate.tie == tie else dataclasses.replace(surrogate, tie=tie)
