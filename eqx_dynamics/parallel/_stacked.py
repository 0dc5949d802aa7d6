"""A loss of one sub-batch as a loss of several, stacked."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._examples import check_sizes


class _Stacked(eqx.Module):
    loss_fn: Callable

    def __call__(
        self, model: PyTree, batches: PyTree, key: PRNGKeyArray, statistics: PyTree = None
    ) -> tuple[Array, dict[str, Array]]:
        if statistics is not None:
            raise ValueError(
                "`stacked` cannot carry `statistics`: every sub-batch would make its own. Use a norm that keeps none "
                "(`LayerNorm`, `GraphNorm`), or one batch for all devices."
            )

        def one(batch: PyTree, key: PRNGKeyArray) -> tuple[Any, dict[str, Any]]:
            check_sizes(batch)
            result = self.loss_fn(model, batch, key)
            return result if isinstance(result, tuple) else (result, {})

        keys = jr.split(key, jtu.tree_leaves(eqx.filter(batches, eqx.is_array))[0].shape[0])
        in_axes = jtu.tree_map(eqx.if_array(0), batches)
        loss, metrics = eqx.filter_vmap(one, in_axes=(in_axes, 0))(batches, keys)
        return jnp.mean(loss), jax.tree.map(lambda m: m.mean(0), metrics)


def stacked(loss_fn: Callable) -> Callable:
    r"""The mean of `loss_fn` over sub-batches stacked along a new first axis, $\frac{1}{D} \sum_d L(b_d)$.

    With `make_step(stacked(loss_fn), ..., mesh=mesh)` each device works on its own sub-batches, which never meet: the
    way to train on padded graphs on several devices.

    **Arguments:** `loss_fn`: `(model, batch, key) -> loss` or `-> (loss, metrics)` of one sub-batch.

    **Returns:** the same for stacked sub-batches; each gets its own key.

    **Raises:** while tracing: `ValueError` if arrays of a sub-batch (in tuples, lists and dicts) differ in their number
    of examples, or the state has `statistics`.
    """
    return _Stacked(loss_fn)
