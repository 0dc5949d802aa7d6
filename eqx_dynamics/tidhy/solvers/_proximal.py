"""Accelerated proximal gradient descent with steps from the curvature of the problem."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PyTree

from .._model import TiDHy
from .._problem import StepProblem, freeze
from .._types import LatentState, RealScalar, check_numbers
from ._base import AbstractIterativeSolver, Iterate
from ._sgd import soft_threshold


class _Memory(eqx.Module):
    """What acceleration remembers: the iterate before, the inertia counter, the step scale, steps and the objective."""

    before: LatentState
    inertia: Float[Array, ""]
    scale: Float[Array, ""]
    steps: LatentState
    value: Float[Array, ""]


class ProximalGradient(AbstractIterativeSolver):
    r"""FISTA, monotone and with restarts: works for every decoder, likelihood and L1 term.

    $z \leftarrow \mathrm{prox}(y - L^{-1} \nabla J(y))$ from the extrapolated point $y$ (Beck & Teboulle 2009), with
    the L1 thresholds multiplied by the step. It starts from the prediction, $r = \bar r(h_{t-1})$. The steps $1/L$ of
    the two latents bound the curvature at that start; a step that does not lower the objective is not taken, inertia is
    then dropped, and without inertia the step is halved. The L1 term on mixture weights, which are positive for most
    activations, is treated as smooth. Under `Unrolled` the step sizes count as constants.

    **Arguments:**

    - `max_steps`: iterations at most.
    - `tolerance`: stop when the relative change of both latents in an accepted step falls below it.
    - `is_accelerated`: without, plain proximal gradient descent.
    """

    max_steps: int = eqx.field(static=True, default=50)
    tolerance: RealScalar = 1e-3
    is_accelerated: bool = eqx.field(static=True, default=True)

    is_differentiable: ClassVar[bool] = False

    def __check_init__(self):
        if self.max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1; got {self.max_steps}.")
        check_numbers(self, ("tolerance",), lambda x: x >= 0, "not be negative")

    def prepare(self, model: TiDHy) -> PyTree:
        return None

    def focus(self, problem: StepProblem) -> StepProblem:
        return problem

    def init(self, problem: StepProblem, previous: LatentState) -> Iterate:
        context = previous.context_latents
        jacobian = jax.jacfwd(problem.predict)(context)
        start = LatentState(problem.predict(context), context)
        curvature = jax.hessian(problem.nll)(start.latents) if not problem_is_linear(problem) else _gram(problem)
        weight = problem.temporal_weight
        # The coupling of the two blocks is bounded by twice their own curvature.
        bound = largest_eigenvalue_bound(curvature) + 4 * weight
        context_bound = 4 * weight * largest_eigenvalue_bound(jacobian.T @ jacobian) + 2 * problem.prior_precision
        steps = LatentState(jnp.full_like(start.latents, 1 / bound), jnp.full_like(context, 1 / (context_bound + 1e-3)))
        one = jnp.ones((), context.dtype)
        memory = _Memory(start, one, one, freeze(steps), problem(start))
        return Iterate(start, memory, jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def step(self, problem: StepProblem, iterate: Iterate) -> Iterate:
        memory, now = iterate.memory, iterate.state
        inertia = (1 + jnp.sqrt(1 + 4 * memory.inertia**2)) / 2 if self.is_accelerated else memory.inertia
        push = (memory.inertia - 1) / inertia
        point = jtu.tree_map(lambda z, before: z + push * (z - before), now, memory.before)
        gradient = jax.grad(_smooth)(point, problem)
        sizes = jtu.tree_map(lambda step: memory.scale * step, memory.steps)
        objective = problem.objective
        thresholds = LatentState(sizes.latents * objective.l1_latents, sizes.context_latents * objective.l1_context)
        new = jtu.tree_map(
            lambda y, size, g, threshold: soft_threshold(y - size * g, threshold), point, sizes, gradient, thresholds
        )
        value = problem(new)
        is_better = value <= memory.value  # false for NaN
        was_plain = memory.inertia == 1
        scale = jnp.where(
            is_better, jnp.minimum(1.1 * memory.scale, 8.0), jnp.where(was_plain, 0.5, 1.0) * memory.scale
        )
        changes = jtu.tree_map(lambda n, o: jnp.linalg.norm(n - o) / (jnp.linalg.norm(o) + 1e-6), new, now)
        is_small = jnp.maximum(*jtu.tree_leaves(changes)) < self.tolerance
        memory = _Memory(
            now,
            jnp.where(is_better, inertia, 1.0),
            scale,
            memory.steps,
            jnp.where(is_better, value, memory.value),
        )
        state = jtu.tree_map(lambda n, o: jnp.where(is_better, n, o), new, now)
        return Iterate(state, memory, iterate.num_steps + 1, is_better & is_small)

    def finish(self, problem: StepProblem, iterate: Iterate) -> LatentState:
        return iterate.state


def _smooth(state: LatentState, problem: StepProblem) -> Float[Array, ""]:
    weights = problem.weights(state.context_latents)
    return problem.smooth(state) + problem.objective.l1_weights * jnp.sum(jnp.abs(weights))


def problem_is_linear(problem: StepProblem) -> bool:
    """Whether the curvature of the likelihood term does not depend on the latents."""
    from .._decoders import LinearDecoder
    from .._likelihoods import Gaussian

    return isinstance(problem.model.decoder, LinearDecoder) and isinstance(problem.model.likelihood, Gaussian)


def _gram(problem: StepProblem) -> Any:
    weight = problem.model.decoder.linear.weight  # pyright: ignore[reportAttributeAccessIssue]
    if problem.mask is not None:
        weight = jnp.where(problem.mask[:, None], weight, 0.0)
    return 2 * weight.T @ weight


def largest_eigenvalue_bound(matrix: Float[Array, "dim dim"]) -> Float[Array, ""]:
    r"""An upper bound of the largest $|\lambda|$ of a symmetric matrix, $\lVert A^4 \rVert_\infty^{1/4}$, near it."""
    scale = jnp.max(jnp.sum(jnp.abs(matrix), axis=1)) + 1e-30
    square = matrix / scale
    square = square @ square
    return scale * jnp.max(jnp.sum(jnp.abs(square @ square), axis=1)) ** 0.25
