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
from eqx_graph.nn.aggr import AbstractAggregation, as_aggregation
from eqx_graph.nn.conv import AttentionWeights
from reference_support import Case, Entry, Key
from reference_support_build import NotInPackage, is_real


def is_surplus(entry: Entry, name: str) -> bool:
    """State that PyG stores and a module of ours has no place for: constants, one weight under two names."""
    if entry.class_name == "GATv2Conv" and entry.ctor.get("share_weights"):
        return name.startswith("lin_r.")
    return name.rpartition(".")[2] == "q"  # the quantiles, which the constructor gets


def _pool(pool: Callable[..., Any]) -> Callable[..., Any]:
    """Nodes are PyG's last axis but one; without `batch` an `x` of more than two loses it."""

    def call(x: Any, batch: Any = None, size: int | None = None) -> Any:
        axis = max(x.ndim - 2, 0)
        out = pool(jnp.moveaxis(x, axis, 0), batch, num_graphs=size)
        return out[0] if batch is None and x.ndim > 2 else jnp.moveaxis(out, 0, axis)

    return call


def _groups(ptr: np.ndarray) -> tuple[jax.Array, int]:
    """The segment of each row, and their number, from pointers."""
    return jnp.asarray(np.repeat(np.arange(ptr.size - 1), np.diff(ptr))), ptr.size - 1


def _size(index: Any, given: int | None) -> int:
    return int(np.max(index, initial=-1)) + 1 if given is None else given


def _softmax(src: Any, index: Any = None, ptr: Any = None, num_nodes: int | None = None, dim: int = 0) -> Any:
    groups = (jnp.asarray(index), _size(index, num_nodes)) if ptr is None else _groups(ptr)
    return jnp.moveaxis(ops.segment_softmax(jnp.moveaxis(src, dim, 0), *groups), 0, dim)


_REDUCTIONS = {
    "sum": ops.segment_sum,
    "add": ops.segment_sum,
    "mean": ops.segment_mean,
    "max": ops.segment_max,
    "min": ops.segment_min,
    "mul": ops.segment_mul,
    "amax": ops.segment_max,
    "amin": ops.segment_min,
}


def _scatter(src: Any, index: Any, dim: int = 0, dim_size: int | None = None, reduce: str = "sum") -> Any:
    if reduce not in _REDUCTIONS:
        raise NotInPackage(f"scatter(reduce={reduce})")
    out = _REDUCTIONS[reduce](jnp.moveaxis(src, dim, 0), jnp.asarray(index), _size(index, dim_size))
    return jnp.moveaxis(out, 0, dim)


def _segment(src: Any, ptr: Any, reduce: str = "sum") -> Any:
    return _REDUCTIONS[reduce](src, *_groups(ptr))


def _logsumexp(src: Any, ptr: Any, dim: int = 0) -> Any:
    """PyG gives 0 for an empty segment, we the logarithm of 0."""
    out = ops.segment_logsumexp(jnp.swapaxes(src, 0, dim), *_groups(ptr))
    return jnp.swapaxes(jnp.where(out == -jnp.inf, 0, out), 0, dim)


def _spmm(edge_index: Any, weight: Any, x: Any, reduce: str = "sum") -> Any:
    edges = _layout(edge_index, x.shape[0])
    weight = edges.arrange(weight)
    if reduce in ("sum", "add"):
        return ops.matmul(edges, weight, x)
    merged = _known(edges.coalesce)()  # torch's matrix holds an entry once, the sum of its duplicates
    receivers = jnp.where(jnp.asarray(merged.edge_mask), jnp.asarray(edges.receivers), x.shape[0])
    return _REDUCTIONS[reduce](edges.sum_duplicates(weight)[:, None] * edges.send(x), receivers, x.shape[0])


def _gcn_norm(
    edge_index: Any,
    edge_weight: Any = None,
    num_nodes: int | None = None,
    improved: bool = False,
    add_self_loops: bool = True,
    flow: Any = "source_to_target",
) -> tuple[Any, Any]:
    """PyG lists the edges and then the loops, which stand apart here; it ignores `improved` without weights."""
    improved = improved and edge_weight is not None
    num_nodes = _size(edge_index, num_nodes)
    dtype = jnp.zeros(()).dtype if edge_weight is None else edge_weight.dtype
    adjacency = eqx_graph.nn.gcn_norm(edge_index, edge_weight, num_nodes, improved, add_self_loops, flow, dtype=dtype)
    values = jnp.asarray(adjacency.edges.restore(adjacency.weight))
    if adjacency.loop_weight is None:
        return edge_index, values
    kept = edge_index[0] != edge_index[1]
    loops = np.tile(np.arange(num_nodes, dtype=edge_index.dtype), (2, 1))
    joined = np.concatenate([edge_index[:, kept], loops], axis=1)
    return joined, jnp.concatenate([values[np.flatnonzero(kept)], adjacency.loop_weight])


