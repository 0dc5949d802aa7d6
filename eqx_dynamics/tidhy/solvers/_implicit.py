"""Gradients of the exact minimiser, by the implicit function theorem."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from .._model import TiDHy
from .._problem import StepProblem
from .._types import LatentState, RealScalar, Solution, check_numbers
from ._base import AbstractLatentSolver, Iterate, solution


class Implicit(AbstractLatentSolver):
    r"""A quasi-Newton minimiser whose answer carries exact bilevel gradients: optimistix's BFGS and `ImplicitAdjoint`.

    $\partial z^* / \partial \theta = -(\nabla^2_{zz} J)^{-1} \nabla^2_{z\theta} J$: one linear solve in the latents per
    time step. It adds what stopped gradients leave out, the effect of parameters on the prediction term through the
    latents, and makes penalties on latents act on parameters. Only as exact as the minimum is: keep the tolerances
    tight. It must also be unique and smooth: L1 terms, a hypernetwork with kinks (many minima lie on them) and a model
    without a prior on its context (nothing holds it where nothing is observed) are refused.

    Needs the extra `implicit`.
    """

    rtol: RealScalar = 1e-6
    atol: RealScalar = 1e-8
    max_steps: int = eqx.field(static=True, default=128)

    is_differentiable: ClassVar[bool] = True

    def __check_init__(self):
        if self.max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1; got {self.max_steps}.")
        check_numbers(self, ("rtol", "atol"), lambda x: x >= 0, "not be negative")

    def prepare(self, model: TiDHy) -> PyTree:
        _optimistix()
        if model.hypernetwork.has_kinks:
            raise ValueError(
                "`Implicit` differentiates the minimum, which has no derivative at the kinks of a ReLU hypernetwork. "
                "Use `activation=jax.nn.softmax`, `softplus` or `signed`, or another solver."
            )
        prior = model.prior
        if prior is None or (isinstance(prior.precision, int | float) and prior.precision == 0):
            raise ValueError(
                "`Implicit` needs a `prior` on the context: without one the minimum is not unique where little is "
                "observed. Use RandomWalk or MeanReverting."
            )
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
