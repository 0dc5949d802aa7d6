"""The optimisation problem of one time step of one sequence."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree

from ._model import TiDHy
from ._types import LatentState, RealScalar, check_numbers


class Objective(eqx.Module):
    r"""Weights of the terms that inference minimises beside the likelihood.

    $J(r, h) = \sum_d \ell(g(r), x)_d + \lambda \lVert r - \bar r(h) \rVert^2 + \lambda_h \lVert h - \mu \rVert^2
    + \alpha_r \lVert r \rVert_1 + \alpha_h \lVert h \rVert_1 + \alpha_w \lVert w(h) \rVert_1$; $\lambda_h$ and $\mu$
    belong to the model's prior.

    **Arguments:**

    - `temporal`: $\lambda$, published value 2.
    - `initial`: replaces $\lambda$ at the first time step, where the prediction is zero: a slight ridge.
    - `l1_latents`, `l1_context`, `l1_weights`: $\alpha_r$, $\alpha_h$, $\alpha_w$.
    """

    temporal: RealScalar = 2.0
    initial: RealScalar = 0.01
    l1_latents: RealScalar = 0.0
    l1_context: RealScalar = 0.0
    l1_weights: RealScalar = 0.0

    def __check_init__(self):
        check_numbers(self, ("temporal", "initial"), lambda x: 0 < x < math.inf, "be positive and finite")
        penalties = ("l1_latents", "l1_context", "l1_weights")
        check_numbers(self, penalties, lambda x: 0 <= x < math.inf, "not be negative or infinite")


class StepProblem(eqx.Module):
    """$J$ of one time step: everything fixed while the latents of that step are sought.

    `columns` holds $V_m r_{t-1}$, so that a prediction costs one small matrix product in every solver iteration instead
    of a new transition matrix.
    """

    model: TiDHy
    objective: Objective
    observation: Float[Array, " observations"]
    mask: Bool[Array, " observations"] | None
    columns: Float[Array, "latents weights_and_gains"]
    prior_mean: Float[Array, " context"]
    temporal_weight: Float[Array, ""]
    prepared: Any

    def __init__(
        self,
        model: TiDHy,
        objective: Objective,
        observation: Float[Array, " observations"],
        mask: Bool[Array, " observations"] | None,
        previous: LatentState,
        *,
        is_first: Bool[Array, ""] | bool = False,
        prepared: PyTree = None,
    ):
        """**Arguments:** `previous`: latents of the step before; `prepared`: the solver's own, from the model."""
        self.model = model
        self.objective = objective
        self.observation = observation if mask is None else jnp.where(mask, observation, 0.0)
        self.mask = mask
        self.columns = model.transition.columns(previous.latents)
        if model.prior is None:
            self.prior_mean = previous.context_latents
        else:
            self.prior_mean = model.prior.mean(previous.latents, previous.context_latents)
        self.temporal_weight = jnp.where(is_first, objective.initial, objective.temporal).astype(model.dtype)
        self.prepared = prepared

    @property
    def prior_precision(self) -> RealScalar:
        """$\\lambda_h$; zero without a prior."""
        return 0.0 if self.model.prior is None else self.model.prior.precision

    def predict(self, context_latents: Float[Array, " context"]) -> Float[Array, " latents"]:
        r"""$\bar r(h)$."""
        return self.columns @ self.model.mixture(context_latents)

    def nll(self, latents: Float[Array, " latents"]) -> Float[Array, ""]:
        """The likelihood term, summed over observed entries."""
        entries = self.model.likelihood.nll(self.model.decoder(latents), self.observation)
        return jnp.sum(entries if self.mask is None else jnp.where(self.mask, entries, 0.0))

    def smooth(self, state: LatentState) -> Float[Array, ""]:
        """$J$ without the L1 terms."""
        change = jnp.sum((state.latents - self.predict(state.context_latents)) ** 2)
        loss = self.nll(state.latents) + self.temporal_weight * change
        if self.model.prior is not None:
            loss = loss + self.prior_precision * jnp.sum((state.context_latents - self.prior_mean) ** 2)
        return loss

    def weights(self, context_latents: Float[Array, " context"]) -> Float[Array, " components"]:
        """Mixture weights, without the gains of a dynamic bias."""
        return self.model.mixture(context_latents)[: self.model.num_components]

    def __call__(self, state: LatentState) -> Float[Array, ""]:
        """$J$."""
        return (
            self.smooth(state)
            + self.objective.l1_latents * jnp.sum(jnp.abs(state.latents))
            + self.objective.l1_context * jnp.sum(jnp.abs(state.context_latents))
            + self.objective.l1_weights * jnp.sum(jnp.abs(self.weights(state.context_latents)))
        )


def freeze(tree: Any) -> Any:
    """The same tree with no gradient flowing into its arrays."""
    return jtu.tree_map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)
