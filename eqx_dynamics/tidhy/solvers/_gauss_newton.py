"""Latents eliminated in closed form, context latents by Levenberg-Marquardt: for linear decoders and squared error."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._decoders import LinearDecoder
from .._likelihoods import Gaussian
from .._model import TiDHy
from .._problem import StepProblem
from .._types import LatentState, RealScalar
from ._base import AbstractIterativeSolver, Iterate


class _Reduced(eqx.Module):
    r"""$\phi(h) = \min_r J(r, h)$ up to a constant, in the eigenbasis of $C^T C$ (eigenvalues $s$).

    $\phi(h) = \sum_i d_i v_i^2 - 2 q_i v_i + \lambda_h \lVert h - \mu \rVert^2$, with $v = E^T \bar r(h)$,
    $d = \lambda s / (s + \lambda)$ and $q = \lambda (E^T C^T (x - b)) / (s + \lambda)$.
    """

    columns: Float[Array, "latents weights_and_gains"]
    curvature: Float[Array, " latents"]
    linear: Float[Array, " latents"]
    data: Float[Array, " latents"]
    eigenvalues: Float[Array, " latents"]
    eigenvectors: Float[Array, "latents latents"]

    def __init__(self, problem: StepProblem):
        decoder = problem.model.decoder
        assert isinstance(decoder, LinearDecoder) and decoder.linear.bias is not None
        weight = decoder.linear.weight
        if problem.mask is None:
            eigenvalues, eigenvectors = problem.prepared
        else:
            weight = jnp.where(problem.mask[:, None], weight, 0.0)
            eigenvalues, eigenvectors = _eigen(weight)
        scale = problem.temporal_weight
        self.data = eigenvectors.T @ (weight.T @ (problem.observation - decoder.linear.bias))
        self.columns = eigenvectors.T @ problem.columns
        self.curvature = scale * eigenvalues / (eigenvalues + scale)
        self.linear = scale * self.data / (eigenvalues + scale)
        self.eigenvalues = eigenvalues
        self.eigenvectors = eigenvectors

    def latents(self, prediction: Float[Array, " latents"], scale: Float[Array, ""]) -> Float[Array, " latents"]:
        r"""$r^* = (C^T C + \lambda I)^{-1} (C^T (x - b) + \lambda \bar r)$, from $v$."""
        return self.eigenvectors @ ((self.data + scale * prediction) / (self.eigenvalues + scale))

    def value(self, prediction: Float[Array, " latents"]) -> Float[Array, ""]:
        return jnp.sum((self.curvature * prediction - 2 * self.linear) * prediction)


class ReducedGaussNewton(AbstractIterativeSolver):
    r"""Levenberg-Marquardt on the context latents alone: $r$ is the closed-form minimiser for each $h$.

    What is left is a least-squares problem in $h$, a few Gauss-Newton steps of size `(context, context)` each. A step
    that does not lower the objective is not taken; the damping then grows.

    **Arguments:**

    - `max_steps`: Levenberg-Marquardt steps at most; 8 keep the median objective below a tenth of the published
      solver's.
    - `tolerance`: stop when an accepted step lowers the reduced objective by less than this fraction of its scale.
    - `damping`: initial damping, relative to the mean curvature.

    Needs a `LinearDecoder`, a `Gaussian` likelihood and no L1 terms. Cost per time step: an eigendecomposition of
    $C^T C$ once per call without a mask, once per step with one.
    """

    max_steps: int = eqx.field(static=True, default=8)
    tolerance: RealScalar = 1e-6
    damping: RealScalar = 1e-2

    is_differentiable: ClassVar[bool] = False

    def __check_init__(self):
        if self.max_steps < 1:
            raise ValueError(f"`max_steps` must be at least 1; got {self.max_steps}.")

    def prepare(self, model: TiDHy) -> PyTree:
        if not (isinstance(model.decoder, LinearDecoder) and isinstance(model.likelihood, Gaussian)):
            raise ValueError(
                "`ReducedGaussNewton` eliminates the latents in closed form, which needs a LinearDecoder and a "
                f"Gaussian likelihood; got {type(model.decoder).__name__} and {type(model.likelihood).__name__}. Use "
                "ProximalGradient."
            )
        return _eigen(model.decoder.linear.weight)

    def focus(self, problem: StepProblem) -> StepProblem:
        objective = problem.objective
        for name in ("l1_latents", "l1_context", "l1_weights"):
            value = getattr(objective, name)
            if not (isinstance(value, int | float) and value == 0):
                raise ValueError(f"`ReducedGaussNewton` has no L1 terms; got {name}={value}. Use ProximalGradient.")
        return eqx.tree_at(lambda p: p.prepared, problem, _Reduced(problem), is_leaf=lambda x: x is problem.prepared)

    def init(self, problem: StepProblem, previous: LatentState) -> Iterate:
        reduced: _Reduced = problem.prepared
        context = previous.context_latents
        prediction = reduced.columns @ problem.model.mixture(context)
        value = reduced.value(prediction) + _prior(problem, context)
        state = LatentState(reduced.latents(prediction, problem.temporal_weight), context)
        damping = jnp.asarray(self.damping, context.dtype)
        return Iterate(state, (damping, value), jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def step(self, problem: StepProblem, iterate: Iterate) -> Iterate:
        reduced: _Reduced = problem.prepared
        damping, value = iterate.memory
        context = iterate.state.context_latents

        def mix(context: Float[Array, " context"]) -> tuple[Float[Array, " weights_and_gains"], Any]:
            mixture = problem.model.mixture(context)
            return mixture, mixture

        mixture_jacobian, mixture = jax.jacfwd(mix, has_aux=True)(context)
        prediction, jacobian = small_product(reduced.columns, mixture), small_product(reduced.columns, mixture_jacobian)
        slope = small_product(jacobian.T, reduced.curvature * prediction - reduced.linear)
        slope = slope + problem.prior_precision * (context - problem.prior_mean)
        matrix = small_product(jacobian.T, reduced.curvature[:, None] * jacobian)
        diagonal = damping * (jnp.trace(matrix) / context.shape[0] + 1e-6) + problem.prior_precision
        new = context - solve_positive(matrix + diagonal * jnp.eye(context.shape[0], dtype=context.dtype), slope)
        new_prediction = small_product(reduced.columns, mix(new)[0])
        new_value = reduced.value(new_prediction) + _prior(problem, new)
        is_better = new_value < value  # false for NaN
        new = jnp.where(is_better, new, context)
        state = LatentState(
            reduced.latents(jnp.where(is_better, new_prediction, prediction), problem.temporal_weight), new
        )
        scale = jnp.abs(value) + jnp.sum(reduced.linear**2 / (reduced.curvature + 1e-12))
        is_converged = is_better & (value - new_value < self.tolerance * scale)
        memory = (
            jnp.where(is_better, 0.3 * damping, 4 * damping),
            jnp.where(is_better, new_value, value),
        )
        return Iterate(state, memory, iterate.num_steps + 1, is_converged)


def _prior(problem: StepProblem, context_latents: Float[Array, " context"]) -> Float[Array, ""]:
    distance = jnp.sum((context_latents - problem.prior_mean) ** 2)
    return problem.prior_precision * distance


def _eigen(weight: Float[Array, "observations latents"]) -> tuple[Float[Array, " latents"], Array]:
    eigenvalues, eigenvectors = jnp.linalg.eigh(weight.T @ weight)
    return jnp.maximum(eigenvalues, 0.0), eigenvectors


def small_product(
    matrix: Float[Array, " rows inner"], other: Float[Array, " inner *columns"]
) -> Float[Array, " rows *columns"]:
    """`matrix @ other` as one sum: a batch of tiny products is slow as calls and fast as vector operations."""
    shape = (*matrix.shape, *(1,) * (other.ndim - 1))
    return jnp.sum(jnp.reshape(matrix, shape) * other[None], axis=1)


def solve_positive(matrix: Float[Array, "dim dim"], vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
    """Solution of a small positive definite system by elimination without pivots, written out.

    A factorisation routine is called once per matrix; this is a handful of vector operations on all of them at once.
    """
    size = vector.shape[0]
    table = jnp.concatenate([matrix, vector[:, None]], axis=1)
    for i in range(size):
        row = table[i] / table[i, i]
        table = (table - table[:, i, None] * row[None, :]).at[i].set(row)
    return table[:, size]
