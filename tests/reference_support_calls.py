"""Where our calls differ from PyG's: segments counted by a required static int, functions under other names."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

import eqx_graph.nn.pool
from eqx_graph.nn.aggr import AbstractAggregation
from reference_support import Case, Entry


def is_surplus(entry: Entry, name: str) -> bool:
    """State that PyG stores and a module of ours has no place for: constants, one weight under two names."""
    if entry.class_name == "GATv2Conv" and entry.ctor.get("share_weights"):
        return name.startswith("lin_r.")
    return name.rpartition(".")[2] == "q"  # the quantiles


def _pool(pool: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, batch: Any, size: int | None = None) -> Any:
        return pool(x, batch, num_graphs=size)

    return call


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch_geometric.nn.pool.global_add_pool": _pool(eqx_graph.nn.pool.global_add_pool),
    "torch_geometric.nn.pool.global_mean_pool": _pool(eqx_graph.nn.pool.global_mean_pool),
    "torch_geometric.nn.pool.global_max_pool": _pool(eqx_graph.nn.pool.global_max_pool),
}


def call(class_name: str, module: Any, case: Case, args: Any, kwargs: dict[str, Any]) -> Any:
    """The module applied to a case's arguments."""
    if isinstance(module, AbstractAggregation):
        return _aggregate(module, *args, **kwargs)
    module, state = eqx.nn.make_with_state(lambda: eqx.nn.inference_mode(module, value=case.mode == "eval"))()
    method = getattr(module, case.call or "__call__")
    if "state" not in inspect.signature(method).parameters:
        return method(*args, **kwargs)
    return method(*args, **kwargs, state=state)[0]


def _aggregate(
    aggregation: AbstractAggregation, x: Any, index: Any = None, ptr: Any = None, dim_size: Any = None
) -> Any:
    """PyG gives groups by `index` and `dim_size`, or by pointers."""
    if ptr is not None:
        dim_size = ptr.shape[0] - 1
        index = jnp.searchsorted(ptr, jnp.arange(x.shape[0], dtype=ptr.dtype), side="right") - 1
    return aggregation(x, jnp.asarray(index), dim_size)
