"""Balancing the terms of the loss by the sizes of their gradients."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ._losses import Inferred, TiDHyLoss, Windows
from ._model import TiDHy
from ._regularizers import Regularizer
from ._types import RealScalar


class BalanceState(eqx.Module):
    """Weights of the three tasks (reconstruction, prediction, temporal), and the task losses of the first batch."""

    weights: Float[Array, " tasks"]
    first_losses: Float[Array, " tasks"]
    is_started: Bool[Array, ""]


class AbstractBalance(eqx.Module):
    """Turns task losses and their gradient norms into new task weights."""

    @abc.abstractmethod
    def norms(self, model: TiDHy, gradients: PyTree) -> Float[Array, " tasks"]:
        """The size of each task's gradient; `gradients` has a leading axis of tasks."""

    @abc.abstractmethod
    def __call__(
        self,
        losses: Float[Array, " tasks"],
        norms: Float[Array, " tasks"],
        state: BalanceState,
    ) -> tuple[Float[Array, ""], BalanceState]:
        """A term to add to the loss (its value is taken off again, its gradient acts), and the new state."""


class GradNorm(AbstractBalance):
    r"""GradNorm (Chen et al., ICML 2018, eqs. 1-2 and algorithm 1).

    $G_i = \lVert \nabla_\theta w_i L_i \rVert$, $\rho_i = (L_i / L_i(0)) / \mathrm{mean}_j(L_j / L_j(0))$;
    $w_i \leftarrow w_i - \eta\, \partial_{w_i} \sum_j |G_j - \bar G \rho_j^\alpha|$ with the target held constant, then
    $w$ is rescaled to sum to the number of tasks. The norms are over all parameters: the tasks share no single layer.

    **Arguments:** `alpha`: $\alpha$, how strongly slow tasks are favoured; `learning_rate`: $\eta$, for gradient norms
    relative to their mean, so that it has no units; `smallest`: lower bound of a weight.
    """

    alpha: RealScalar = 0.5
    learning_rate: RealScalar = 0.01
    smallest: RealScalar = 0.01

    def norms(self, model: TiDHy, gradients: PyTree) -> Float[Array, " tasks"]:
        squares = [jnp.sum(jnp.reshape(g, (g.shape[0], -1)) ** 2, axis=1) for g in jtu.tree_leaves(gradients)]
        return jax.lax.stop_gradient(jnp.sqrt(sum(squares[1:], squares[0])))

    def __call__(
        self, losses: Float[Array, " tasks"], norms: Float[Array, " tasks"], state: BalanceState
    ) -> tuple[Float[Array, ""], BalanceState]:
        sizes = state.weights * norms
        target = _target(losses, sizes, state, self.alpha)
        slope = jnp.sign(sizes - target) * norms / (jnp.mean(norms) + 1e-30)
        weights = jnp.maximum(state.weights - self.learning_rate * slope, self.smallest)
        weights = weights * weights.shape[0] / jnp.sum(weights)
        return jnp.zeros_like(losses[0]), BalanceState(weights, state.first_losses, state.is_started)


class OriginalGradNorm(AbstractBalance):
    r"""What the PyTorch code does, for parity.

    It differs from GradNorm in four ways: $G_i$ sums the norms of single arrays (of the decoder; decoder and
    transition; transition and hypernetwork); the weights make one AdamW step of an optimiser created anew each time,
    which moves each by nearly $\pm \eta$; they are then replaced by their softmax; and the gradient of $\sum_i |G_i -
    target_i|$ with respect to the parameters leaks into the update.
    """

    alpha: RealScalar = 0.5
    learning_rate: RealScalar = 0.01
    weight_decay: RealScalar = 1e-5

    def norms(self, model: TiDHy, gradients: PyTree) -> Float[Array, " tasks"]:
        decoder = _array_norms(gradients.decoder)
        transition = _array_norms(
            eqx.tree_at(lambda t: t.bias, gradients.transition, None, is_leaf=lambda x: x is None)
        )
        hypernetwork = _array_norms(gradients.hypernetwork)
        parts = (decoder[0], decoder[1] + transition[1], transition[2] + hypernetwork[2])
        return jnp.stack(parts)

    def __call__(
        self, losses: Float[Array, " tasks"], norms: Float[Array, " tasks"], state: BalanceState
    ) -> tuple[Float[Array, ""], BalanceState]:
        sizes = state.weights * norms
        target = jax.lax.stop_gradient(_target(losses, sizes, state, self.alpha))
        distance = jnp.sum(jnp.abs(sizes - target))
        slope = jax.lax.stop_gradient(jnp.sign(sizes - target) * norms)
        decayed = state.weights * (1 - self.learning_rate * self.weight_decay)
        weights = decayed - self.learning_rate * slope / (jnp.abs(slope) + 1e-8)
        weights = weights.shape[0] * jax.nn.softmax(weights)
        return distance - jax.lax.stop_gradient(distance), BalanceState(weights, state.first_losses, state.is_started)


