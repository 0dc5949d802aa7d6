"""What a neuron's constants may be: fixed or learned, shared or one per neuron, free or kept in range."""

import abc
import dataclasses
import math
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int


class AbstractParameter(eqx.Module):
    """A constant that is stored in one form and used in another, e.g. positive by parametrisation."""

    @abc.abstractmethod
    def value(self) -> Float[Array, "..."]:
        """The constant as the equations see it."""


ParameterLike: TypeAlias = Float[Array, "..."] | Float[np.ndarray, "..."] | float | int | AbstractParameter
"""A Python number is fixed; a JAX array is a leaf that optimisers train; an `AbstractParameter` stays in its range."""


class Positive(AbstractParameter):
    r"""A learnable constant that cannot leave $(\text{lower}, \infty)$: $\text{lower} + e^{\text{raw}}$.

    With `lower = dt` and an `EulerDecay` this is the time constant of the parametric LIF neuron,
    $\Delta t / \tau = \sigma(w)$ with $w = -\text{raw}$ (Fang et al., ICCV 2021, eq. 9, for $\Delta t = 1$).
    """

    raw: Float[Array, "..."]
    lower: float

    def __init__(self, initial: Float[Array, "..."] | Float[np.ndarray, "..."] | float | int, *, lower: float = 0.0):
        """**Arguments:**

        - `initial`: value or values to start from, in the unit of the constant (ms for time constants).
        - `lower`: bound that is never reached, same unit.

        **Raises:** `ValueError` unless every initial value is above `lower`.
        """
        require(initial, "initial", above=lower, unit="")
        self.raw = jnp.log(jnp.asarray(initial, dtype=float) - lower)
        self.lower = lower

    def value(self) -> Float[Array, "..."]:
        return self.lower + jnp.exp(self.raw)


class Bounded(AbstractParameter):
    r"""A learnable constant kept in $(\text{lower}, \text{upper})$ by a logistic function of what is stored."""

    raw: Float[Array, "..."]
    lower: float
    upper: float

    def __init__(
        self,
        initial: Float[Array, "..."] | Float[np.ndarray, "..."] | float | int,
        *,
        lower: float = 0.0,
        upper: float = 1.0,
    ):
        """**Arguments:**

        - `initial`: value or values to start from.
        - `lower`, `upper`: bounds that are never reached, same unit.

        **Raises:** `ValueError` unless every initial value lies strictly between the bounds.
        """
        require(initial, "initial", above=lower, below=upper, unit="")
        fraction = (jnp.asarray(initial, dtype=float) - lower) / (upper - lower)
        self.raw = jnp.log(fraction) - jnp.log1p(-fraction)
        self.lower = lower
        self.upper = upper

    def value(self) -> Float[Array, "..."]:
        return self.lower + (self.upper - self.lower) * jax.nn.sigmoid(self.raw)


class Frozen(AbstractParameter):
    """An array that is not trained: its gradient is zero. For one fixed value per neuron."""

    array: Float[Array, "..."]

    def __init__(self, array: Float[Array, "..."] | Float[np.ndarray, "..."] | float):
        """**Arguments:** `array`: the fixed value or values."""
        self.array = jnp.asarray(array, dtype=float)

    def value(self) -> Float[Array, "..."]:
        return jax.lax.stop_gradient(self.array)


def tau_from_beta(beta: ParameterLike, dt: float = 1.0) -> Float[Array, "..."] | float:
    r"""The time constant (ms) of a decay factor per step, $\tau = -\Delta t / \ln \beta$; infinite for $\beta = 1$.

    **Raises:** `ValueError` unless $0 < \beta \le 1$.
    """
    require(beta, "beta", above=0.0, up_to=1.0, unit="")
    beta = beta.value() if isinstance(beta, AbstractParameter) else beta
    if isinstance(beta, float | int):
        return math.inf if beta == 1 else -dt / math.log(beta)
    beta = jnp.asarray(beta)
    kept = beta < 1
    return jnp.where(kept, -dt / jnp.log(jnp.where(kept, beta, 0.5)), jnp.inf)


def resolve(parameter: ParameterLike, like: Float[Array, "..."]) -> Float[Array, "..."] | float:
    """The value of a constant in the dtype of `like`, with axes of size one in front for its leading (batch) axes."""
    if isinstance(parameter, AbstractParameter):
        parameter = parameter.value()
    if isinstance(parameter, float | int):
        return float(parameter)
    array = jnp.asarray(parameter).astype(like.dtype)
    return array if array.ndim == 0 else jnp.expand_dims(array, tuple(range(like.ndim - array.ndim)))


def concrete(parameter: ParameterLike | Int[Array, "..."]) -> np.ndarray | None:
    """The numbers of a constant or array if they are known now; None under a transformation such as `jit` or `vmap`."""
    leaves = jax.tree_util.tree_leaves(parameter)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return None
    return np.asarray(parameter.value() if isinstance(parameter, AbstractParameter) else parameter)


def require(
    parameter: ParameterLike,
    name: str,
    *,
    above: float | None = None,
    below: float | None = None,
    least: float | None = None,
    up_to: float | None = None,
    unit: str = "ms",
    remedy: str = "",
) -> None:
    """Raise a `ValueError` naming `name` unless every known value is finite-or-infinite, not NaN, and in range."""
    values = concrete(parameter)
    if values is None:
        return
    bounds = [
        (above, np.less_equal, "above"),
        (below, np.greater_equal, "below"),
        (least, np.less, "at least"),
        (up_to, np.greater, "at most"),
    ]
    for bound, violates, word in bounds:
        if bound is not None and np.any(violates(values, bound) | np.isnan(values)):
            wrong = values[violates(values, bound) | np.isnan(values)].ravel()[0] if values.ndim else values
            number = f"{bound:g} {unit}".strip()
            raise ValueError(f"`{name}` must be {word} {number}; got {float(wrong):g}. {remedy}".strip())
    if np.any(np.isnan(values)):
        raise ValueError(f"`{name}` must not be NaN. {remedy}".strip())


def require_step(dt: float | int) -> None:
    """Raise a `ValueError` unless the length of a step, `dt` (ms), is positive and finite."""
    require(dt, "dt", above=0.0, below=math.inf)


def require_fits(parameter: ParameterLike, name: str, size: tuple[int, ...]) -> None:
    """Raise a `ValueError` unless `parameter` broadcasts against neurons of shape `size`."""
    shape = np.shape(parameter.value() if isinstance(parameter, AbstractParameter) else parameter)
    try:
        fits = np.broadcast_shapes(shape, size) == size
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"`{name}` must be one number or broadcast against the neurons {size}; got shape {shape}.")


def require_part_fits(part: eqx.Module, name: str, size: tuple[int, ...]) -> None:
    """Raise a `ValueError` unless every array that a neuron's part holds broadcasts against neurons of shape `size`."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, jax.Array | np.ndarray | AbstractParameter):
            require_fits(value, f"{name}.{field.name}", size)
