"""The loss as a function of the trainable leaves: checked, cast, scaled, summed over micro-batches."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._examples import check_sizes
from .._scan import scan
from ._precision import DynamicLossScale, Precision, scaled, unscaled, widened


class Objective(eqx.Module):
    """`loss_fn`, differentiated.

    `loss_fn(model, batch, key)` returns a scalar loss, or `(loss, metrics)` with a dict of scalars; where the state
    carries statistics it is `loss_fn(model, batch, key, statistics)` and returns `(loss, metrics, statistics)`.
    """

    loss_fn: Callable
    precision: Precision
    accumulate: int = eqx.field(static=True)

    def value(
        self, params: PyTree, rest: PyTree, batch: PyTree, key: PRNGKeyArray, statistics: Any
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Loss, and with it the metrics and the new statistics."""
        model, batch = self.precision.cast_model(eqx.combine(params, rest)), self.precision.cast(batch)
        if statistics is None:
            result = self.loss_fn(model, batch, key)
            if isinstance(result, tuple) and len(result) != 2:
                raise ValueError(
                    "`loss_fn` must return a loss or `(loss, metrics)` where the state has no `statistics`; got a "
                    f"tuple of {len(result)}. Pass `statistics=` to `step.init` if the loss updates some."
                )
            loss, metrics = result if isinstance(result, tuple) else (result, {})
            return _checked(loss, metrics), (_scalars(loss, metrics), None)
        copy = jtu.tree_map(lambda leaf: leaf, statistics)  # an `eqx.nn.State` may not be read after its `set`
        result = self.loss_fn(model, batch, key, copy)
        if not (isinstance(result, tuple) and len(result) == 3):
            got = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
            raise ValueError(
                f"`loss_fn` of a state with statistics must return `(loss, metrics, statistics)`; got {got}."
            )
        loss, metrics, new_statistics = result
        return _checked(loss, metrics), (_scalars(loss, metrics), _kept(statistics, new_statistics))

    def gradient(
        self,
        params: PyTree,
        rest: PyTree,
        batch: PyTree,
        key: PRNGKeyArray,
        statistics: Any,
        scale: DynamicLossScale | None,
    ) -> tuple[PyTree, dict[str, Array], Any]:
        """Gradient of the mean loss, metrics and statistics after the batch, whole or in `accumulate` equal parts."""

        def scaled_value(params: PyTree, batch: PyTree, key: PRNGKeyArray, statistics: Any) -> tuple[Array, Any]:
            loss, aux = self.value(params, rest, batch, key, statistics)
            return scaled(loss, scale), aux

        def one(batch: PyTree, key: PRNGKeyArray, statistics: Any) -> tuple[PyTree, dict[str, Array], Any]:
            grads, aux = eqx.filter_grad(scaled_value, has_aux=True)(params, batch, key, statistics)
            return _downhill(unscaled(grads, scale)), *aux

        check_sizes(batch)
        if self.accumulate == 1:
            return one(batch, key, statistics)

        # Sums in at least float32: bfloat16 would lose the tail of a long sum.
        zeros = jtu.tree_map(lambda p: jnp.zeros(p.shape, widened(p.dtype)), params)
        arrays, static = eqx.partition(statistics, eqx.is_array)

        def part(x: Any, state: Any, *, key: PRNGKeyArray | None = None) -> tuple[dict[str, Array], Any]:
            batch, part_key = x
            sums, arrays = state
            grads, metrics, new = one(batch, part_key, eqx.combine(arrays, static))
            sums = jtu.tree_map(lambda s, g: s + g.astype(s.dtype), sums, grads)
            return metrics, (sums, eqx.filter(new, eqx.is_array))

        parts = (_in_parts(batch, self.accumulate), jr.split(key, self.accumulate))
        metrics, (sums, arrays) = scan(part, parts, (zeros, arrays), unroll=1)
        grads = jtu.tree_map(lambda s, p: (s / self.accumulate).astype(p.dtype), sums, params)
        return grads, jtu.tree_map(lambda m: m.mean(0), metrics), eqx.combine(arrays, static)


