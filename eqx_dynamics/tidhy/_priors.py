"""What the context latents are expected to be before an observation is seen."""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._mlp import NormedMLP
from ._types import RealScalar, check_numbers, check_sizes


class AbstractContextPrior(eqx.Module):
    r"""A Gaussian prior: $\lambda_h \lVert h_t - \mu(r_{t-1}, h_{t-1}) \rVert^2$ joins the inference objective."""

    precision: eqx.AbstractVar[RealScalar]
    is_learned: ClassVar[bool]

    def __check_init__(self):
        check_numbers(self, ("precision",), lambda x: x >= 0, "not be negative")

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


class MeanReverting(AbstractContextPrior):
    r"""$\mu = a h_{t-1}$: the context changes slowly and forgets.

    Under a `RandomWalk` evidence adds up without end: the context wanders into the flat ends of the hypernetwork, from
    where nothing calls it back, and regimes that it followed are lost after some hundred steps. A leak keeps it where
    evidence counts, as the chance of a switch does in a filter over regimes. Choose $1 / (1 - a)$ about as long as a
    regime lasts.
    """

    precision: RealScalar = 1.0
    decay: RealScalar = 0.95
    is_learned: ClassVar[bool] = False

    def __check_init__(self):
        check_numbers(self, ("decay",), lambda x: 0 <= x <= 1, "lie in [0, 1]")

    def mean(self, latents, context_latents):
        return self.decay * context_latents


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
        check_sizes(latent_size=latent_size, context_size=context_size, hidden_size=hidden_size)
        self.mlp = NormedMLP(latent_size + context_size, hidden_size, context_size, norm_eps=norm_eps, key=key)
        self.precision = precision

    def mean(self, latents, context_latents):
        return self.mlp(jnp.concatenate([latents, context_latents]))
