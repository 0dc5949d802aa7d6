"""The published solver: gradient descent with Nesterov momentum, with every quirk as an option."""

from collections.abc import Callable
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._model import TiDHy
from .._problem import StepProblem, freeze
from .._types import SEQUENCES, LatentState, RealScalar, check_numbers
from ._base import AbstractIterativeSolver, Iterate
from ._inner_gradnorm import InnerGradNorm


class Coupling(eqx.Module):
    """How sequences of one batch influence each other: not at all, unless published behaviour is asked for.

    - `reduction`: `"sum"` over entries, or `"batch_mean"`: gradients divided by the number of sequences, so that the
      step size depends on the batch.
    - `criterion`: a sequence stops when it has converged (`"sequence"`); all stop when all have (`"all_sequences"`); or
      when the norm over the whole batch has (`"batch"`).
    """

    reduction: Literal["sum", "batch_mean"] = eqx.field(static=True, default="sum")
    criterion: Literal["sequence", "all_sequences", "batch"] = eqx.field(static=True, default="sequence")

    def gradient_scale(self) -> RealScalar:
        """What the gradient of the smooth part is multiplied by."""
        return 1.0 if self.reduction == "sum" else 1.0 / jax.lax.psum(1.0, SEQUENCES)

    def relative_change(
        self, new: Float[Array, " dim"], old: Float[Array, " dim"], absolute_below: RealScalar
    ) -> Float[Array, ""]:
        r"""$\lVert new - old \rVert / \lVert old \rVert$, or the numerator where the denominator is small."""
        change, size = jnp.sum((new - old) ** 2), jnp.sum(old**2)
        if self.criterion == "batch":
            change, size = jax.lax.psum((change, size), SEQUENCES)
        change, size = jnp.sqrt(change), jnp.sqrt(size)
        return jnp.where(size < absolute_below, change, change / (size + 1e-16))

    def total(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The sum over the sequences whose gradients are averaged: all of a batch, or this one."""
        return x if self.reduction == "sum" else jax.lax.psum(x, SEQUENCES)

    def all_agree(self, is_converged: Bool[Array, ""]) -> Bool[Array, ""]:
        """Whether this sequence may stop."""
        if self.criterion != "all_sequences":
            return is_converged
        return jax.lax.pmin(is_converged.astype(jnp.int32), SEQUENCES) == 1


class SgdNesterov(AbstractIterativeSolver):
    r"""Gradient descent with momentum: $m \leftarrow \mu m + g$, $\theta \leftarrow \theta - \eta (g + \mu m)$.

    For parity with the published code; prefer `ReducedGaussNewton` or `ProximalGradient`. The latents start from zero
    at every time step and the context latents from their last value. `original(version=...)` on `Inference` sets the
    options as published: batch-averaged gradients (which make the answer depend on the batch size), halvings of the
    latents' step only, thresholds that are not multiplied by the step size, saturations applied to iterates.

    **Arguments:**

    - `learning_rate`, `context_learning_rate`: steps $\eta$ of the two latents; None for the same.
    - `max_steps`, `tolerance`: stop when the relative change of both falls below `tolerance`.
    - `num_halvings`: the latents' step is halved every `max_steps // num_halvings` iterations; zero for never.
    - `threshold`, `context_threshold`: soft threshold applied to every iterate, as it is.
    - `saturation`, `context_saturation`: applied to every iterate.
    - `absolute_below`: norm of the old value below which its change counts absolutely.
    - `sign_of_zero`: subgradient of the L1 terms at zero; PyTorch's is 0, JAX's is 1.
    - `prior_at_iterate`: evaluate a learned prior at each iterate, held constant, as published, instead of once at the
      latents of the step before. The context then chases the prior's fixed point and does not know its past.
    - `coupling`: how sequences of a batch influence each other.
    - `balance`: reweigh the gradients at every iteration, as published under `grad_norm_inf`.

    **Raises:** `ValueError` if `max_steps` is too small for `num_halvings`, or a number is out of its range.
    """

    learning_rate: RealScalar = 0.01
    context_learning_rate: RealScalar | None = None
    max_steps: int = eqx.field(static=True, default=250)
    tolerance: RealScalar = 0.01
    momentum: RealScalar = 0.9
    num_halvings: int = eqx.field(static=True, default=0)
    threshold: RealScalar = 0.0
    context_threshold: RealScalar = 0.0
    saturation: Callable | None = None
    context_saturation: Callable | None = None
    absolute_below: RealScalar = 1e-8
    sign_of_zero: Literal[0, 1] = eqx.field(static=True, default=0)
    prior_at_iterate: bool = eqx.field(static=True, default=False)
    coupling: Coupling = Coupling()
    balance: InnerGradNorm | None = None

    is_differentiable: ClassVar[bool] = False

    def __check_init__(self):
        if self.max_steps < max(1, self.num_halvings):
            raise ValueError(
                f"`max_steps` must be at least the number of milestones; got max_steps={self.max_steps} for "
                f"num_halvings={self.num_halvings}. Raise `max_steps` or lower `num_halvings`."
            )
        if self.num_halvings < 0:
            raise ValueError(f"`num_halvings` must not be negative; got {self.num_halvings}.")
        check_numbers(self, ("learning_rate", "context_learning_rate"), lambda x: x > 0, "be positive")
        check_numbers(self, ("tolerance", "threshold", "context_threshold"), lambda x: x >= 0, "not be negative")
        check_numbers(self, ("momentum",), lambda x: 0 <= x < 1, "lie in [0, 1)")

    def prepare(self, model: TiDHy) -> PyTree:
        return None

    def focus(self, problem: StepProblem) -> StepProblem:
        return problem

    def init(self, problem: StepProblem, previous: LatentState) -> Iterate:
        first = first_iterate(LatentState(jnp.zeros_like(previous.latents), previous.context_latents))
        if self.balance is None:
            return first
        memory = (first.memory, self.balance.init(previous.latents))
        return eqx.tree_at(lambda iterate: iterate.memory, first, memory)

    def step(self, problem: StepProblem, iterate: Iterate) -> Iterate:
        if self.balance is None:
            return self.descend(iterate, self._gradient(problem, iterate.state))
        momentum, weights = iterate.memory
        gradient, weights = self.balance(
            problem, iterate.state, weights, self.coupling.gradient_scale(), self.coupling.total
        )
        new = self.descend(Iterate(iterate.state, momentum, iterate.num_steps, iterate.is_converged), gradient)
        return Iterate(new.state, (new.memory, weights), new.num_steps, new.is_converged)

    def finish(self, problem: StepProblem, iterate: Iterate) -> LatentState:
        return iterate.state

    def descend(self, iterate: Iterate, gradient: LatentState) -> Iterate:
        """One momentum update along a gradient, with thresholds and saturations, and the convergence test."""
        old = iterate.state
        momentum = jtu.tree_map(lambda m, g: self.momentum * m + g, iterate.memory, gradient)
        direction = jtu.tree_map(lambda m, g: g + self.momentum * m, momentum, gradient)
        context_rate = self.learning_rate if self.context_learning_rate is None else self.context_learning_rate
        latents = old.latents - self._latents_rate(iterate.num_steps, old.latents) * direction.latents
        context_latents = old.context_latents - context_rate * direction.context_latents
        new = LatentState(
            _bound(latents, self.threshold, self.saturation),
            _bound(context_latents, self.context_threshold, self.context_saturation),
        )
        changes = jtu.tree_map(lambda n, o: self.coupling.relative_change(n, o, self.absolute_below), new, old)
        is_small = jnp.maximum(*jtu.tree_leaves(changes)) < self.tolerance
        return Iterate(new, momentum, iterate.num_steps + 1, self.coupling.all_agree(is_small))

    def _latents_rate(self, num_steps: Int[Array, ""], like: Array) -> RealScalar:
        if self.num_halvings == 0:
            return self.learning_rate
        halvings = num_steps // (self.max_steps // self.num_halvings)
        return self.learning_rate * jnp.exp2(-halvings.astype(like.dtype))

    def _gradient(self, problem: StepProblem, state: LatentState) -> LatentState:
        scale = self.coupling.gradient_scale()
        prior = problem.model.prior
        if self.prior_at_iterate and prior is not None:
            mean = prior.mean(*freeze((state.latents, state.context_latents)))
            problem = eqx.tree_at(lambda p: p.prior_mean, problem, mean)

        def loss(state: LatentState) -> Float[Array, ""]:
            objective = problem.objective
            total = scale * problem.smooth(state)
            total = total + objective.l1_latents * self._l1(state.latents)
            total = total + objective.l1_context * self._l1(state.context_latents)
            return total + objective.l1_weights * self._l1(problem.weights(state.context_latents))

        return jax.grad(loss)(state)

    def _l1(self, x: Float[Array, " dim"]) -> Float[Array, ""]:
        sign = jnp.sign(x) if self.sign_of_zero == 0 else jnp.where(x >= 0, 1.0, -1.0).astype(x.dtype)
        return jnp.sum(x * jax.lax.stop_gradient(sign))


def first_iterate(state: LatentState) -> Iterate:
    """A start with empty momentum."""
    momentum = jtu.tree_map(jnp.zeros_like, state)
    return Iterate(state, momentum, jnp.zeros((), jnp.int32), jnp.zeros((), bool))


def soft_threshold(x: Float[Array, " dim"], threshold: RealScalar | Float[Array, " dim"]) -> Float[Array, " dim"]:
    r"""$\mathrm{sign}(x) \max(|x| - \theta, 0)$."""
    # With a threshold of zero this is the identity, also for the derivative at zero.
    return jnp.where(jnp.abs(x) >= threshold, x - jnp.sign(x) * threshold, 0.0)


def _bound(x: Float[Array, " dim"], threshold: RealScalar, saturation: Callable | None) -> Float[Array, " dim"]:
    if not (isinstance(threshold, int | float) and threshold == 0):
        x = soft_threshold(x, threshold)
    return x if saturation is None else saturation(x)
