"""Penalties on parameters and on mixture weights: only such as have a gradient.

Penalties on latents are not here: during training latents are constants, so a penalty on them moves no parameter (in
the published code nine such knobs only shift the reported loss). Put them into the inference `Objective` instead. A
count of non-zeros has no gradient either.
"""

import abc
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._decoders import LinearDecoder
from ._model import TiDHy
from ._types import RealScalar, Solution, to_decompose


# Which time steps of which sequences are part of the data; None for all.
IsStep: TypeAlias = Bool[Array, "batch time"] | None


class Regularizer(eqx.Module):
    """A weighted penalty, `(model, solution, is_step) -> scalar`."""

    weight: eqx.AbstractVar[RealScalar]

    @abc.abstractmethod
    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        """The penalty without its weight; time steps where `is_step` is False (padding) do not count."""

    def __call__(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        return self.weight * self.value(model, solution, is_step)


class BasisSimilarity(Regularizer):
    r"""$\frac1M \sum_{m<n} |\cos(V_m, V_n)|$: components that differ.

    `within=True` gives what the later JAX code computes by mistake, the summed similarity of rows inside each $V_m$.
    """

    weight: RealScalar = 5.0
    within: bool = eqx.field(static=True, default=False)

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        basis = model.transition.transition_basis
        if self.within:
            return jnp.sum(jax.vmap(_similarity)(basis))
        return _similarity(jnp.reshape(basis, (basis.shape[0], -1))) / basis.shape[0]


class NuclearNorm(Regularizer):
    r"""$\sum_m \lVert V_m \rVert_*$: components of low rank."""

    weight: RealScalar = 1e-3

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        basis = model.transition.transition_basis
        return jnp.sum(jnp.linalg.svd(to_decompose(basis), compute_uv=False)).astype(basis.dtype)


class BasisL1(Regularizer):
    r"""$\sum_m \lVert V_m \rVert_1$: sparse components."""

    weight: RealScalar = 1e-3

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        return jnp.sum(jnp.abs(model.transition.transition_basis))


class HypernetworkL1(Regularizer):
    """L1 norm of the hypernetwork's last weight."""

    weight: RealScalar = 1e-3

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        return jnp.sum(jnp.abs(model.hypernetwork.mlp.third.weight))


class HypernetworkOrthogonality(Regularizer):
    r"""$\frac1H \sum_{i<j} |\cos(W_{:,i}, W_{:,j})|$ for the hypernetwork's first weight: context latents that
    differ."""

    weight: RealScalar = 5.0

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        columns = model.hypernetwork.mlp.first.weight.T
        return _similarity(columns) / columns.shape[0]


class DecoderL1(Regularizer):
    """L1 norm of the decoder's first weight."""

    weight: RealScalar = 1e-3

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        return jnp.sum(jnp.abs(_decoder_weight(model)))


class DecoderOrthogonality(Regularizer):
    r"""Distance of $C^T C$ from the identity.

    The mean of $(C^T C - I)^2$ over entries; with `normalized`, its sum for columns of unit length.
    """

    weight: RealScalar = 0.1
    normalized: bool = eqx.field(static=True, default=False)

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        columns = _decoder_weight(model)
        if self.normalized:
            columns = _unit(columns.T).T
        distance = (columns.T @ columns - jnp.eye(columns.shape[1], dtype=columns.dtype)) ** 2
        return jnp.sum(distance) if self.normalized else jnp.mean(distance)


class WeightL1(Regularizer):
    r"""Mean over time steps of $\lVert w_t \rVert_1$: few and small mixture weights. Not for softmax weights."""

    weight: RealScalar = 0.01

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        model.hypernetwork.check_l1("WeightL1")
        return _mean(jnp.sum(jnp.abs(mixture_weights(model, solution)), axis=-1), is_step)


class AdaptiveWeightSparsity(Regularizer):
    r"""`WeightL1` that relaxes where enough weights are zero. Not for softmax weights.

    $\exp(\tau (\rho - f_t)) \lVert w_t \rVert_1$, with $f_t$ the fraction of weights below $10^{-3}$ and $\rho$ =
    `target`; the factor is kept within [0.01, 100].
    """

    weight: RealScalar = 0.01
    target: RealScalar = 0.6
    sharpness: RealScalar = 1.0

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        model.hypernetwork.check_l1("AdaptiveWeightSparsity")
        weights = mixture_weights(model, solution)
        is_small = (jnp.abs(weights) < 1e-3).astype(weights.dtype)
        excess = jnp.clip(self.target - jnp.mean(is_small, axis=-1), -5.0, 5.0)
        factor = jnp.clip(jnp.exp(self.sharpness * excess), 0.01, 100.0)
        return _mean(factor * jnp.sum(jnp.abs(weights), axis=-1), is_step)


class ComponentCount(Regularizer):
    r"""Share of the mixture beyond the `active_ratio` largest weights.

    $\sum_k \sigma(2 (k - \rho M)) p_{(k)}$ with $p = |w| / \sum |w|$ sorted downwards, $k$ from zero.
    """

    weight: RealScalar = 0.01
    active_ratio: RealScalar = 0.5

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        weights = jnp.abs(mixture_weights(model, solution))
        shares = weights / (jnp.sum(weights, axis=-1, keepdims=True) + 1e-8)
        ranks = jnp.arange(weights.shape[-1], dtype=weights.dtype)
        gates = jax.nn.sigmoid(2 * (ranks - self.active_ratio * weights.shape[-1]))
        return _mean(jnp.sort(shares, axis=-1, descending=True) @ gates, is_step)


class SelectiveWeights(Regularizer):
    r"""Mass on the `active_ratio` largest weights is rewarded, mass elsewhere penalised.

    $\sum_k (1 - s_k) p_{(k)} - \frac12 \sum_k s_k p_{(k)}$, with $p = \mathrm{softmax}(w / \tau)$ sorted downwards and
    $s_k = \sigma(10 (a - k / M))$, $a$ within [0.1, 0.9].
    """

    weight: RealScalar = 0.01
    active_ratio: RealScalar = 0.5
    temperature: RealScalar = 1.0

    def value(self, model: TiDHy, solution: Solution, is_step: IsStep = None) -> Float[Array, ""]:
        weights = mixture_weights(model, solution)
        shares = jnp.sort(jax.nn.softmax(weights / self.temperature, axis=-1), axis=-1, descending=True)
        ranks = jnp.arange(weights.shape[-1], dtype=weights.dtype) / weights.shape[-1]
        gates = jax.nn.sigmoid(10 * (jnp.clip(self.active_ratio, 0.1, 0.9) - ranks))
        return _mean(shares @ (1 - gates) - 0.5 * (shares @ gates), is_step)


def mixture_weights(model: TiDHy, solution: Solution) -> Float[Array, "steps components"]:
    """Mixture weights of all time steps of all sequences, differentiable in the hypernetwork."""
    context = jnp.reshape(solution.context_latents, (-1, model.context_size))
    return jax.vmap(model.mixture)(context)[:, : model.num_components]


def _similarity(rows: Float[Array, "rows dim"]) -> Float[Array, ""]:
    unit = _unit(rows)
    return jnp.sum(jnp.abs(jnp.triu(unit @ unit.T, k=1)))


def _unit(rows: Float[Array, "rows dim"]) -> Float[Array, "rows dim"]:
    """Rows of unit length; zero rows stay, with a finite gradient."""
    return rows * jax.lax.rsqrt(jnp.maximum(jnp.sum(rows**2, axis=1, keepdims=True), 1e-16))


def _mean(values: Float[Array, " steps"], is_step: IsStep) -> Float[Array, ""]:
    """The mean over the time steps that are part of the data."""
    if is_step is None:
        return jnp.mean(values)
    counts = jnp.reshape(is_step, -1)
    return jnp.sum(jnp.where(counts, values, 0.0)) / jnp.maximum(jnp.sum(counts), 1).astype(values.dtype)


def _decoder_weight(model: TiDHy) -> Float[Array, "out in"]:
    decoder = model.decoder
    return decoder.linear.weight if isinstance(decoder, LinearDecoder) else decoder.mlp.first.weight  # pyright: ignore
