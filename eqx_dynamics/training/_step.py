"""A training step is a cell: `(batch, state) -> (metrics, state)`."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, PRNGKeyArray, PyTree

from ._state import TrainState


@runtime_checkable
class Optimizer(Protocol):
    """Anything with optax's `init` and `update`."""

    @property
    def init(self) -> Callable: ...
    @property
    def update(self) -> Callable: ...


class TrainStep(eqx.Module):
    """One update of a model on one batch; made by `make_step`."""

    loss_fn: Callable
    optimizer: Any
    donate: bool = eqx.field(static=True, default=True)

    def init(self, model: PyTree, *, key: PRNGKeyArray, statistics: Any = None) -> TrainState:
        """The state before the first step."""
        model = jtu.tree_map(_as_strong_array, model)
        with jax.numpy_dtype_promotion("standard"):
            opt_state = self.optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        return TrainState(model, jtu.tree_map(_as_strong_array, opt_state), key, jnp.zeros((), jnp.int32), statistics)

    def __call__(
        self, batch: PyTree, state: TrainState, *, key: PRNGKeyArray | None = None
    ) -> tuple[dict[str, Array], TrainState]:
        """Metrics of the model on `batch`, and the state after the update."""
        key = jr.fold_in(state.key, state.step) if key is None else key
        params, rest = eqx.partition(state.model, eqx.is_inexact_array)

        def loss(params: PyTree) -> tuple[Array, dict]:
            return _with_metrics(self.loss_fn(eqx.combine(params, rest), batch, key))

        (_, metrics), grads = eqx.filter_value_and_grad(loss, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = self.optimizer.update(grads, state.opt_state, params)
            params = jtu.tree_map(lambda p, u: (p + u).astype(p.dtype), params, updates)
        return metrics, TrainState(eqx.combine(params, rest), opt_state, state.key, state.step + 1, state.statistics)


def make_step(loss_fn: Callable, optimizer: Optimizer, *, donate: bool = True) -> TrainStep:
    """A training step as a cell."""
    return TrainStep(loss_fn, optimizer, donate)


def _with_metrics(result: Any) -> tuple[Array, dict[str, Array]]:
    loss, metrics = result if isinstance(result, tuple) else (result, {})
    if jnp.shape(loss) != ():
        raise ValueError(f"`loss_fn` must return a scalar loss; got shape {jnp.shape(loss)}. Take its mean.")
    return loss, {"loss": loss, **metrics}


def _as_strong_array(leaf: Any) -> Any:
    if (
        eqx.is_array_like(leaf)
        and hasattr(leaf, "dtype")
        and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ):
        return jax.lax.convert_element_type(leaf, leaf.dtype)
    return leaf
