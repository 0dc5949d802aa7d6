"""What a solver is, and the loop that the iterative ones share."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Int, PyTree

from .._model import TiDHy
from .._problem import StepProblem
from .._types import RESULTS, LatentState, Solution


# Latents beyond this size count as diverged: their squares still fit into float32.
_LARGEST = 1e12


class AbstractLatentSolver(eqx.Module):
    """Minimises the objective of one time step of one sequence over its latents.

    `is_differentiable`: whether parameter gradients are meant to flow through the answer. The others run on frozen
    parameters and their latents are constants to the loss, so that training needs memory for latents only.
    """

    is_differentiable: ClassVar[bool]

    @abc.abstractmethod
    def prepare(self, model: TiDHy) -> PyTree:
        """What depends on the parameters only, computed once and given back as `problem.prepared`.

        **Raises:** `ValueError` if the solver cannot handle such a model.
        """

    @abc.abstractmethod
    def __call__(self, problem: StepProblem, previous: LatentState) -> Solution:
        """**Arguments:** `previous`: latents of the time step before, from which the solver makes its first guess."""


class Iterate(eqx.Module):
    """One iterate: what `finish` makes latents of (often the latents), the solver's own memory, how many updates were
    made and whether they have settled."""

    state: LatentState
    memory: Any
    num_steps: Int[Array, ""]
    is_converged: Bool[Array, ""]


class AbstractIterativeSolver(AbstractLatentSolver):
    """A solver that improves a guess step by step; `max_steps` bounds it, its own criterion may stop it earlier."""

    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def focus(self, problem: StepProblem) -> StepProblem:
        """The problem with whatever stays the same over its iterations in `prepared`, computed once."""

    @abc.abstractmethod
    def init(self, problem: StepProblem, previous: LatentState) -> Iterate:
        """The first guess."""

    @abc.abstractmethod
    def step(self, problem: StepProblem, iterate: Iterate) -> Iterate:
        """The next iterate."""

    @abc.abstractmethod
    def finish(self, problem: StepProblem, iterate: Iterate) -> LatentState:
        """The latents of an iterate: of the last one, so that what only they need is computed once."""

    def __call__(self, problem: StepProblem, previous: LatentState) -> Solution:
        problem = self.focus(problem)
        first = self.init(problem, previous)
        last = run(self.step, problem, first, self.max_steps)
        return solution(problem, first.state, last, self.finish(problem, last))


def run(step: Any, problem: StepProblem, first: Iterate, max_steps: int) -> Iterate:
    """Iterate until convergence, divergence or `max_steps`."""

    def keep_going(iterate: Iterate) -> Bool[Array, ""]:
        return ~iterate.is_converged & is_bounded(iterate.state) & (iterate.num_steps < max_steps)

    return jax.lax.while_loop(keep_going, lambda iterate: step(problem, iterate), first)


def solution(problem: StepProblem, first: LatentState, last: Iterate, state: LatentState) -> Solution:
    """The latents `state` of the last iterate with their objective; `first` in their place if they diverged."""
    is_sound = is_bounded(last.state) & is_bounded(state)
    objective = problem(jtu.tree_map(lambda a, b: jnp.where(is_sound, a, b), state, first))
    is_sound = is_sound & jnp.isfinite(objective)  # observations too large to be squared, say
    state = jtu.tree_map(lambda a, b: jnp.where(is_sound, a, b), state, first)
    result = RESULTS.where(last.is_converged, RESULTS.successful, RESULTS.max_steps_reached)
    result = RESULTS.where(is_sound, result, RESULTS.diverged)
    return Solution(state.latents, state.context_latents, result, last.num_steps, objective)


def is_bounded(state: LatentState) -> Bool[Array, ""]:
    """Whether every latent is finite and of a size whose square is."""
    largest = jnp.maximum(jnp.max(jnp.abs(state.latents)), jnp.max(jnp.abs(state.context_latents)))
    return largest < _LARGEST  # false for NaN
