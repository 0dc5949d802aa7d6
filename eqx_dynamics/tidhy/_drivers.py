"""Running inference over whole sequences, one step at a time, and beyond the end of the data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._scan import scan
from ._inference import Inference, InferenceState, LatentInference, concatenate_time
from ._likelihoods import check_observations
from ._model import TiDHy
from ._types import SEQUENCES, LatentState, Solution
from .solvers import AbstractIterativeSolver, Iterate


def infer(
    model: TiDHy,
    observations: Float[Array, "*sequences time observations"],
    inference: Inference | None = None,
    *,
    mask: Bool[Array, "..."] | None = None,
    state: InferenceState | None = None,
    initial_context: Float[Array, "*sequences context"] | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Solution, InferenceState]:
    """Latents of every time step: `LatentInference` scanned over time, vmapped over sequences.

    Inference runs in float32 for a model of 16 bits: solvers follow differences that 16 bits do not hold.

    **Arguments:**

    - `observations`: one sequence or several, in the units of the data.
    - `inference`: defaults to `Inference.recommended(model)`.
    - `mask`: False where missing, shape `(*sequences, time)` (ragged sequences, padded) or that of `observations`.
    - `state`: final state of an earlier call, to carry on from (the next window of the same sequences).
    - `initial_context`: context latents before the first step of fresh sequences; zero by default.
    - `key`: for an `inference.start` that draws them.

    **Returns:** the `Solution`, with axes `(*sequences, time)`, and the state after the last step.

    **Raises:** `ValueError` for observations of another size, without time steps, or impossible for the likelihood; for
    a `state` or `initial_context` of another model or other sequences.
    """
    inference = Inference.recommended(model) if inference is None else inference
    observations, mask = _check(model, observations, mask)
    if observations.ndim == 2:  # one sequence is a batch of one
        add, drop = (lambda leaf: leaf[None]), (lambda leaf: leaf[0])
        state, initial_context, mask = jtu.tree_map(add, (state, initial_context, mask))
        answer = infer(
            model, observations[None], inference, mask=mask, state=state, initial_context=initial_context, key=key
        )
        return jtu.tree_map(drop, answer)
    if jnp.finfo(model.dtype).bits < 32:
        model, *given = _cast((model, observations, state, initial_context), jnp.dtype(jnp.float32))
        wide = infer(model, given[0], inference, mask=mask, state=given[1], initial_context=given[2], key=key)
        return _cast(wide, observations.dtype)
    cell = LatentInference(model, inference)
    if state is None:
        state = cell.fresh_state(observations.shape[:1], initial_context, key=key)
    check_state(model, state, observations.shape[:1])
    xs = observations if mask is None else (observations, mask)

    def infer_sequence(xs: PyTree, state: InferenceState) -> tuple[Solution, InferenceState]:
        if inference.start is None:
            return scan(cell, xs, state)
        if mask is None:
            first, state = cell.begin(jtu.tree_map(lambda x: x[0], xs), state)
            rest, state = scan(cell, jtu.tree_map(lambda x: x[1:], xs), state)
            return concatenate_time(first, rest), state
        # The first time step is the first of which something was observed.
        at = jnp.argmax(jnp.any(xs[1], axis=-1))
        begun = cell.begin(jtu.tree_map(lambda x: x[at], xs), state)
        is_first = (jnp.arange(len(xs[0])) == at) & ~state.is_started

        def step(
            x: PyTree, state: InferenceState, *, key: PRNGKeyArray | None = None
        ) -> tuple[Solution, InferenceState]:
            now = cell(x[0], state)
            return jtu.tree_map(lambda a, b: jnp.where(x[1], a, b), begun, now)

        return scan(step, (xs, is_first), state)

    return jax.vmap(infer_sequence, axis_name=SEQUENCES)(xs, state)


def infer_step(
    model: TiDHy,
    observation: Float[Array, "*sequences observations"],
    state: InferenceState | None = None,
    inference: Inference | None = None,
    *,
    mask: Bool[Array, "*sequences observations"] | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Solution, InferenceState]:
    """One more time step of a stream: the numbers of `infer`, as the data arrive.

    **Arguments:** `state`: None at the first step, then the state of the step before. `eqx.filter_jit` it once.
    """
    if mask is not None:
        mask = mask[..., None, :]
    solution, state = infer(model, observation[..., None, :], inference, mask=mask, state=state, key=key)
    return jtu.tree_map(lambda leaf: leaf[:, 0] if observation.ndim == 2 else leaf[0], solution), state


def inference_trace(
    model: TiDHy,
    observation: Float[Array, "sequences observations"],
    inference: Inference,
    *,
    state: InferenceState,
    num_steps: int,
    mask: Bool[Array, "sequences observations"] | None = None,
) -> LatentState:
    """Every iterate of one time step, axes `(sequences, num_steps)`, without stopping early: to study a solver.

    **Arguments:** `mask`: False where an entry of `observation` is missing.

    **Raises:** `TypeError` if the solver is not an `AbstractIterativeSolver`; errors of `infer`.
    """
    solver = inference.solver
    if not isinstance(solver, AbstractIterativeSolver):
        raise TypeError(f"`inference.solver` must be iterative to be traced; got {type(solver).__name__}.")
    cell = LatentInference(model, inference)
    several, full = _check(model, observation[:, None], None if mask is None else mask[:, None])
    observation, mask = several[:, 0], None if full is None else full[:, 0]
    check_state(model, state, observation.shape[:1])

    def run(x: PyTree, state: InferenceState) -> LatentState:
        problem = solver.focus(cell.problem(x, state))

        def step(iterate: Iterate, _) -> tuple[Iterate, LatentState]:
            iterate = solver.step(problem, iterate)
            return iterate, solver.finish(problem, iterate)

        return jax.lax.scan(step, solver.init(problem, state.last), length=num_steps)[1]

    return jax.vmap(run, axis_name=SEQUENCES)(observation if mask is None else (observation, mask), state)


class Forecast(eqx.Module):
    """What the model expects after the last observation, time steps `1 ... num_steps` ahead."""

    latents: Float[Array, "*axes latents"]
    context_latents: Float[Array, "*axes context"]
    observations: Float[Array, "*axes observations"]


def forecast(model: TiDHy, state: InferenceState, num_steps: int) -> Forecast:
    r"""Run the model freely from a state: $r \leftarrow \bar r(h)$, $\hat x = E[x \mid g(r)]$.

    The context follows a learned prior where the model has one, and keeps its last value otherwise.

    **Arguments:** `state`: what `infer` or `state_at` returned, with any leading axes; `num_steps`: how far.

    **Raises:** `ValueError` if `num_steps` is not positive or the state is of another model.
    """
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1; got {num_steps}.")
    check_state(model, state, state.is_started.shape)

    def advance(last, _):
        context_latents = expected_context(model, last.latents, last.context_latents)
        latents = model.predict(last.latents, context_latents)
        last = eqx.tree_at(lambda s: (s.latents, s.context_latents), last, (latents, context_latents))
        observation = model.likelihood.mean(model.decoder(latents))
        return last, Forecast(latents, context_latents, observation)

    def run(last):
        return jax.lax.scan(advance, last, length=num_steps)[1]

    for _ in state.is_started.shape:
        run = jax.vmap(run)
    return run(state.last)


def reconstruct(model: TiDHy, latents: Float[Array, "*batch latents"]) -> Float[Array, "*batch observations"]:
    r"""Expected observations of given latents, $E[x \mid g(r)]$, in the units of the data."""
    flat = jnp.reshape(latents, (-1, latents.shape[-1]))
    means = jax.vmap(lambda r: model.likelihood.mean(model.decoder(r)))(flat)
    return jnp.reshape(means, (*latents.shape[:-1], model.observation_size))


def expected_context(
    model: TiDHy, latents: Float[Array, " latents"], context_latents: Float[Array, " context"]
) -> Float[Array, " context"]:
    """The context latents to expect one step later: the prior's mean, unchanged without a prior."""
    if model.prior is None:
        return context_latents
    return model.prior.mean(latents, context_latents)


