"""Everything that inference says about a recording, with one convention."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ._drivers import expected_context, full_mask, infer
from ._inference import Inference, InferenceState
from ._losses import shift
from ._model import TiDHy
from ._types import LatentState, Solution


class Record(eqx.Module):
    r"""Latents, predictions and losses of every time step, axes `(*sequences, time, ...)`.

    **The convention:** whatever is named `predicted` is what was known before $x_t$: it uses $r_{t-1}$ and $h_{t-1}$
    (or a learned prior's mean). Everything else uses $h_t$ and $r_t$, inferred with $x_t$. So `transitions` is exactly
    the mixture by `weights`, and `predicted_latents` is `predicted_transitions` applied to the latents before. The
    published recorders mix the two. At the first step of a fresh sequence the latents before are those it started from.

    - `reconstructions`, `predicted_observations`: expected observations of $r_t$ and of $\bar r_t$, in data units.
    - `latents`, `predicted_latents`, `context_latents`: $r_t$, $\bar r_t$, $h_t$.
    - `weights`, `predicted_weights`: mixture weights; `gains`, `predicted_gains`: of a dynamic bias (else width zero).
    - `transitions`, `predicted_transitions`: $\sum_m w_m V_m$.
    - `reconstruction_loss`, `prediction_loss`: $\ell$ entry by entry, zero where missing.
    - `temporal_loss`: $(r_t - \bar r_t)^2$ entry by entry, without the weight $\lambda$.
    - `result`, `num_steps`, `objective`: of the solver, per time step.
    """

    reconstructions: Float[Array, "*axes observations"]
    predicted_observations: Float[Array, "*axes observations"]
    latents: Float[Array, "*axes latents"]
    predicted_latents: Float[Array, "*axes latents"]
    context_latents: Float[Array, "*axes context"]
    weights: Float[Array, "*axes components"]
    predicted_weights: Float[Array, "*axes components"]
    gains: Float[Array, "*axes gains"]
    predicted_gains: Float[Array, "*axes gains"]
    transitions: Float[Array, "*axes latents latents"]
    predicted_transitions: Float[Array, "*axes latents latents"]
    reconstruction_loss: Float[Array, "*axes observations"]
    prediction_loss: Float[Array, "*axes observations"]
    temporal_loss: Float[Array, "*axes latents"]
    result: Any
    num_steps: Int[Array, "*axes"]
    objective: Float[Array, "*axes"]


def record(
    model: TiDHy,
    observations: Float[Array, "*sequences time observations"],
    inference: Inference | None = None,
    *,
    mask: Bool[Array, "..."] | None = None,
    state: InferenceState | None = None,
    initial_context: Float[Array, "*sequences context"] | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Record, InferenceState]:
    """Infer and write down everything; arguments and errors are those of `infer`."""
    solution, final = infer(
        model, observations, inference, mask=mask, state=state, initial_context=initial_context, key=key
    )
    add_axis = observations.ndim == 2
    if add_axis:
        observations, solution, mask, state, initial_context = jtu.tree_map(
            lambda leaf: leaf[None], (observations, solution, mask, state, initial_context)
        )
    mask = full_mask(mask, observations.shape)
    answer = describe(model, observations, solution, mask=mask, before=state, initial_context=initial_context)
    return (jtu.tree_map(lambda leaf: leaf[0], answer) if add_axis else answer), final


def describe(
    model: TiDHy,
    observations: Float[Array, "sequences time observations"],
    solution: Solution,
    *,
    mask: Bool[Array, "sequences time observations"] | None = None,
    before: InferenceState | None = None,
    initial_context: Float[Array, "sequences context"] | None = None,
) -> Record:
    """The record of latents that were inferred already.

    **Arguments:** `before`: the state that inference carried on from, if any; `initial_context`: that it started from.
    """
    latents, context_latents = solution.latents, solution.context_latents
    if before is None:
        before = fresh_state(latents[:, 0], context_latents[:, 0], initial_context)
    previous = shift(solution, before)
    is_observed = jnp.ones(observations.shape, bool) if mask is None else mask

    def step(observation, is_observed, latents, context_latents, previous, solution):
        mixture = model.mixture(context_latents)
        predicted_mixture = model.mixture(expected_context(model, previous.latents, previous.context_latents))
        predicted_latents = model.transition.columns(previous.latents) @ predicted_mixture
        decoded, predicted = model.decoder(latents), model.decoder(predicted_latents)

        def nll(natural: Float[Array, " observations"]) -> Float[Array, " observations"]:
            return jnp.where(is_observed, model.likelihood.nll(natural, jnp.where(is_observed, observation, 0.0)), 0.0)

        size = model.num_components
        return Record(
            reconstructions=model.likelihood.mean(decoded),
            predicted_observations=model.likelihood.mean(predicted),
            latents=latents,
            predicted_latents=predicted_latents,
            context_latents=context_latents,
            weights=mixture[:size],
            predicted_weights=predicted_mixture[:size],
            gains=mixture[size:],
            predicted_gains=predicted_mixture[size:],
            transitions=model.transition.combine(mixture),
            predicted_transitions=model.transition.combine(predicted_mixture),
            reconstruction_loss=nll(decoded),
            prediction_loss=nll(predicted),
            temporal_loss=(latents - predicted_latents) ** 2,
            result=solution.result,
            num_steps=solution.num_steps,
            objective=solution.objective,
        )

    arguments = (observations, is_observed, latents, context_latents, previous, solution)
    return jax.vmap(jax.vmap(step))(*arguments)


def fresh_state(
    latents: Float[Array, "sequences latents"],
    context_latents: Float[Array, "sequences context"],
    initial_context: Float[Array, "sequences context"] | None,
) -> InferenceState:
    """The state before the first step of fresh sequences: zero latents, the given or a zero context."""
    context = jnp.zeros_like(context_latents) if initial_context is None else initial_context
    return InferenceState(LatentState(jnp.zeros_like(latents), context), jnp.zeros(latents.shape[0], bool))