class BalancedLoss(eqx.Module):
    """`TiDHyLoss` with adaptive weights of its terms, for `make_step(loss, ...)` with `statistics=loss.init_state()`.

    One inference per step: the gradients of the single tasks are taken of the terms given its latents.

    **Arguments:**

    - `loss`: inference, and regularisers that are added as they are.
    - `balance`: `GradNorm()` or `OriginalGradNorm()`.
    - `temporal_regularizers`: added to the third task, as the PyTorch code does with its similarity penalties.
    """

    loss: TiDHyLoss
    balance: AbstractBalance = GradNorm()
    temporal_regularizers: tuple[Regularizer, ...] = ()

    def init_state(self, dtype: jnp.dtype | None = None) -> BalanceState:
        """Equal weights."""
        dtype = jnp.zeros(()).dtype if dtype is None else dtype
        return BalanceState(jnp.ones(3, dtype), jnp.ones(3, dtype), jnp.zeros((), bool))

    def __call__(
        self,
        model: TiDHy,
        batch: Windows | Float[Array, "batch time observations"],
        key: PRNGKeyArray | None,
        state: BalanceState,
    ) -> tuple[Float[Array, ""], dict[str, Array], BalanceState]:
        """Loss, metrics and the new weights."""
        inferred = self.loss.infer(model, batch, key)
        params, static = eqx.partition(model, eqx.is_inexact_array)

        def tasks(params: PyTree) -> Float[Array, " tasks"]:
            return self._tasks(eqx.combine(params, static), inferred)

        losses = tasks(params)
        now = jax.lax.stop_gradient(losses)
        first = jnp.where(state.is_started, state.first_losses, now)
        state = BalanceState(state.weights, first, jnp.ones((), bool))
        norms = self.balance.norms(model, jax.jacrev(tasks)(params))
        leak, new_state = self.balance(now, norms, state)
        loss = jnp.sum(state.weights * losses) + leak
        for regularizer in self.loss.regularizers:
            loss = loss + regularizer(model, inferred.solution, inferred.is_step)
        metrics = self.loss.metrics(model, inferred)
        names = ("weight_reconstruction", "weight_prediction", "weight_temporal")
        metrics |= {name: new_state.weights[n] for n, name in enumerate(names)}
        return loss, metrics, jax.lax.stop_gradient(new_state)

    def _tasks(self, model: TiDHy, inferred: Inferred) -> Float[Array, " tasks"]:
        terms = inferred.terms(model)
        temporal = terms.temporal + terms.prior
        for regularizer in self.temporal_regularizers:
            temporal = temporal + regularizer(model, inferred.solution, inferred.is_step)
        return jnp.stack([terms.reconstruction, terms.prediction, temporal])


def _target(
    losses: Float[Array, " tasks"], sizes: Float[Array, " tasks"], state: BalanceState, alpha: RealScalar
) -> Float[Array, " tasks"]:
    progress = losses / jnp.maximum(state.first_losses, 1e-30)
    rates = progress / jnp.maximum(jnp.mean(progress), 1e-30)
    return jnp.mean(sizes) * rates**alpha


def _array_norms(gradients: PyTree) -> Float[Array, " tasks"]:
    """For each task the sum over arrays of their norms."""
    norms = []
    for leaf in jtu.tree_leaves(gradients):
        square = jnp.sum(jnp.reshape(leaf, (leaf.shape[0], -1)) ** 2, axis=1)
        is_zero = square == 0  # the norm of a zero gradient has no derivative: take zero
        norms.append(jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square))))
    return sum(norms[1:], norms[0])
