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

    def __check_init__(self):
        if isinstance(self.precision, int | float) and not self.precision >= 0:
            raise ValueError(f"`precision` must not be negative; got {self.precision}.")

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
        if isinstance(self.precision, int | float) and not self.precision >= 0:
            raise ValueError(f"`precision` must not be negative; got {self.precision}.")
        if isinstance(self.decay, int | float) and not 0 <= self.decay <= 1:
            raise ValueError(f"`decay` must lie in [0, 1]; got {self.decay}.")

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
        self.mlp = NormedMLP(latent_size + context_size, hidden_size, context_size, norm_eps=norm_eps, key=key)
        self.precision = precision

    def mean(self, latents, context_latents):
        return self.mlp(jnp.concatenate([latents, context_latents]))
