"""The published treatments of the first time step; without one, it is a step like any other with a zero prediction."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._problem import StepProblem
from .._types import LatentState, RealScalar, Solution
from ._base import Iterate, run, solution
from ._sgd import Coupling, SgdNesterov, first_iterate


class AbstractStart(eqx.Module):
    """How the first time step of a fresh sequence is inferred."""

    @abc.abstractmethod
    def context(self, shape: tuple[int, ...], dtype: jnp.dtype, key: PRNGKeyArray | None) -> Float[Array, "..."]:
        """The context latents before the first step."""

    @abc.abstractmethod
    def __call__(self, problem: StepProblem, previous: LatentState) -> Solution:
        """Latents of the first step."""


class ZeroStart(AbstractStart):
    """Zero latents, without inference: what the PyTorch code trains with."""

    def context(self, shape: tuple[int, ...], dtype: jnp.dtype, key: PRNGKeyArray | None) -> Float[Array, "..."]:
        return jnp.zeros(shape, dtype)

    def __call__(self, problem: StepProblem, previous: LatentState) -> Solution:
        zeros = LatentState(jnp.zeros_like(previous.latents), previous.context_latents)
        return _run(_stay, problem, first_iterate(zeros), 1)


class AdamWStart(AbstractStart):
    """Latents alone, by AdamW on the likelihood: what the PyTorch code evaluates with.

    The weight decay, PyTorch's default, biases the latents towards zero.
    """

    learning_rate: RealScalar
    max_steps: int = eqx.field(static=True)
    tolerance: RealScalar
    weight_decay: RealScalar = 0.01
    coupling: Coupling = Coupling("batch_mean", "all_sequences")

    def context(self, shape: tuple[int, ...], dtype: jnp.dtype, key: PRNGKeyArray | None) -> Float[Array, "..."]:
        return jnp.zeros(shape, dtype)

    def __call__(self, problem: StepProblem, previous: LatentState) -> Solution:
        zeros = jnp.zeros_like(previous.latents)
        first = first_iterate(LatentState(zeros, previous.context_latents))
        first = eqx.tree_at(lambda iterate: iterate.memory, first, (zeros, zeros))  # first and second moment
        return _run(self._step, problem, first, self.max_steps)

    def _step(self, problem: StepProblem, iterate: Iterate) -> Iterate:
        old = iterate.state.latents
        gradient = self.coupling.gradient_scale() * jax.grad(problem.nll)(old)
        count = (iterate.num_steps + 1).astype(old.dtype)
        mean, square = iterate.memory
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        root = jnp.sqrt(square / (1 - 0.999**count)) + 1e-8
        new = old - self.learning_rate * self.weight_decay * old - self.learning_rate * mean / (1 - 0.9**count) / root
        change = self.coupling.relative_change(new, old, 0.0)
        state = LatentState(new, iterate.state.context_latents)
        is_converged = self.coupling.all_agree(change < self.tolerance)
        return Iterate(state, (mean, square), iterate.num_steps + 1, is_converged)


class JointStart(AbstractStart):
    r"""Latents and context by gradient descent on $\ell + 0.01 \lVert h \rVert^2 + 0.01 \lVert w(h) \rVert^2$.

    What the later JAX code does, from a random context; gradients are clipped entry by entry.
    """

    solver: SgdNesterov
    clip: RealScalar | None = None
    context_scale: RealScalar = 0.01
    shrinkage: RealScalar = 0.01

    def context(self, shape: tuple[int, ...], dtype: jnp.dtype, key: PRNGKeyArray | None) -> Float[Array, "..."]:
        if key is None:
            raise ValueError("`key` is needed: `JointStart` draws the first context latents at random.")
        return self.context_scale * jr.normal(key, shape, dtype)

    def __call__(self, problem: StepProblem, previous: LatentState) -> Solution:
        start = LatentState(jnp.zeros_like(previous.latents), previous.context_latents)
        return _run(self._step, problem, first_iterate(start), self.solver.max_steps)

    def _step(self, problem: StepProblem, iterate: Iterate) -> Iterate:
        def loss(state: LatentState) -> Float[Array, ""]:
            weights = problem.weights(state.context_latents)
            shrunk = jnp.sum(state.context_latents**2) + jnp.sum(weights**2)
            return problem.nll(state.latents) + self.shrinkage * shrunk

        gradient, clip = jax.grad(loss)(iterate.state), self.clip
        if clip is not None:
            gradient = jax.tree_util.tree_map(lambda g: jnp.clip(g, -clip, clip), gradient)
        return self.solver.descend(iterate, gradient)


def _stay(problem: StepProblem, iterate: Iterate) -> Iterate:
    return Iterate(iterate.state, iterate.memory, iterate.num_steps + 1, jnp.ones((), bool))


def _run(step: Any, problem: StepProblem, first: Iterate, max_steps: int) -> Solution:
    last = run(step, problem, first, max_steps)
    return solution(problem, first.state, last, last.state)
