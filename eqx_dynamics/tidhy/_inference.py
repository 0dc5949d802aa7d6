"""Latent inference as a cell: one observation in, latents out, the last latents as the state."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._cell import AbstractCell
from ._mlp import fold
from ._model import TiDHy
from ._problem import Objective, StepProblem, freeze
from ._types import LatentState, Solution
from .solvers import (
    AbstractLatentSolver,
    AbstractStart,
    Coupling,
    JointStart,
    ProximalGradient,
    ReducedGaussNewton,
    SgdNesterov,
    ZeroStart,
)


class Inference(eqx.Module):
    """How latents are inferred: a solver, the weights of its objective, and what happens at the first time step.

    **Arguments:** `start`: None treats the first step like any other, with a prediction of zero of weight
    `objective.initial`; published behaviour needs an object (`ZeroStart`, `AdamWStart`, `JointStart`).
    """

    solver: AbstractLatentSolver = ReducedGaussNewton()
    objective: Objective = Objective()
    start: AbstractStart | None = None

    @classmethod
    def recommended(cls, model: TiDHy) -> "Inference":
        """The fastest solver that the model allows: `ReducedGaussNewton`, else `ProximalGradient`."""
        try:
            ReducedGaussNewton().prepare(model)
        except ValueError:
            return cls(ProximalGradient())
        return cls(ReducedGaussNewton())

    @classmethod
    def original(
        cls,
        version: Literal["torch", "nnx"] = "torch",
        *,
        learning_rate: float = 0.2,
        max_steps: int = 2000,
        tolerance: float = 0.01,
        objective: Objective = Objective(),
    ) -> "Inference":
        """Gradient descent as published, with the batch-size dependence of the PyTorch code or without (`"nnx"`)."""
        if version == "torch":
            solver = SgdNesterov(
                learning_rate=learning_rate,
                max_steps=max_steps,
                tolerance=tolerance,
                num_halvings=10,
                absolute_below=0.0,
                coupling=Coupling("batch_mean", "all_sequences"),
            )
            return cls(solver, objective, ZeroStart())
        solver = SgdNesterov(learning_rate=learning_rate, max_steps=max_steps, tolerance=tolerance, sign_of_zero=1)
        return cls(solver, objective, JointStart(solver))


class InferenceState(eqx.Module):
    """The latents of the last time step, and whether anything has been observed so far."""

    last: LatentState
    is_started: Bool[Array, "*batch"]


class LatentInference(AbstractCell[InferenceState]):
    """The cell `(observation, state) -> (Solution, state)` of one sequence: `jax.vmap` it over several.

    Parameters are frozen and the latents constant to whatever is differentiated around the cell, unless the solver
    `is_differentiable`. An observation is an array, or a pair `(array, mask)` with False where it is missing.
    """

    model: TiDHy
    inference: Inference
    prepared: Any

    def __init__(self, model: TiDHy, inference: Inference):
        """**Raises:** `ValueError` if the solver or a term of the objective cannot handle such a model."""
        penalty = inference.objective.l1_weights
        if not (isinstance(penalty, int | float) and penalty == 0):
            model.hypernetwork.check_l1("l1_weights")
        self.model = fold(model if inference.solver.is_differentiable else freeze(model))
        self.inference = inference
        self.prepared = inference.solver.prepare(self.model)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> InferenceState:
        latents = jnp.zeros((*shape, self.model.latent_size), self.model.dtype)
        context_shape = (*shape, self.model.context_size)
        if self.inference.start is None:
            context_latents = jnp.zeros(context_shape, self.model.dtype)
        else:
            context_latents = self.inference.start.context(context_shape, self.model.dtype, key)
        return InferenceState(LatentState(latents, context_latents), jnp.zeros(shape, bool))

    def fresh_state(
        self,
        shape: tuple[int, ...],
        context_latents: Float[Array, "*batch context"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> InferenceState:
        """`init_state`, with given first context latents if there are any."""
        if context_latents is None:
            return self.init_state(shape, key=key)
        return start_state(self.model, context_latents)

    @jax.named_scope("eqx_dynamics.LatentInference")
    def __call__(
        self, x: PyTree, state: InferenceState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Solution, InferenceState]:
        """Infer one time step; the first of a sequence if the state is a fresh one."""
        problem = self.problem(x, state)
        return self._finish(self.inference.solver(problem, state.last), problem, state)

    def begin(self, x: PyTree, state: InferenceState) -> tuple[Solution, InferenceState]:
        """`self(x, state)`; but a sequence that has not started is started by `inference.start`, if there is one."""
        later = self(x, state)
        if self.inference.start is None:
            return later
        problem = self.problem(x, state)
        first = self._finish(self.inference.start(problem, state.last), problem, state)
        return jtu.tree_map(lambda a, b: jnp.where(state.is_started, a, b), later, first)

    def problem(self, x: PyTree, state: InferenceState) -> StepProblem:
        """What the solver is given at this step."""
        observation, mask = x if isinstance(x, tuple) else (x, None)
        previous = state.last if self.inference.solver.is_differentiable else freeze(state.last)
        return StepProblem(
            self.model,
            self.inference.objective,
            observation,
            mask,
            previous,
            is_first=~state.is_started,
            prepared=self.prepared,
        )

    def _finish(
        self, solution: Solution, problem: StepProblem, state: InferenceState
    ) -> tuple[Solution, InferenceState]:
        """The state after a solution; a sequence of which nothing has been observed yet has not started."""
        if not self.inference.solver.is_differentiable:
            solution = freeze(solution)
        last = LatentState(solution.latents, solution.context_latents)
        if problem.mask is None:
            return solution, InferenceState(last, jnp.ones_like(solution.has_diverged))
        is_started = state.is_started | jnp.any(problem.mask)
        last = jtu.tree_map(lambda new, old: jnp.where(is_started, new, old), last, state.last)
        return solution, InferenceState(last, is_started)


def state_at(inferred: Any, place: Any) -> InferenceState:
    """The state after chosen time steps of a `Solution` or `Record`, to `forecast` or to carry on from.

    **Arguments:** `place`: index into the leading axes, such as `(jnp.arange(num_sequences), lengths - 1)`: the last
    true time step of ragged sequences. (The state that `infer` returns lies at the end of their padding.)
    """
    last = LatentState(inferred.latents[place], inferred.context_latents[place])
    return InferenceState(last, jnp.ones(last.latents.shape[:-1], bool))


def start_state(model: TiDHy, context_latents: Float[Array, "*batch context"]) -> InferenceState:
    """A fresh state with given first context latents."""
    latents = jnp.zeros((*context_latents.shape[:-1], model.latent_size), model.dtype)
    return InferenceState(LatentState(latents, context_latents), jnp.zeros(context_latents.shape[:-1], bool))


def concatenate_time(first: PyTree, rest: PyTree) -> PyTree:
    """One time step in front of others."""
    return jtu.tree_map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
