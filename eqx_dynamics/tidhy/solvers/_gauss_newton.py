"""Latents eliminated in closed form, context latents by Levenberg-Marquardt: for linear decoders and squared error."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree

from .._decoders import LinearDecoder
from .._hypernetwork import Linearizer, small_product
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

    columns: Float[Array, "weights_and_gains latents"]
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
        self.columns = (eigenvectors.T @ problem.columns).T
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
    that does not lower the objective is not taken; the damping then grows. A step that fails because it crosses kinks
    of a ReLU hypernetwork is tried again along them, with their pre-activations led to zero.

    **Arguments:**

    - `max_steps`: Levenberg-Marquardt steps at most; 8 keep the median objective below a tenth of the published
      solver's.
    - `tolerance`: stop when an accepted step lowers the reduced objective by less than this fraction of its scale.
    - `damping`: initial damping, relative to the mean curvature.

    Needs a `LinearDecoder`, a `Gaussian` likelihood and no L1 terms. Cost per time step: an eigendecomposition of
    $C^T C$ once per call without a mask, once per step with one.

    !!! note "What it converges to"
        The objective never rises. With enough steps the result is a stationary point of the full objective: its
        gradient vanishes, or on a kink of a ReLU a convex combination of the one-sided gradients does. Many solutions
        lie on kinks (in a test 40 of 64). The second derivatives of the hypernetwork are left out, so the rate is
        linear: most problems settle in tens of steps, the flattest took thousands. At the default 8 the gradient is not
        yet zero; two more steps lower the median objective by 1 %.
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
        # The first step goes nowhere and evaluates the start: what a step computes is then compiled once.
        dtype, hidden = previous.latents.dtype, problem.model.hypernetwork
        num_outputs = problem.columns.shape[1] if hidden.has_kinks else None
        point = _Point.unknown(previous, num_outputs)
        hold = None if num_outputs is None else jnp.zeros(num_outputs, bool)
        memory = (jnp.asarray(self.damping / _SHRINK, dtype), point, hold)
        return Iterate(previous, memory, jnp.full((), -1, jnp.int32), jnp.zeros((), bool))

    def step(self, problem: StepProblem, iterate: Iterate) -> Iterate:
        damping, point, hold = iterate.memory
        move = jnp.where(jnp.isfinite(point.value), point.newton(problem, damping, hold), 0.0)
        new = _Point.at(problem, point.context_latents - move)
        is_better = new.value < point.value  # false for NaN
        scale = jnp.abs(point.value) + problem.prepared.scale
        is_settled = jnp.abs(point.value - new.value) < self.tolerance * scale
        is_free = jnp.ones((), bool) if hold is None else ~jnp.any(hold)
        if hold is not None and new.outputs is not None and point.outputs is not None:
            crossed = (new.outputs > 0) != (point.outputs > 0)
            # A free step that fails across kinks is tried again along them; then only is the damping to blame.
            hold = crossed & is_free & ~is_better
            is_blamed = ~jnp.any(hold)
        else:
            is_blamed = jnp.ones((), bool)
        damping = damping * jnp.where(is_better, _SHRINK, jnp.where(is_blamed, 4.0, 1.0))
        point = jtu.tree_map(lambda n, o: jnp.where(is_better, n, o), new, point)
        is_settled = is_settled & (is_better | ~is_free)
        return Iterate(point.state(problem), (damping, point, hold), iterate.num_steps + 1, is_settled)


# What a step that lowers the objective does to the damping.
_SHRINK = 0.3


class _Point(eqx.Module):
    """The reduced problem to second order at one context: half its gradient and half its Gauss-Newton matrix."""

    context_latents: Float[Array, " context"]
    prediction: Float[Array, " latents"]
    value: Float[Array, ""]
    jacobian: Float[Array, "latents context"]
    matrix: Float[Array, "context context"]
    outputs: Float[Array, " weights_and_gains"] | None
    output_jacobian: Float[Array, "weights_and_gains context"] | None

    @classmethod
    def at(cls, problem: StepProblem, context_latents: Float[Array, " context"]) -> "_Point":
        """Everything evaluated."""
        reduced: _Reduced = problem.prepared
        near = reduced.linearizer(context_latents)
        distance = context_latents - problem.prior_mean
        prediction, jacobian = small_product(reduced.columns, near.mixture), near.pull(reduced.columns)
        weighted = reduced.curvature * prediction
        value = jnp.sum((weighted - 2 * reduced.linear) * prediction)
        has_kinks = problem.model.hypernetwork.has_kinks
        return cls(
            context_latents,
            prediction,
            value=value + problem.prior_precision * jnp.sum(distance**2),
            jacobian=jacobian,
            matrix=small_product(jacobian, reduced.curvature[:, None] * jacobian),
            outputs=near.outputs if has_kinks else None,
            output_jacobian=near.output_jacobian() if has_kinks else None,
        )

    @classmethod
    def unknown(cls, start: LatentState, num_outputs: int | None) -> "_Point":
        """Nothing known but the context: worse than any other point, and without a slope."""
        context_latents, size = start.context_latents, start.context_latents.shape[0]
        zeros = lambda *shape: jnp.zeros(shape, context_latents.dtype)  # noqa: E731
        return cls(
            context_latents,
            prediction=zeros(start.latents.shape[0]),
            value=zeros() + jnp.inf,
            jacobian=zeros(start.latents.shape[0], size),
            matrix=zeros(size, size),
            outputs=None if num_outputs is None else zeros(num_outputs),
            output_jacobian=None if num_outputs is None else zeros(num_outputs, size),
        )

    def state(self, problem: StepProblem) -> LatentState:
        """Context latents with the latents that belong to them; NaN, and so a divergence, if nothing is known."""
        latents = problem.prepared.latents(self.prediction, problem.temporal_weight)
        return LatentState(jnp.where(jnp.isfinite(self.value), latents, jnp.nan), self.context_latents)

    def newton(
        self, problem: StepProblem, damping: Float[Array, ""], hold: Bool[Array, " weights_and_gains"] | None
    ) -> Float[Array, " context"]:
        """The damped step; pre-activations under `hold` are led to zero, where their kinks are."""
        reduced, matrix = problem.prepared, self.matrix
        slope = small_product(self.jacobian, reduced.curvature * self.prediction - reduced.linear)
        slope = slope + problem.prior_precision * (self.context_latents - problem.prior_mean)
        mean_curvature = jnp.trace(matrix) / slope.shape[0] + 1e-6
        if hold is not None and self.outputs is not None and self.output_jacobian is not None:
            sizes = jnp.sum(self.output_jacobian**2, axis=1)
            # As stiff as the precision allows: what leaks through is paid for at the slope of the kink.
            stiffness = (1 + damping) * mean_curvature / jnp.finfo(slope.dtype).eps ** 0.5
            penalty = jnp.where(hold, stiffness / (sizes + 1e-6), 0.0)
            stiff = penalty[:, None] * self.output_jacobian
            slope = slope + small_product(stiff, self.outputs)
            matrix = matrix + small_product(stiff, self.output_jacobian)
        diagonal = damping * mean_curvature + problem.prior_precision
        return solve_positive(matrix + diagonal * jnp.eye(slope.shape[0], dtype=slope.dtype), slope)


def _eigen(weight: Float[Array, "observations latents"]) -> tuple[Float[Array, " latents"], Array]:
    eigenvalues, eigenvectors = jnp.linalg.eigh(weight.T @ weight)
    return jnp.maximum(eigenvalues, 0.0), eigenvectors


def compute_once(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x`, which the compiler may not compute again inside whatever uses it: by default it fuses a chain of small
    products into every user of the last, each with all the work of those before."""
    return jax.lax.optimization_barrier(x)


def solve_positive(matrix: Float[Array, "dim dim"], vector: Float[Array, " dim"]) -> Float[Array, " dim"]:
    """Solution of a small positive definite system by elimination without pivots, written out.

    A factorisation routine is called once per matrix; this is a handful of vector operations on all of them at once.
    """
    table = jnp.concatenate([matrix, vector[:, None]], axis=1)
    for _ in range(vector.shape[0]):  # the first column is eliminated and dropped, its row moves to the end
        row = table[0] / table[0, 0]
        rest = table[1:] - table[1:, :1] * row[None]
        table = compute_once(jnp.concatenate([rest[:, 1:], row[None, 1:]]))
    return table[:, 0]
