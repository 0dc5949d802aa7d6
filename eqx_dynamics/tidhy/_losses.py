"""The training loss: terms of the model given inferred latents, all time steps at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ._drivers import expected_context, full_mask, infer, reconstruct
from ._inference import Inference, InferenceState, LatentInference
from ._model import TiDHy
from ._problem import Objective, freeze
from ._regularizers import Regularizer
from ._types import LatentState, RealScalar, Solution


class Windows(eqx.Module):
    """A batch for `TiDHyLoss`: observations, and what is missing.

    `mask` is False where an entry is missing or padding, shape `(batch, time)` or that of `observations`. `is_first`
    matters to `StatefulLoss` only: True where a window begins a recording, so that no state is carried into it.
    """

    observations: Float[Array, "batch time observations"]
    mask: Bool[Array, "..."] | None = None
    is_first: Bool[Array, " batch"] | None = None


class LossTerms(eqx.Module):
    r"""Sums over time and features per sequence, averaged over sequences.

    - `reconstruction`: $\sum_t \ell(g(r_t), x_t)$.
    - `prediction`: $\sum_t \ell(g(\bar r_t), x_t)$ over steps that have a predecessor.
    - `temporal`: $\lambda \sum_t \lVert r_t - \bar r_t \rVert^2$ over the same.
    - `prior`: $\lambda_h \sum_t \lVert h_t - \mu_t \rVert^2$ for a learned prior, else zero.
    """

    reconstruction: Float[Array, ""]
    prediction: Float[Array, ""]
    temporal: Float[Array, ""]
    prior: Float[Array, ""]

    @property
    def total(self) -> Float[Array, ""]:
        """Their sum."""
        return self.reconstruction + self.prediction + self.temporal + self.prior


def loss_terms(
    model: TiDHy,
    observations: Float[Array, "batch time observations"],
    solution: Solution,
    before: InferenceState,
    objective: Objective,
    mask: Bool[Array, "batch time observations"] | None = None,
    *,
    is_forecast: bool = False,
) -> LossTerms:
    """The terms of the loss for inferred latents, differentiable in the model.

    **Arguments:** `before`: the state that inference started from; `objective`: its `temporal` weight is used;
    `is_forecast`: see `TiDHyLoss`.
    """
    is_observed = jnp.ones(observations.shape, bool) if mask is None else mask
    observations = jnp.where(is_observed, observations, 0.0)
    is_step = jnp.ones(observations.shape[:2], bool) if mask is None else jnp.any(mask, axis=-1)
    observed_before = jnp.concatenate([before.is_started[:, None], is_step[:, :-1]], axis=1)
    has_previous = jax.lax.cummax(observed_before.astype(jnp.int32), axis=1).astype(bool) & is_step
    latents, context_latents = solution.latents, solution.context_latents
    previous = shift(solution, before)

    def step(observation, is_observed, has_previous, is_step, latents, context_latents, previous):
        def nll(r: Float[Array, " latents"]) -> Float[Array, ""]:
            entries = model.likelihood.nll(model.decoder(r), observation)
            return jnp.sum(jnp.where(is_observed, entries, 0.0))

        context = context_latents
        if is_forecast:
            context = expected_context(model, previous.latents, previous.context_latents)
        predicted = model.predict(previous.latents, context)
        change = objective.temporal * jnp.sum((latents - predicted) ** 2)
        prior = jnp.zeros_like(change)
        if model.prior is not None and model.prior.is_learned:
            expected = model.prior.mean(previous.latents, previous.context_latents)
            prior = model.prior.precision * jnp.sum((context_latents - expected) ** 2)
        zero = jnp.zeros_like(change)
        return (
            nll(latents),
            jnp.where(has_previous, nll(predicted), zero),
            jnp.where(has_previous, change, zero),
            jnp.where(has_previous, prior, zero),
        )

    arguments = (observations, is_observed, has_previous, is_step, latents, context_latents, previous)
    merged = jtu.tree_map(lambda leaf: jnp.reshape(leaf, (-1, *leaf.shape[2:])), arguments)
    terms = jax.vmap(step)(*merged)
    return LossTerms(*(jnp.sum(term) / observations.shape[0] for term in terms))


def shift(solution: Solution, before: InferenceState) -> LatentState:
    """Latents of the time step before, for every time step."""
    return LatentState(
        jnp.concatenate([before.last.latents[:, None], solution.latents[:, :-1]], axis=1),
        jnp.concatenate([before.last.context_latents[:, None], solution.context_latents[:, :-1]], axis=1),
    )


def r_squared(
    estimates: Float[Array, "batch time observations"],
    observations: Float[Array, "batch time observations"],
    mask: Bool[Array, "batch time observations"] | None = None,
) -> Float[Array, ""]:
    r"""$1 - \sum (x - \hat x)^2 / \sum (x - \bar x)^2$ over observed entries, $\bar x$ the mean of each channel."""
    if mask is None:  # no array of ones: the compiler would spend seconds on summing a large constant
        means = jnp.mean(observations, axis=(0, 1), keepdims=True)
        residual, total = jnp.sum((observations - estimates) ** 2), jnp.sum((observations - means) ** 2)
    else:
        observations, estimates = jnp.where(mask, observations, 0.0), jnp.where(mask, estimates, 0.0)
        counts = jnp.maximum(jnp.sum(mask, axis=(0, 1), keepdims=True), 1).astype(observations.dtype)
        means = jnp.sum(observations, axis=(0, 1), keepdims=True) / counts
        residual = jnp.sum(jnp.where(mask, (observations - estimates) ** 2, 0.0))
        total = jnp.sum(jnp.where(mask, (observations - means) ** 2, 0.0))
    return 1 - residual / jnp.maximum(total, jnp.finfo(observations.dtype).tiny)


class Inferred(eqx.Module):
    """A batch with the latents inferred for it, ready for `loss_terms` at any parameters."""

    observations: Float[Array, "batch time observations"]
    mask: Bool[Array, "batch time observations"] | None
    solution: Solution
    before: InferenceState
    after: InferenceState
    objective: Objective
    is_forecast: bool = eqx.field(static=True, default=False)

    @property
    def is_step(self) -> Bool[Array, "batch time"] | None:
        """Time steps with anything observed; None for all."""
        return None if self.mask is None else jnp.any(self.mask, axis=-1)

    def terms(self, model: TiDHy) -> LossTerms:
        """The terms of the loss, with the latents as they are."""
        return loss_terms(
            model,
            self.observations,
            self.solution,
            self.before,
            self.objective,
            self.mask,
            is_forecast=self.is_forecast,
        )


class TiDHyLoss(eqx.Module):
    """What `eqx_dynamics.training.make_step` differentiates: inference, then the loss terms and regularisers.

    **Arguments:**

    - `inference`: how latents are found; its `objective.temporal` also weighs the temporal term.
    - `regularizers`: each `(model, solution, is_step) -> scalar`, such as `BasisSimilarity`.
    - `weights`: of the terms, in the order of `LossTerms`.
    - `is_forecast`: predictions use the context expected from the step before, not the one inferred with the
      observation in sight (published). The latter rewards a hypernetwork that lets the context follow every
      observation; a forecast does not. Made for a solver that differentiates through time (`Unrolled`, `Implicit`).
    """

    inference: Inference
    regularizers: tuple[Regularizer, ...] = ()
    weights: tuple[RealScalar, RealScalar, RealScalar, RealScalar] = (1.0, 1.0, 1.0, 1.0)
    is_forecast: bool = eqx.field(static=True, default=False)

    def __call__(
        self, model: TiDHy, batch: Windows | Float[Array, "batch time observations"], key: PRNGKeyArray | None
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss of a batch of windows, each a fresh sequence, and metrics.

        Metrics: the terms, `r2` of the reconstruction, `inference_steps` (mean per time step) and `diverged` (fraction
        of time steps).
        """
        inferred = self.infer(model, batch, key)
        return self.total(model, inferred), self.metrics(model, inferred)

    def infer(
        self,
        model: TiDHy,
        batch: Windows | Float[Array, "batch time observations"],
        key: PRNGKeyArray | None = None,
        *,
        state: InferenceState | None = None,
        initial_context: Float[Array, "batch context"] | None = None,
    ) -> Inferred:
        """Latents of a batch; `state` carries on from the window before, `initial_context` starts fresh ones."""
        batch = batch if isinstance(batch, Windows) else Windows(batch)
        observations, mask = batch.observations, batch.mask
        mask = full_mask(mask, observations.shape)
        before = state
        if before is None:
            cell = LatentInference(model, self.inference)
            before = cell.fresh_state(observations.shape[:1], initial_context, key=key)
            initial_context = before.last.context_latents
        solution, after = infer(
            model, observations, self.inference, mask=mask, state=state, initial_context=initial_context
        )
        return Inferred(observations, mask, solution, before, after, self.inference.objective, self.is_forecast)

    def total(self, model: TiDHy, inferred: Inferred) -> Float[Array, ""]:
        """The loss, given latents."""
        terms = inferred.terms(model)
        leaves = (terms.reconstruction, terms.prediction, terms.temporal, terms.prior)
        loss = sum((w * term for w, term in zip(self.weights, leaves, strict=True)), jnp.zeros_like(leaves[0]))
        for regularizer in self.regularizers:
            loss = loss + regularizer(model, inferred.solution, inferred.is_step)
        return loss

    def metrics(self, model: TiDHy, inferred: Inferred) -> dict[str, Array]:
        """Scalars to watch."""
        terms, solution = inferred.terms(model), inferred.solution
        estimates = reconstruct(model, jax.lax.stop_gradient(solution.latents))
        return {
            "reconstruction": terms.reconstruction,
            "prediction": terms.prediction,
            "temporal": terms.temporal,
            "prior": terms.prior,
            "r2": r_squared(estimates, inferred.observations, inferred.mask),
            "inference_steps": jnp.mean(solution.num_steps.astype(inferred.observations.dtype)),
            "diverged": jnp.mean(solution.has_diverged.astype(inferred.observations.dtype)),
        }


