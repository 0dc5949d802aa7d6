"""What the context latents are expected to be before an observation is seen."""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._mlp import NormedMLP
from ._types import RealScalar


class AbstractContextPrior(eqx.Module):
    r"""A Gaussian prior: $\lambda_h \lVert h_t - \mu(r_{t-1}, h_{t-1}) \rVert^2$ joins the inference objective."""

    precision: eqx.AbstractVar[RealScalar]
    is_learned: ClassVar[bool]

    @abc.abstractmethod
    def mean(
        self, latents: Float[Array, " latents"], context_latents: Float[Array, " context"]
    ) -> Float[Array, " context"]:
        r"""$\mu$, from the latents of the step before."""


class RandomWalk(AbstractContextPrior):
    r"""$\mu = h_{t-1}$: the context changes slowly.

    Upstream relies on stopping the solver early for this; a solver that converges needs it stated.
    """

    precision: RealScalar = 1.0
    is_learned: ClassVar[bool] = False

    def mean(self, latents, context_latents):
        return context_latents


class LearnedPrior(AbstractContextPrior):
    r"""$\mu = \mathrm{MLP}([r_{t-1}, h_{t-1}])$, trained by the prior term of the loss."""

    mlp: NormedMLP
    precision: RealScalar
    is_learned: ClassVar[bool] = True

    def __init__(
        self,
        latent_size: int,
        context_size: int,
        hidden_size: int,
        *,
        precision: RealScalar = 1.0,
        norm_eps: float = 1e-5,
        key: PRNGKeyArray,
    ):
        """**Arguments:** `hidden_size`: width of both hidden layers; `precision`: $\\lambda_h$."""
        self.mlp = NormedMLP(latent_size + context_size, hidden_size, context_size, norm_eps=norm_eps, key=key)
        self.precision = precision

    def mean(self, latents, context_latents):
        return self.mlp(jnp.concatenate([latents, context_latents]))
