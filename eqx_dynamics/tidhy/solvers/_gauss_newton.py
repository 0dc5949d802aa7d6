"""Latents eliminated in closed form, context latents by Levenberg-Marquardt: for linear decoders and squared error."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree

from .._decoders import LinearDecoder
from .._hypernetwork import Linearizer
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
    scale: Float[Array, ""]
    eigenvalues: Float[Array, " latents"]
    eigenvectors: Float[Array, "latents latents"]
    linearizer: Linearizer

    def __init__(self, problem: StepProblem):
        decoder = problem.model.decoder
        assert isinstance(decoder, LinearDecoder) and decoder.linear.bias is not None
        weight = decoder.linear.weight
        (eigenvalues, eigenvectors), self.linearizer = problem.prepared
        if problem.mask is not None:
            weight = jnp.where(problem.mask[:, None], weight, 0.0)
            eigenvalues, eigenvectors = _eigen(weight)
        scale = problem.temporal_weight
        self.data = eigenvectors.T @ (weight.T @ (problem.observation - decoder.linear.bias))
        self.columns = eigenvectors.T @ problem.columns
        self.curvature = scale * eigenvalues / (eigenvalues + scale)
        self.linear = scale * self.data / (eigenvalues + scale)
        self.scale = jnp.sum(self.linear**2 / (self.curvature + 1e-12))
        self.eigenvalues = eigenvalues
        self.eigenvectors = eigenvectors

    def latents(self, prediction: Float[Array, " latents"], scale: Float[Array, ""]) -> Float[Array, " latents"]:
        r"""$r^* = (C^T C + \lambda I)^{-1} (C^T (x - b) + \lambda \bar r)$, from $v$."""
        return self.eigenvectors @ ((self.data + scale * prediction) / (self.eigenvalues + scale))


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
        return _eigen(model.decoder.linear.weight), Linearizer(model.hypernetwork)

    def focus(self, problem: StepProblem) -> StepProblem:
        objective = problem.objective
        for name in ("l1_latents", "l1_context", "l1_weights"):
            value = getattr(objective, name)
            if not (isinstance(value, int | float) and value == 0):
                raise ValueError(f"`ReducedGaussNewton` has no L1 terms; got {name}={value}. Use ProximalGradient.")
        return eqx.tree_at(lambda p: p.prepared, problem, _Reduced(problem), is_leaf=lambda x: x is problem.prepared)

    def init(self, problem: StepProblem, previous: LatentState) -> Iterate:
        point, damping = _Point(problem, previous.context_latents), jnp.asarray(self.damping, problem.model.dtype)
        hold = None if point.outputs is None else jnp.zeros(point.outputs.shape, bool)
        state = point.state(problem)
        return Iterate(state, (damping, point, hold), jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def step(self, problem: StepProblem, iterate: Iterate) -> Iterate:
        damping, point, hold = iterate.memory
        new = _Point(problem, point.context_latents - point.newton(problem, damping, hold))
        is_better = new.value < point.value  # false for NaN
        scale = jnp.abs(point.value) + problem.prepared.scale
        is_settled = jnp.abs(point.value - new.value) < self.tolerance * scale
        is_free = jnp.ones((), bool) if hold is None else ~jnp.any(hold)
        if hold is not None:
            crossed = (new.outputs > 0) != (point.outputs > 0)
            # A free step that fails across kinks is tried again along them; then only is the damping to blame.
            hold = crossed & is_free & ~is_better
            is_blamed = ~jnp.any(hold)
        else:
            is_blamed = jnp.ones((), bool)
        damping = damping * jnp.where(is_better, 0.3, jnp.where(is_blamed, 4.0, 1.0))
        point = jtu.tree_map(lambda n, o: jnp.where(is_better, n, o), new, point)
        return Iterate(
            point.state(problem), (damping, point, hold), iterate.num_steps + 1, is_settled & (is_better | ~is_free)
        )


class _Point(eqx.Module):
    """The reduced problem to second order at one context: half its gradient and half its Gauss-Newton matrix."""

    context_latents: Float[Array, " context"]
    prediction: Float[Array, " latents"]
    value: Float[Array, ""]
    slope: Float[Array, " context"]
    matrix: Float[Array, "context context"]
    outputs: Float[Array, " weights_and_gains"] | None
    output_jacobian: Float[Array, "weights_and_gains context"] | None

    def __init__(self, problem: StepProblem, context_latents: Float[Array, " context"]):
        reduced: _Reduced = problem.prepared
        near = reduced.linearizer(context_latents)
        distance = context_latents - problem.prior_mean
        prediction, jacobian = small_product(reduced.columns, near.mixture), small_product(reduced.columns, near.jacobian)
        weighted = reduced.curvature * prediction
        self.context_latents = context_latents
        self.prediction = prediction
        self.value = jnp.sum((weighted - 2 * reduced.linear) * prediction)
        self.value = self.value + problem.prior_precision * jnp.sum(distance**2)
        self.slope = small_product(jacobian.T, weighted - reduced.linear) + problem.prior_precision * distance
        self.matrix = small_product(jacobian.T, reduced.curvature[:, None] * jacobian)
        has_kinks = problem.model.hypernetwork.has_kinks
        self.outputs = near.outputs if has_kinks else None
        self.output_jacobian = near.output_jacobian if has_kinks else None

    def state(self, problem: StepProblem) -> LatentState:
        """Context latents with the latents that belong to them."""
        return LatentState(problem.prepared.latents(self.prediction, problem.temporal_weight), self.context_latents)

    def newton(
        self, problem: StepProblem, damping: Float[Array, ""], hold: Bool[Array, " weights_and_gains"] | None
    ) -> Float[Array, " context"]:
        """The damped step; pre-activations under `hold` are led to zero, where their kinks are."""
        mean_curvature = jnp.trace(self.matrix) / self.slope.shape[0] + 1e-6
        slope, matrix = self.slope, self.matrix
        if hold is not None and self.outputs is not None and self.output_jacobian is not None:
            sizes = jnp.sum(self.output_jacobian**2, axis=1)
            stiffness = _STIFFNESS * (1 + damping) * mean_curvature
            penalty = jnp.where(hold, stiffness / (sizes + 1e-6), 0.0)
            stiff = penalty[:, None] * self.output_jacobian
            slope = slope + small_product(stiff.T, self.outputs)
            matrix = matrix + small_product(stiff.T, self.output_jacobian)
        diagonal = damping * mean_curvature + problem.prior_precision
        return solve_positive(matrix + diagonal * jnp.eye(slope.shape[0], dtype=slope.dtype), slope)


# A held kink weighs this many times the mean curvature: the step ends on it to three digits.
_STIFFNESS = 1e3


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
    table = jnp.concatenate([matrix, vector[:, None]], axis=1)
    for _ in range(vector.shape[0]):  # the first column is eliminated and dropped, its row moves to the end
        row = table[0] / table[0, 0]
        rest = table[1:] - table[1:, :1] * row[None]
        table = jnp.concatenate([rest[:, 1:], row[None, 1:]])
    return table[:, 0]
