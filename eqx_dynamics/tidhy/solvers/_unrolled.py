"""Differentiating through the iterations."""

from typing import ClassVar

import equinox as eqx
import jax
from jaxtyping import PyTree

from .._model import TiDHy
from .._problem import StepProblem
from .._types import LatentState, Solution
from ._base import AbstractIterativeSolver, AbstractLatentSolver, Iterate, solution


class Unrolled(AbstractLatentSolver):
    """A fixed number of iterations of another solver, with gradients through all of them: for study.

    What a solver chooses by looking at the problem (the step sizes of `ProximalGradient`) counts as constant.
    Memory grows with the number of iterations times the number of time steps; `Implicit` needs neither.
    """

    solver: AbstractIterativeSolver
    num_steps: int = eqx.field(static=True, default=20)

    is_differentiable: ClassVar[bool] = True

    def __check_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1; got {self.num_steps}.")

    def prepare(self, model: TiDHy) -> PyTree:
        return self.solver.prepare(model)

    def __call__(self, problem: StepProblem, previous: LatentState) -> Solution:
        problem = self.solver.focus(problem)
        first = self.solver.init(problem, previous)

        def step(iterate: Iterate, _) -> tuple[Iterate, None]:
            return self.solver.step(problem, iterate), None

        last, _ = jax.lax.scan(step, first, length=self.num_steps)
        return solution(problem, first.state, last, self.solver.finish(problem, last))
