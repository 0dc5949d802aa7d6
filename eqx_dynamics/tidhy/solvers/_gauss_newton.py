"""Latents eliminated in closed form, context latents by Levenberg-Marquardt: for linear decoders and squared error."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree

from ..._derivative import with_tangent
from .._decoders import LinearDecoder
from .._hypernetwork import Linearizer, small_product
from .._likelihoods import Gaussian
from .._model import TiDHy
from .._problem import StepProblem
from .._types import LatentState, RealScalar, check_numbers, to_decompose
from ._base import AbstractIterativeSolver, Iterate


class _Reduced(eqx.Module):
    r"""$\phi(h) = \min_r J(r, h)$ up to a constant: a quadratic form in the mixture weights $w(h)$, plus the prior.

    $\phi(h) = w^T Q w - 2 \ell^T w + \lambda_h \lVert h - \mu \rVert^2$ with, for predictions $P w$, a decoder $C$,
    $G = C^T C$ and $g = C^T (x - b)$, $Q = \lambda P^T G (G + \lambda I)^{-1} P$ and $\ell = \lambda P^T (G + \lambda
    I)^{-1} g$. Its value is computed as $\lVert A w - t \rVert^2$, which rounding cannot make negative: the form itself
    falls without bound along weights that move nothing.
    """

    quadratic: Float[Array, "weights_and_gains weights_and_gains"]
    linear: Float[Array, " weights_and_gains"]
    factor: Float[Array, "latents weights_and_gains"]
    target: Float[Array, " latents"]
    weight: Float[Array, "observations latents"]
    data: Float[Array, " latents"]
    spectrum: tuple[Float[Array, " latents"], Float[Array, "latents latents"]]
    linearizer: Linearizer

    def __init__(self, problem: StepProblem):
        decoder = problem.model.decoder
        assert isinstance(decoder, LinearDecoder) and decoder.linear.bias is not None
        self.weight = decoder.linear.weight
        self.spectrum, self.linearizer = problem.prepared
        if problem.mask is not None:
            self.weight = jnp.where(problem.mask[:, None], self.weight, 0.0)
            self.spectrum = _eigen(self.weight)
        self.data = self.weight.T @ (problem.observation - decoder.linear.bias)
        parts = self.weight, problem.temporal_weight, problem.columns, self.data, self.spectrum
        self.quadratic, self.linear, self.factor, self.target = _reduce(*parts)

    def value(self, mixture: Float[Array, " weights_and_gains"]) -> Float[Array, ""]:
        r"""$\lVert A w - t \rVert^2$."""
        return jnp.sum((small_product(self.factor.T, mixture) - self.target) ** 2)

    def latents(
        self,
        columns: Float[Array, "latents weights_and_gains"],
        mixture: Float[Array, " weights_and_gains"],
        scale: Float[Array, ""],
    ) -> Float[Array, " latents"]:
        r"""$r^* = (G + \lambda I)^{-1} (g + \lambda P w)$."""
        right = self.data + scale * (columns @ mixture)
        return _resolve(self.weight, scale, right[:, None], self.spectrum)[:, 0]


class ReducedGaussNewton(AbstractIterativeSolver):
    r"""Levenberg-Marquardt on the context latents alone: $r$ is the closed-form minimiser for each $h$.

    What is left is a least-squares problem in $h$, a few Gauss-Newton steps of size `(context, context)` each. A step
    that raises the objective is not taken; the damping then grows. A step that fails because it crosses kinks
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
        check_numbers(self, ("tolerance",), lambda x: x >= 0, "not be negative")
        check_numbers(self, ("damping",), lambda x: x > 0, "be positive")

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
        size = (problem.columns.shape[1], previous.context_latents.shape[0])
        point = _Point.unknown(size, previous.latents.dtype, problem.model.hypernetwork.has_kinks)
        hold = None if point.outputs is None else jnp.zeros(size[0], bool)
        memory = (jnp.asarray(self.damping / _SHRINK, previous.latents.dtype), point, hold)
        return Iterate(previous, memory, jnp.full((), -1, jnp.int32), jnp.zeros((), bool))

    def step(self, problem: StepProblem, iterate: Iterate) -> Iterate:
        (damping, point, hold), context = iterate.memory, iterate.state.context_latents
        move = jnp.where(jnp.isfinite(point.value), point.newton(problem, context, damping, hold), 0.0)
        new = _Point.at(problem, context - move)
        # Ties are taken: a step of length zero has a derivative when unrolled. False for NaN.
        is_better = new.value <= point.value
        scale = point.value + jnp.sum(problem.prepared.target**2)
        is_settled = jnp.abs(point.value - new.value) < self.tolerance * scale
        is_free, is_blamed = jnp.ones((), bool), jnp.ones((), bool)
        if hold is not None and new.outputs is not None and point.outputs is not None:
            # A free step that fails across kinks is tried again along them; then only is the damping to blame.
            is_free = ~jnp.any(hold)
            hold = ((new.outputs > 0) != (point.outputs > 0)) & is_free & ~is_better
            is_blamed = ~jnp.any(hold)
        damping = damping * jnp.where(is_better, _SHRINK, jnp.where(is_blamed, 4.0, 1.0))
        point = jtu.tree_map(lambda n, o: jnp.where(is_better, n, o), new, point)
        context = jnp.where(is_better, context - move, context)
        # If not even the start could be evaluated, there is nothing to go on from: a divergence.
        context = jnp.where(jnp.isfinite(point.value), context, jnp.nan)
        is_settled = is_settled & (is_better | ~is_free)
        state = LatentState(iterate.state.latents, context)
        return Iterate(state, (damping, point, hold), iterate.num_steps + 1, is_settled)

    def finish(self, problem: StepProblem, iterate: Iterate) -> LatentState:
        mixture = iterate.memory[1].mixture
        latents = problem.prepared.latents(problem.columns, mixture, problem.temporal_weight)
        return LatentState(latents, iterate.state.context_latents)