class StatefulLoss(eqx.Module):
    """`TiDHyLoss` whose sequences go on from batch to batch: each batch is the next window of the same recordings.

    Use it with `make_step(loss, ...)` and `statistics=loss.init_state(model, batch_size)`; gradients stay within one
    window. `Windows.is_first` says where recordings begin, at the second epoch for instance. (The published `stateful`
    option stores the latents and never reads them.)
    """

    loss: TiDHyLoss

    def init_state(self, model: TiDHy, batch_size: int, *, key: PRNGKeyArray | None = None) -> InferenceState:
        """The state before the first window."""
        return LatentInference(model, self.loss.inference).init_state((batch_size,), key=key)

    def __call__(
        self,
        model: TiDHy,
        batch: Windows | Float[Array, "batch time observations"],
        key: PRNGKeyArray | None,
        state: InferenceState,
    ) -> tuple[Float[Array, ""], dict[str, Array], InferenceState]:
        """Loss, metrics and the latents at the end of the window."""
        if isinstance(batch, Windows) and batch.is_first is not None:
            fresh = self.init_state(model, batch.observations.shape[0], key=key)
            choose = jax.vmap(lambda first, a, b: jtu.tree_map(lambda a, b: jnp.where(first, a, b), a, b))
            state = choose(batch.is_first, fresh, state)
        inferred = self.loss.infer(model, batch, key, state=state)
        return self.loss.total(model, inferred), self.loss.metrics(model, inferred), freeze(inferred.after)
