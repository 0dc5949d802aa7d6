"""The published balancing of inference gradients, for parity."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float

from .._problem import StepProblem
from .._types import LatentState, RealScalar


class InnerBalance(eqx.Module):
    """Weights of the three tasks of one inference, and their losses at its first iterate."""

    weights: Float[Array, " tasks"]
    first_losses: Float[Array, " tasks"]
    is_started: Bool[Array, ""]


class InnerGradNorm(eqx.Module):
    r"""What the PyTorch code does to the gradients of inference under `grad_norm_inf`; off in every published setting.

    Three tasks: the likelihood term, and $\lVert r - \bar r \rVert^2$ twice, once for each of the two latents. With
    $n_i$ the norms of their gradients (with respect to both latents, to $r$, to $h$), $\rho_i$ their losses relative to
    the first iterate and to each other, the weights make one AdamW step of an optimiser created anew at every iteration
    along $\partial_w \sum_i |w_i n_i - \overline{w n} \rho_i^\alpha|$, and are replaced by three times their softmax.
    The gradient of that sum with respect to the latents joins their update. The objective's weight $\lambda$, its L1
    terms and the prior have no effect on the iterates.
    """

    alpha: RealScalar = 1.0
    learning_rate: RealScalar = 0.005
    weight_decay: RealScalar = 0.01

    def init(self, like: Float[Array, " dim"]) -> InnerBalance:
        """Equal weights."""
        return InnerBalance(jnp.ones(3, like.dtype), jnp.zeros(3, like.dtype), jnp.zeros((), bool))

    def __call__(
        self,
        problem: StepProblem,
        state: LatentState,
        balance: InnerBalance,
        scale: RealScalar,
        total: Callable[[Float[Array, " tasks"]], Float[Array, " tasks"]],
    ) -> tuple[LatentState, InnerBalance]:
        """**Arguments:** `scale`: of the losses of one sequence; `total`: their sum over the sequences of a batch.

        **Returns:** the gradient for the update of the latents, and the weights of the next iteration.
        """

        def likelihood(state: LatentState) -> Float[Array, ""]:
            return scale * problem.nll(state.latents)

        def change(state: LatentState) -> Float[Array, ""]:
            return scale * jnp.sum((state.latents - problem.predict(state.context_latents)) ** 2)

        tasks = (likelihood, change, change)
        # The second task counts the gradient with respect to r, the third that with respect to h.
        parts = (lambda s: s, lambda s: s.latents, lambda s: s.context_latents)
        gradients = [jax.grad(task)(state) for task in tasks]
        sizes = [sum(jnp.sum(g**2) for g in jtu.tree_leaves(p(g))) for p, g in zip(parts, gradients, strict=True)]
        squares = total(jnp.stack(sizes))
        is_zero = squares == 0
        norms = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))
        losses = total(jnp.stack([task(state) for task in tasks]))
        first = jnp.where(balance.is_started, balance.first_losses, jnp.where(losses == 0, 1e-6, losses))
        progress = losses / first
        target = jnp.mean(balance.weights * norms) * (progress / jnp.mean(progress)) ** self.alpha
        signs = jnp.sign(balance.weights * norms - target)
        leaks = balance.weights * signs / jnp.where(is_zero, jnp.inf, norms)

        def weighted(state: LatentState) -> Float[Array, ""]:
            value = jnp.zeros((), state.latents.dtype)
            for n, (task, part) in enumerate(zip(tasks, parts, strict=True)):
                product = jtu.tree_map(
                    lambda a, b: jnp.sum(a * b), part(jax.grad(task)(state)), jax.lax.stop_gradient(part(gradients[n]))
                )
                value = value + balance.weights[n] * task(state) + leaks[n] * sum(jtu.tree_leaves(product))
            return value

        slope = signs * norms
        decayed = balance.weights * (1 - self.learning_rate * self.weight_decay)
        weights = decayed - self.learning_rate * slope / (jnp.abs(slope) + 1e-8)
        new = InnerBalance(3 * jax.nn.softmax(weights), first, jnp.ones((), bool))
        return jax.grad(weighted)(state), new