# What a step that lowers the objective does to the damping.
_SHRINK = 0.3


class _Point(eqx.Module):
    """The reduced problem at one context: its value, half its gradient with respect to the mixture, and their Jacobian;
    with kinks also the pre-activations and theirs."""

    value: Float[Array, ""]
    mixture: Float[Array, " weights_and_gains"]
    gradient: Float[Array, " weights_and_gains"]
    jacobian: Float[Array, "weights_and_gains context"]
    outputs: Float[Array, " weights_and_gains"] | None
    output_jacobian: Float[Array, "weights_and_gains context"] | None

    @classmethod
    def at(cls, problem: StepProblem, context_latents: Float[Array, " context"]) -> "_Point":
        """Everything evaluated."""
        reduced, network = problem.prepared, problem.model.hypernetwork
        outputs, output_jacobian = reduced.linearizer(context_latents)
        mixture, push = jax.linearize(network.activate, outputs)
        gradient = small_product(reduced.quadratic, mixture) - reduced.linear
        distance = context_latents - problem.prior_mean
        return cls(
            reduced.value(mixture) + problem.prior_precision * jnp.sum(distance**2),
            mixture,
            gradient,
            jax.vmap(push, 1, 1)(output_jacobian),
            outputs if network.has_kinks else None,
            output_jacobian if network.has_kinks else None,
        )

    @classmethod
    def unknown(cls, size: tuple[int, int], dtype: jnp.dtype, has_kinks: bool) -> "_Point":
        """Worse than any other point, and without a slope."""
        vector, matrix = jnp.zeros(size[0], dtype), jnp.zeros(size, dtype)
        kinks = (vector, matrix) if has_kinks else (None, None)
        return cls(jnp.full((), jnp.inf, dtype), vector, vector, matrix, *kinks)

    def newton(
        self,
        problem: StepProblem,
        context_latents: Float[Array, " context"],
        damping: Float[Array, ""],
        hold: Bool[Array, " weights_and_gains"] | None,
    ) -> Float[Array, " context"]:
        """The damped step; pre-activations under `hold` are led to zero, where their kinks are."""
        curved = small_product(problem.prepared.quadratic, self.jacobian)
        system = small_product(self.jacobian, _beside(curved, self.gradient))
        pull_back = problem.prior_precision * (context_latents - problem.prior_mean)
        system = _beside(system[:, :-1], system[:, -1] + pull_back)
        matrix, slope = system[:, :-1], system[:, -1]
        mean_curvature = jnp.trace(matrix) / slope.shape[0] + 1e-6
        if hold is not None and self.outputs is not None and self.output_jacobian is not None:
            sizes = jnp.sum(self.output_jacobian**2, axis=1)
            # As stiff as the precision allows: what leaks through is paid for at the slope of the kink.
            stiffness = (1 + damping) * mean_curvature / jnp.finfo(slope.dtype).eps ** 0.5
            stiff = jnp.where(hold, stiffness / (sizes + 1e-6), 0.0)[:, None] * self.output_jacobian
            slope = slope + small_product(stiff, self.outputs)
            matrix = matrix + small_product(stiff, self.output_jacobian)
        diagonal = damping * mean_curvature + problem.prior_precision
        return solve_positive(_beside(matrix + diagonal * jnp.eye(slope.shape[0], dtype=slope.dtype), slope))