def _degree(index: Any, num_nodes: int | None = None) -> Any:
    return ops.segment_count(jnp.asarray(index), _size(index, num_nodes)).astype(jnp.zeros(()).dtype)


def _known(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of what is known now, run now, whatever is being traced."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.ensure_compile_time_eval():
            return function(*args, **kwargs)

    return call


@_known
def _layout(edge_index: Any, num_nodes: int | None = None) -> eqx_graph.EdgeIndex:
    size = _size(edge_index, num_nodes)
    return eqx_graph.EdgeIndex.from_array(edge_index, num_senders=size, num_receivers=size)


def _listed(edges: Any, values: Any = None, *, by: int | None = None) -> Any:
    """The edges that count and their values (in the layout's order); sorted by one row and then the other if `by`.

    PyG drops edges where we mask them. The edges are concrete, so the places are known while values are traced.
    """
    edge_index, kept = _places(edges)
    if by is not None:
        order = np.lexsort((edge_index[1 - by], edge_index[by]))
        kept, edge_index = kept[order], edge_index[:, order]
    return (edge_index,) if values is None else (edge_index, edges.restore(values)[kept])


@_known
def _places(edges: Any) -> tuple[np.ndarray, np.ndarray]:
    mask = np.ones(edges.num_edges, bool) if edges.edge_mask is None else edges.edge_mask
    kept = np.flatnonzero(np.asarray(edges.restore(jnp.asarray(mask))))
    return np.asarray(edges.to_array())[:, kept].astype(np.int64), kept


def _loops(existing: str) -> Callable[..., Any]:
    """`add_self_loops` keeps loops, `add_remaining_self_loops` replaces them at the end of the list by their own."""

    def call(edge_index: Any, edge_attr: Any = None, fill_value: Any = 1.0, num_nodes: int | None = None) -> Any:
        edges = _layout(edge_index, num_nodes)
        looped = _known(edges.with_self_loops)(existing=existing)
        if edge_attr is None:
            return _listed(looped)
        values = edges.arrange(edge_attr)
        fill: Any = fill_value
        if isinstance(fill_value, str):
            fill = as_aggregation(fill_value)(values, jnp.asarray(edges.receivers), edges.num_receivers)
        own = jnp.broadcast_to(jnp.asarray(fill, edge_attr.dtype), (edges.num_receivers, *edge_attr.shape[1:]))
        if existing == "mask":
            own = edges.self_loop_values(values, own)
        return _listed(looped, looped.arrange(jnp.concatenate([edge_attr, own])))

    return call


def _remove_self_loops(edge_index: Any, edge_attr: Any = None) -> Any:
    edges = _layout(edge_index)
    return _listed(_known(edges.remove_self_loops)(), None if edge_attr is None else edges.arrange(edge_attr))


def _sum_or_mean(edges: Any, values: Any, reduce: str) -> Any:
    total = edges.sum_duplicates(values)
    if reduce in ("add", "sum"):
        return total
    if reduce != "mean":
        raise NotInPackage(f"coalesce(reduce={reduce})")
    count = edges.sum_duplicates(jnp.ones(edges.num_edges, values.dtype))
    return total / count.reshape(-1, *[1] * (values.ndim - 1))


def _coalesce(
    edge_index: Any,
    edge_attr: Any = None,
    num_nodes: Any = None,
    reduce: str = "sum",
    is_sorted: bool = False,
    sort_by_row: bool = True,
) -> Any:
    edges = _layout(edge_index, num_nodes)
    values = None if edge_attr is None else _sum_or_mean(edges, edges.arrange(edge_attr), reduce)
    return _listed(_known(edges.coalesce)(), values, by=0 if sort_by_row else 1)


def _to_undirected(edge_index: Any, edge_attr: Any = None, num_nodes: Any = None, reduce: str = "add") -> Any:
    both = _known(_layout(edge_index, num_nodes).with_reversed)()
    if edge_attr is None:
        return _listed(_known(both.coalesce)(), by=0)
    values = both.arrange(jnp.concatenate([edge_attr, edge_attr]))
    return _listed(_known(both.coalesce)(), _sum_or_mean(both, values, reduce), by=0)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch_geometric.nn.pool.global_add_pool": _pool(eqx_graph.nn.pool.global_add_pool),
    "torch_geometric.nn.pool.global_mean_pool": _pool(eqx_graph.nn.pool.global_mean_pool),
    "torch_geometric.nn.pool.global_max_pool": _pool(eqx_graph.nn.pool.global_max_pool),
    "torch_geometric.nn.conv.gcn_conv.gcn_norm": _gcn_norm,
    "torch_geometric.utils.add_remaining_self_loops": _loops("mask"),
    "torch_geometric.utils.add_self_loops": _loops("keep"),
    "torch_geometric.utils.coalesce": _coalesce,
    "torch_geometric.utils.degree": _degree,
    "torch_geometric.utils.remove_self_loops": _remove_self_loops,
    "torch_geometric.utils.to_undirected": _to_undirected,
    "torch_geometric.utils.scatter": _scatter,
    "torch_geometric.utils.segment": _segment,
    "torch_geometric.utils.segment_logsumexp": _logsumexp,
    "torch_geometric.utils.softmax": _softmax,
    "helper_spmm": _spmm,
}


