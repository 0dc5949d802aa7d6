"""Where our calls differ from PyG's: segments counted by a required static int, functions under other names."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqx_graph
import eqx_graph.nn.pool
from eqx_graph import ops
from eqx_graph.nn.aggr import AbstractAggregation
from eqx_graph.nn.conv import AttentionWeights
from reference_support import Case, Entry


def is_surplus(entry: Entry, name: str) -> bool:
    """State that PyG stores and a module of ours has no place for: constants, one weight under two names."""
    if entry.class_name == "GATv2Conv" and entry.ctor.get("share_weights"):
        return name.startswith("lin_r.")
    return name.rpartition(".")[2] == "q"  # the quantiles, which `build` reads


def _pool(pool: Callable[..., Any]) -> Callable[..., Any]:
    def call(x: Any, batch: Any, size: int | None = None) -> Any:
        return pool(x, batch, num_graphs=size)

    return call


def _groups(ptr: np.ndarray) -> tuple[jax.Array, int]:
    """The segment of each row, and their number, from pointers."""
    return jnp.asarray(np.repeat(np.arange(ptr.size - 1), np.diff(ptr))), ptr.size - 1


def _softmax(src: Any, index: Any = None, ptr: Any = None, num_nodes: int | None = None) -> Any:
    if ptr is not None:
        return ops.segment_softmax(src, *_groups(ptr))
    assert num_nodes is not None
    return ops.segment_softmax(src, jnp.asarray(index), num_nodes)


_REDUCTIONS = {
    "sum": ops.segment_sum,
    "mean": ops.segment_mean,
    "max": ops.segment_max,
    "min": ops.segment_min,
    "mul": ops.segment_mul,
}


def _scatter(src: Any, index: Any, dim: int = 0, dim_size: int | None = None, reduce: str = "sum") -> Any:
    assert dim == 0 and dim_size is not None
    return _REDUCTIONS[reduce](src, jnp.asarray(index), dim_size)


def _segment(src: Any, ptr: Any, reduce: str = "sum") -> Any:
    return _REDUCTIONS[reduce](src, *_groups(ptr))


def _logsumexp(src: Any, ptr: Any, dim: int = 0) -> Any:
    assert dim == 0
    return ops.segment_logsumexp(src, *_groups(ptr))


def _spmm(edge_index: Any, weight: Any, x: Any, reduce: str) -> Any:
    num_nodes = x.shape[0]
    edges = eqx_graph.EdgeIndex.from_array(edge_index, num_senders=num_nodes, num_receivers=num_nodes)
    total = ops.matmul(edges, edges.arrange(weight), x)
    if reduce == "sum":
        return total
    receivers = np.unique(edge_index, axis=1)[1]  # torch's matrix holds an entry once, the sum of its duplicates
    count = ops.segment_count(jnp.asarray(receivers), num_nodes)
    return total / jnp.maximum(count, 1).astype(x.dtype)[:, None]


def _gcn_norm(
    edge_index: Any, weight: Any, num_nodes: int, improved: bool = False, add_self_loops: bool = True
) -> tuple[Any, Any]:
    """PyG lists the edges and then the loops, which stand apart here; it ignores `improved` without weights."""
    improved = improved and weight is not None
    dtype = jnp.zeros(()).dtype if weight is None else weight.dtype
    adjacency = eqx_graph.nn.gcn_norm(edge_index, weight, num_nodes, improved, add_self_loops, dtype=dtype)
    values = jnp.asarray(adjacency.edges.restore(adjacency.weight))
    if adjacency.loop_weight is None:
        return edge_index, values
    kept = edge_index[0] != edge_index[1]
    loops = np.tile(np.arange(num_nodes, dtype=edge_index.dtype), (2, 1))
    joined = np.concatenate([edge_index[:, kept], loops], axis=1)
    return joined, jnp.concatenate([values[np.flatnonzero(kept)], adjacency.loop_weight])


def _degree(index: Any, num_nodes: int) -> Any:
    return ops.segment_count(jnp.asarray(index), num_nodes).astype(jnp.zeros(()).dtype)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch_geometric.nn.pool.global_add_pool": _pool(eqx_graph.nn.pool.global_add_pool),
    "torch_geometric.nn.pool.global_mean_pool": _pool(eqx_graph.nn.pool.global_mean_pool),
    "torch_geometric.nn.pool.global_max_pool": _pool(eqx_graph.nn.pool.global_max_pool),
    "torch_geometric.nn.conv.gcn_conv.gcn_norm": _gcn_norm,
    "torch_geometric.utils.degree": _degree,
    "torch_geometric.utils.scatter": _scatter,
    "torch_geometric.utils.segment": _segment,
    "torch_geometric.utils.segment_logsumexp": _logsumexp,
    "torch_geometric.utils.softmax": _softmax,
    "helper_spmm": _spmm,
}


def call(module: Any, case: Case, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The module applied to a case's arguments, and the module with the running statistics that this leaves."""
    if isinstance(module, AbstractAggregation):
        return _aggregate(module, case, *args, **kwargs), module
    module = eqx.nn.inference_mode(module, value=case.mode == "eval")
    state = eqx.nn.State(module)
    method = getattr(module, case.call or "__call__")
    signature = inspect.signature(method)
    bound = signature.bind_partial(*args, **kwargs).arguments
    unsized = "batch_size" in signature.parameters and "batch_size" not in bound
    if unsized and bound.get("batch") is not None:  # static here: nothing is read from `batch` under jit
        kwargs = kwargs | {"batch_size": int(case.inputs["batch"].max()) + 1}
    if "state" in signature.parameters:
        out, state = method(*args, **kwargs, state=state)
    else:
        out = method(*args, **kwargs)
    if isinstance(out, tuple) and isinstance(out[1], AttentionWeights):
        out = out[0], _without_replaced_loops(module, out[1], case.inputs["edge_index"])
    return out, jax.tree.map(lambda node: _filled(node, state), module, is_leaf=_is_index)


def _is_index(node: Any) -> bool:
    return isinstance(node, eqx.nn.StateIndex)


def _filled(node: Any, state: eqx.nn.State) -> Any:
    return eqx.tree_at(lambda index: index.init, node, state.get(node)) if _is_index(node) else node


def _without_replaced_loops(layer: Any, weights: AttentionWeights, edge_index: np.ndarray) -> AttentionWeights:
    """PyG leaves out the given self-loops that a layer replaces by its own; here they keep their place, with 0."""
    given = edge_index.shape[1]
    kept = np.arange(weights.alpha.shape[0])
    if getattr(layer, "add_self_loops", False):
        kept = np.concatenate([np.flatnonzero(edge_index[0] != edge_index[1]), kept[given:]])
    return AttentionWeights(weights.edge_index[:, kept], weights.alpha[kept])


def _aggregate(
    aggregation: AbstractAggregation,
    case: Case,
    x: Any,
    index: Any = None,
    ptr: Any = None,
    dim_size: Any = None,
    dim: int = -2,
) -> Any:
    """PyG gives groups by `index` and `dim_size`, or by pointers, along any axis (all rows are one group without)."""
    x = jnp.moveaxis(x, dim, 0)
    if ptr is not None:
        dim_size = ptr.shape[0] - 1
        index = jnp.searchsorted(ptr, jnp.arange(x.shape[0], dtype=ptr.dtype), side="right") - 1
    elif index is None:
        index, dim_size = jnp.zeros(x.shape[0], int), 1
    elif dim_size is None:
        dim_size = int(case.inputs["index"].max(initial=-1)) + 1
    return jnp.moveaxis(aggregation(x, jnp.asarray(index), dim_size), 0, dim)
