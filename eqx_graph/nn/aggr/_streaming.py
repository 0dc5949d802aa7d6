"""Aggregations that stream: each is a formula in sums, maxima and products of messages."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...ops import AbstractMessages
from ._aggregation import AbstractStreamingAggregation


Scalars = Float[Array, "..."] | float


def _per_message(count: Array, like: Array, *, at_least: int = 1) -> Array:
    """Counts as a column that divides `like`."""
    return jnp.reshape(jnp.maximum(count, at_least), (-1, *[1] * (like.ndim - 1))).astype(like.dtype)


def _filled(messages: AbstractMessages, value: Array) -> Array:
    """`value`, with 0 for receivers without messages."""
    some = jnp.reshape(messages.count() > 0, (-1, *[1] * (value.ndim - 1)))
    return jnp.where(some, value, 0)


class Sum(AbstractStreamingAggregation):
    r"""$\sum_e m_e$; 0 without messages."""

    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        return messages.sum()


class Mean(AbstractStreamingAggregation):
    r"""$\frac{1}{n} \sum_e m_e$; 0 without messages."""

    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        total = messages.sum()
        return total / _per_message(messages.count(), total)


class Max(AbstractStreamingAggregation):
    r"""$\max_e m_e$, elementwise; 0 without messages. Ties share the gradient evenly."""

    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        return _filled(messages, messages.max())


class Min(AbstractStreamingAggregation):
    r"""$\min_e m_e$, elementwise; 0 without messages. Ties share the gradient evenly."""

    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        return _filled(messages, -messages.max(lambda m: -m))


class Mul(AbstractStreamingAggregation):
    r"""$\prod_e m_e$; 1 without messages (as in PyG). Gradients are exact at zero messages too."""

    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        return messages.prod()


def _variance(messages: AbstractMessages, *, semi_grad: bool) -> Array:
    total = messages.sum()
    count = _per_message(messages.count(), total)
    mean = total / count
    if semi_grad:  # no gradient through the mean of squares, as in PyG
        square = messages.sum(lambda m: jnp.square(jax.lax.stop_gradient(m))) / count
        return square - jnp.square(mean)
    # Subtracting the mean first loses nothing to cancellation; the gradient is the same function.
    return messages.sum(lambda m, mean: jnp.square(m - mean), mean) / count


class Var(AbstractStreamingAggregation):
    r"""$\frac{1}{n} \sum_e (m_e - \bar{m})^2$; 0 without messages.

    PyG computes $\overline{m^2} - \bar{m}^2$, which cancels for large means; values agree where that is accurate.
    `semi_grad` stops the gradient through $\overline{m^2}$ (Faber et al., "Gated graph networks", as in PyG).
    """

    semi_grad: bool = False

    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        return _variance(messages, semi_grad=self.semi_grad)


class Std(AbstractStreamingAggregation):
    r"""$\sqrt{\mathrm{Var}}$ where the variance exceeds $10^{-5}$, else 0 with gradient 0 (PyG's clamp)."""

    semi_grad: bool = False

    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        variance = _variance(messages, semi_grad=self.semi_grad)
        small = variance <= 1e-5
        return jnp.where(small, 0, jnp.sqrt(jnp.where(small, 1, variance)))


class LogSumExp(AbstractStreamingAggregation):
    r"""$\log \sum_e \exp(m_e)$; 0 without messages."""

    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        top = jax.lax.stop_gradient(messages.max())
        top = jnp.where(jnp.isfinite(top), top, 0)
        total = messages.sum(lambda m, top: jnp.exp(m - top), top)
        return jnp.where(total == 0, 0, top + jnp.log(jnp.where(total == 0, 1, total)))


class Softmax(AbstractStreamingAggregation):
    r"""$\sum_e \alpha_e m_e$ with $\alpha = \mathrm{softmax}_e(t\, m_e)$, per channel; 0 without messages.

    `t` is a scalar or one value per channel (an array is a parameter like any other: PyG's `learn=True`); `semi_grad`
    stops the gradient through $\alpha$, as in PyG.

    ??? cite "Reference"
        Li et al., DeeperGCN, 2020, eq. 4.
    """

    t: Scalars = 1.0
    semi_grad: bool = False

    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        t = self.t
        top = jax.lax.stop_gradient(messages.max(lambda m: _scale(t, m)))
        top = jnp.where(jnp.isfinite(top), top, 0)

        def terms(m: Array, top: Array) -> tuple[Array, Array]:
            weight = jnp.exp(_scale(t, m) - top)
            weight = jax.lax.stop_gradient(weight) if self.semi_grad else weight
            return weight * m, weight

        total, weight = messages.sum(terms, top)
        return total / jnp.where(weight > 0, weight, 1)


class PowerMean(AbstractStreamingAggregation):
    r"""$\left(\frac{1}{n} \sum_e m_e^p\right)^{1/p}$ of messages clamped to `[clamp_min, clamp_max]`.

    `p` is a scalar or one value per channel (an array is a parameter like any other: PyG's `learn=True`). As in PyG
    the mean is clamped before the root too, so a node without messages gets `clamp_min ** (1 / p)`, and nothing is
    clamped for the float `p = 1`. None as a bound does not clamp; a power of a negative number that is not real is NaN.

    ??? cite "Reference"
        Li et al., DeeperGCN, 2020, eq. 5.
    """

    p: Scalars = 1.0
    clamp_min: Scalars | None = 1e-4
    clamp_max: Scalars | None = 100.0

    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        p = self.p
        if isinstance(p, float) and p == 1:
            return Mean().reduce(messages)
        total = messages.sum(lambda m: _power(self._clamp(m), p))
        mean = total / _per_message(messages.count(), total)
        return _power(self._clamp(mean), 1 / p)

    def _clamp(self, x: Array) -> Array:
        """`jnp.clip` whose gradient is 1, not 1/2, at the bounds: a mean of clamped messages stands on one."""
        low = None if self.clamp_min is None else _per_channel(self.clamp_min, x)
        high = None if self.clamp_max is None else _per_channel(self.clamp_max, x)
        x = x if low is None else jnp.where(x < low, low, x)
        return x if high is None else jnp.where(x > high, high, x)


def _per_channel(value: Scalars, like: Array) -> Array | float:
    """A hyper-parameter as something that broadcasts along the last axis of `like`."""
    if isinstance(value, float):
        return value
    value = jnp.asarray(value)
    if value.size not in (1, *like.shape[-1:]):
        raise ValueError(
            f"`t`, `p` or a bound of an aggregation must have one entry, or one for each of the {like.shape[-1]} "
            f"channels; got shape {value.shape}."
        )
    value = jnp.reshape(value, -1 if value.size > 1 else ()).astype(like.dtype)
    return jnp.broadcast_to(value, like.shape)


def _scale(t: Scalars, m: Array) -> Array:
    return m * _per_channel(t, m)


def _power(base: Array, exponent: Scalars) -> Array:
    """`base ** exponent`, with value and gradient 0 at 0."""
    nonzero = base != 0
    return jnp.where(nonzero, jnp.power(jnp.where(nonzero, base, 1), _per_channel(exponent, base)), 0)