_CALL_KEYWORDS = {"dim_size": "batch_size"}


def call(module: Any, case: Case, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The module applied to a case's arguments, and the module with the running statistics that this leaves."""
    if isinstance(module, AbstractAggregation):
        return _aggregate(module, case, *args, **kwargs), module
    module = eqx.nn.inference_mode(module, value=case.mode == "eval")
    state = eqx.nn.State(module)
    method = getattr(module, case.call or "__call__")
    signature = inspect.signature(method)
    kwargs = {_CALL_KEYWORDS.get(k, k) if k not in signature.parameters else k: v for k, v in kwargs.items()}
    args = [_as_real(signature, i, a) for i, a in enumerate(args)]
    kwargs = {k: _as_real(signature, k, v) for k, v in kwargs.items()}
    if isinstance(module, eqx_graph.nn.TransformerConv) and kwargs.get("return_attention_weights") is False:
        kwargs = kwargs | {"return_attention_weights": True}  # PyG returns them there for any flag that is not None
    if isinstance(module, eqx_graph.nn.MLP) and kwargs.pop("return_emb", None):
        embedded = module.embed(*args, **kwargs, state=state)[0]
        out, after = call(module, case, args, kwargs)
        return (out, embedded), after
    bound = signature.bind_partial(*args, **kwargs).arguments
    unsized = "batch_size" in signature.parameters and "batch_size" not in bound
    if unsized and bound.get("batch") is not None:  # static here: nothing is read from `batch` under jit
        batch = _given(case, list(signature.parameters).index("batch"), "batch")
        kwargs = kwargs | {"batch_size": _size(batch, None)}
    if "state" in signature.parameters:
        out, state = method(*args, **kwargs, state=state)
    else:
        out = method(*args, **kwargs)
    if isinstance(out, tuple) and isinstance(out[1], AttentionWeights):
        out = out[0], _without_replaced_loops(module, out[1], case.inputs["edge_index"])
    return out, jax.tree.map(lambda node: _filled(node, state), module, is_leaf=_is_index)


def _as_real(signature: inspect.Signature, place: int | str, value: Any) -> Any:
    """A JSON file may hold an integer where a real number is meant."""
    parameters = signature.parameters
    known = dict(enumerate(parameters.values())) | dict(parameters.items())
    return float(value) if type(value) is int and place in known and is_real(known[place]) else value


def _given(case: Case, place: int, name: str) -> np.ndarray:
    """The array that a case gives as this argument, which is known also where the call is traced."""
    key = case.args[place] if place < len(case.args) else case.kwargs[name]
    assert isinstance(key, Key)
    return case.inputs[key.name]


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
    max_num_elements: int | None = None,
) -> Any:
    """PyG gives groups by `index` and `dim_size`, or by pointers, along any axis (all rows are one group without)."""
    if max_num_elements is not None:
        raise NotInPackage(f"{type(aggregation).__name__}(max_num_elements={max_num_elements})")
    x = jnp.moveaxis(x, dim, 0)
    if ptr is not None:
        dim_size = ptr.shape[0] - 1
        index = jnp.searchsorted(ptr, jnp.arange(x.shape[0], dtype=ptr.dtype), side="right") - 1
    elif index is None:
        index, dim_size = jnp.zeros(x.shape[0], int), 1
    elif dim_size is None:
        dim_size = _size(_given(case, 1, "index"), None)
    return jnp.moveaxis(aggregation(x, jnp.asarray(index), dim_size), 0, dim)