def _eigen(
    weight: Float[Array, "observations latents"],
) -> tuple[Float[Array, " latents"], Float[Array, "latents latents"]]:
    """Eigenvalues and eigenvectors of $C^T C$, as constants: their own derivatives do not exist where eigenvalues
    repeat (latents that no channel shows, orthogonal axes), those of what is computed from them do."""
    gram = jax.lax.stop_gradient(weight.T @ weight)
    eigenvalues, eigenvectors = jnp.linalg.eigh(to_decompose(gram))
    return jnp.maximum(eigenvalues, 0.0).astype(gram.dtype), eigenvectors.astype(gram.dtype)


def _resolve(
    weight: Float[Array, "observations latents"],
    scale: Float[Array, ""],
    right: Float[Array, "latents columns"],
    spectrum: tuple[Float[Array, " latents"], Float[Array, "latents latents"]],
) -> Float[Array, "latents columns"]:
    r"""$(G + \lambda I)^{-1} B$ by the eigenbasis, with the derivatives of the equation that it solves."""

    def solve(_: object, right: Array) -> Array:
        eigenvalues, eigenvectors = spectrum
        return eigenvectors @ ((eigenvectors.T @ right) / (eigenvalues + jax.lax.stop_gradient(scale))[:, None])

    return jax.lax.custom_linear_solve(lambda x: weight.T @ (weight @ x) + scale * x, right, solve, symmetric=True)


def _reduce(
    weight: Float[Array, "observations latents"],
    scale: Float[Array, ""],
    columns: Float[Array, "latents weights_and_gains"],
    data: Float[Array, " latents"],
    spectrum: tuple[Float[Array, " latents"], Float[Array, "latents latents"]],
) -> tuple[Array, Array, Array, Array]:
    r"""$Q$, $\ell$, $A$ and $t$, in the eigenbasis. The last two serve comparisons and have no derivatives."""
    x = _resolve(weight, scale, columns, spectrum)
    quadratic, linear = scale * (x.T @ (weight.T @ (weight @ columns))), scale * (x.T @ data)

    eigenvalues, eigenvectors = spectrum
    scale, columns, data = jax.lax.stop_gradient((scale, columns, data))
    columns, data = eigenvectors.T @ columns, eigenvectors.T @ data
    curvature, pull = scale * eigenvalues / (eigenvalues + scale), scale * data / (eigenvalues + scale)
    root = jnp.sqrt(curvature)
    factor, target = root[:, None] * columns, root * pull / (curvature + 1e-12)
    quadratic = with_tangent(small_product(factor, factor), quadratic)
    return quadratic, with_tangent(small_product(columns, pull), linear), factor, target


def _beside(matrix: Float[Array, "rows columns"], column: Float[Array, " rows"]) -> Float[Array, "rows wider"]:
    """A matrix with one more column, computed once: a sum or product that goes into small products would be computed
    again in each of their terms (what is concatenated is not, if the compiler cannot see through it)."""
    return _opaque(jnp.concatenate([matrix, column[:, None]], axis=1))


def solve_positive(system: Float[Array, "dim dim_and_one"]) -> Float[Array, " dim"]:
    """Solution of a small positive definite system, its right side the last column, by elimination without pivots,
    written out.

    A factorisation routine is called once per matrix; this is a handful of vector operations on all systems of all
    enclosing `vmap`s at once, which lie along the last axis.
    """
    matrix = system[:, :-1]
    return jax.lax.custom_linear_solve(
        lambda x: matrix @ x,
        system[:, -1],
        lambda _, right: _solve_many(_beside(matrix, right)[..., None])[:, 0],
        symmetric=True,
    )


@jax.custom_batching.custom_vmap
def _solve_many(systems: Float[Array, "dim dim_and_one many"]) -> Float[Array, "dim many"]:
    return _eliminate(systems)


@_solve_many.def_vmap
def _solve_more(size: int, is_batched: list[bool], systems: Float[Array, "size dim dim_and_one many"]):
    many = systems.shape[-1]
    flat = jnp.reshape(jnp.moveaxis(systems, 0, 2), (*systems.shape[1:3], size * many))
    return jnp.moveaxis(jnp.reshape(_solve_many(flat), (-1, size, many)), 1, 0), True


def _eliminate(table: Float[Array, "dim dim_and_one many"]) -> Float[Array, "dim many"]:
    for _ in range(table.shape[0]):  # the first column is eliminated and dropped, its row moves to the end
        row = table[0, 1:] / table[0, :1]
        table = _opaque(jnp.concatenate([table[1:, 1:] - table[1:, :1] * row[None], row[None]]))
    return table[:, 0]


# Slices of a concatenation would be simplified away, and the parts computed again wherever they are used.
_opaque = jax.lax.optimization_barrier