def _downhill(grads: PyTree) -> PyTree:
    """JAX's gradient in a complex number is the conjugate of the direction that optimisers step against."""
    return jtu.tree_map(lambda g: jnp.conj(g) if eqx.is_array(g) and jnp.iscomplexobj(g) else g, grads)


def _in_parts(batch: PyTree, num_parts: int) -> PyTree:
    leaves = [leaf for leaf in jtu.tree_leaves(batch) if eqx.is_array_like(leaf)]
    sizes = {leaf.shape[0] if jnp.ndim(leaf) else -1 for leaf in leaves}
    if len(sizes) != 1 or min(sizes) < 0 or min(sizes) % num_parts:
        raise ValueError(
            f"`accumulate`={num_parts} splits the first axis of a batch, so all leaves need one size there, divisible "
            f"by {num_parts}; got shapes {[jnp.shape(leaf) for leaf in leaves][:8]}."
        )
    return jtu.tree_map(lambda leaf: leaf.reshape(num_parts, -1, *leaf.shape[1:]), batch)


def _checked(loss: Any, metrics: Any) -> Array:
    if not eqx.is_array_like(loss):
        raise ValueError(
            f"`loss_fn` must return a scalar loss or the tuple `(loss, metrics)`; got {type(loss).__name__}. Is its "
            "`return` missing?"
        )
    if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise ValueError(
            f"`loss_fn` must return a real floating scalar loss; got {jnp.result_type(loss)} of shape "
            f"{jnp.shape(loss)}. Take a mean or a sum."
        )
    check_metrics(metrics, "loss_fn")
    if "loss" in metrics:
        raise ValueError("`loss_fn` may not return a metric named `loss`: the loss itself is reported by that name.")
    return _wide(jnp.asarray(loss))


def check_metrics(metrics: Any, source: str) -> None:
    """Raise unless `metrics` is a dict from names to real scalars."""
    if not isinstance(metrics, dict):
        got = f"an array of shape {jnp.shape(metrics)}" if eqx.is_array_like(metrics) else type(metrics).__name__
        raise TypeError(f"`{source}` must return its metrics as a dict of scalars; got {got}.")
    for name, value in metrics.items():
        if not eqx.is_array_like(value) or jnp.shape(value) != ():
            got = f"shape {jnp.shape(value)}" if eqx.is_array_like(value) else type(value).__name__
            raise ValueError(f"`{source}` must return scalar metrics; `{name}` is of {got}.")


def _scalars(loss: Any, metrics: dict[str, Any]) -> dict[str, Array]:
    return {name: _wide(jax.lax.stop_gradient(jnp.asarray(value))) for name, value in {"loss": loss, **metrics}.items()}


def _wide(value: Array) -> Array:
    return value.astype(widened(value.dtype))


def _kept(old: Any, new: Any) -> Any:
    """The new statistics in the structure and dtypes of the old."""
    if jtu.tree_structure(old) != jtu.tree_structure(new):
        raise ValueError(
            f"`loss_fn` must keep the structure of `statistics`; it got {jtu.tree_structure(old)} and returned "
            f"{jtu.tree_structure(new)}."
        )
    for (path, before), after in zip(jtu.tree_leaves_with_path(old), jtu.tree_leaves(new), strict=True):
        if eqx.is_array(before) and jnp.shape(before) != jnp.shape(after):
            raise ValueError(
                f"`loss_fn` must keep the shapes of `statistics`; `{jtu.keystr(path)}` was {jnp.shape(before)} and "
                f"became {jnp.shape(after)}."
            )
    return jtu.tree_map(lambda b, a: a.astype(b.dtype) if eqx.is_inexact_array(b) else a, old, new)
