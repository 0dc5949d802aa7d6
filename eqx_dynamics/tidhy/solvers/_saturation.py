"""Bounds that the published solver applies to its iterates; each is a function of one array."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import RealScalar


class ShiftedSigmoid(eqx.Module):
    r"""$2 \sigma(x) - 1$."""

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return 2 * jax.nn.sigmoid(x) - 1


class ScaledTanh(eqx.Module):
    r"""$s \tanh(x / s)$."""

    scale: RealScalar

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.scale * jnp.tanh(x / self.scale)


class ScaledSoftsign(eqx.Module):
    r"""$s x / (s + |x|)$."""

    scale: RealScalar

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return self.scale * x / (self.scale + jnp.abs(x))


class HardTanh(eqx.Module):
    r"""$x$ clipped to $[-s, s]$."""

    scale: RealScalar

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.clip(x, -self.scale, self.scale)