def _cast(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    return jtu.tree_map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree)


def _check(
    model: TiDHy, observations: Float[Array, "*sequences time observations"], mask: Bool[Array, "..."] | None
) -> tuple[Float[Array, "*sequences time observations"], Bool[Array, "*sequences time observations"] | None]:
    shape = observations.shape
    if observations.ndim not in (2, 3) or shape[-1] != model.observation_size or 0 in shape:
        raise ValueError(
            "`observations` must have shape (time, observations) or (sequences, time, observations), none of them "
            f"zero, with {model.observation_size} observations as in `model`; got {shape}."
        )
    mask = full_mask(mask, shape)
    is_observed = jnp.ones(shape, bool) if mask is None else mask
    return check_observations(model.likelihood, observations, is_observed), mask


def check_state(model: TiDHy, state: InferenceState, shape: tuple[int, ...]) -> None:
    """**Raises:** `ValueError` unless the state has the sizes of the model, for sequences of a shape."""
    got = state.last.latents.shape, state.last.context_latents.shape
    want = (*shape, model.latent_size), (*shape, model.context_size)
    if got != want or state.is_started.shape != shape:
        raise ValueError(
            f"`state` (or `initial_context`) must hold latents {want[0]} and context latents {want[1]}, as `model` has "
            f"them, for each sequence; got {got[0]} and {got[1]}."
        )


def full_mask(mask: Bool[Array, "..."] | None, shape: tuple[int, ...]) -> Bool[Array, "..."] | None:
    """A mask of time steps spread over the channels of observations of a shape.

    **Raises:** `ValueError` if it has neither their shape nor that of their time steps.
    """
    if mask is None or mask.shape == shape:
        return mask
    if mask.shape != shape[:-1]:
        raise ValueError(f"`mask` must have the shape of `observations`, {shape}, or {shape[:-1]}; got {mask.shape}.")
    return jnp.broadcast_to(mask[..., None], shape)
