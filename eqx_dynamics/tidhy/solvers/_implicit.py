"""Gradients of the exact minimiser, by the implicit function theorem."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from .._model import TiDHy
from .._problem import StepProblem
from .._types import LatentState, RealScalar, Solution
from ._base import AbstractLatentSolver, Iterate, solution


class Implicit(AbstractLatentSolver):
    r"""A quasi-Newton minimiser whose answer carries exact bilevel gradients: optimistix's BFGS and `ImplicitAdjoint`.

    $\partial z^* / \partial \theta = -(\nabla^2_{zz} J)^{-1} \nabla^2_{z\theta} J$: one linear solve in the latents per
    time step. It adds what stopped gradients leave out, the effect of parameters on the prediction term through the
    latents, and makes penalties on latents act on parameters. Only as exact as the minimum is: keep the tolerances
    tight. L1 terms have no second derivative and are refused.

    Needs the extra `implicit`.
    """

    rtol: RealScalar = 1e-6
    atol: RealScalar = 1e-8
    max_steps: int = eqx.field(static=True, default=128)

    is_differentiable: ClassVar[bool] = True

    def prepare(self, model: TiDHy) -> PyTree:
        _optimistix()
        return None

    def __call__(self, problem: StepProblem, previous: LatentState) -> Solution:
        optimistix, lineax = _optimistix()
        for name in ("l1_latents", "l1_context", "l1_weights"):
            value = getattr(problem.objective, name)
            if not (isinstance(value, int | float) and value == 0):
                raise ValueError(f"`Implicit` needs a twice differentiable objective; got {name}={value}.")
        start = LatentState(problem.predict(previous.context_latents), previous.context_latents)
        answer = optimistix.minimise(
            lambda state, problem: problem.smooth(state),
            optimistix.BFGS(rtol=self.rtol, atol=self.atol),
            start,
            args=problem,
            max_steps=self.max_steps,
            adjoint=optimistix.ImplicitAdjoint(lineax.AutoLinearSolver(well_posed=False)),
            throw=False,
        )
        num_steps = jnp.asarray(answer.stats["num_steps"], jnp.int32)
        is_converged = answer.result == optimistix.RESULTS.successful
        last = Iterate(answer.value, None, num_steps, is_converged)
        return solution(problem, start, last, answer.value)


def _optimistix() -> tuple[Any, Any]:
    try:
        import lineax
        import optimistix
    except ImportError as error:
        raise ImportError(
            "`Implicit` needs optimistix: pip install 'eqx-graph-dynamics[implicit]', or use ReducedGaussNewton."
        ) from error
    return optimistix, lineax
