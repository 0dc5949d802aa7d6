"""Joining graphs into one, padding the union, and the way back; all on the host, in NumPy."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ._budget import AbstractBudget
from ._edge_build import is_concrete
from ._edge_index import EdgeIndex
from ._edges import AbstractEdges
from ._graph import LEVELS, Graph, extra_level


def batch(graphs: Sequence[Graph], budget: AbstractBudget | None = None, *, compressed: bool = False) -> Graph:
    """The disjoint union of `graphs`, padded to `budget` if one is given.

    Node ids of graph $k$ are shifted by the number of nodes before it; `batch` says which graph a node belongs to.

    **Arguments:**

    - `graphs`: graphs with the same fields, trailing shapes and dtypes; unions are welcome too.
    - `budget`: a `PaddingBudget` or `PaddingLadder`; None keeps the exact sizes (one compilation per size).
    - `compressed`: sort the edges into an `EdgeIndex` here, once, instead of in every step.

    **Returns:** one `Graph` with NumPy leaves.

    **Raises:** `ValueError` for zero graphs, differing fields, padded graphs, edges of nodes that a graph does not
    have, or a union that the budget cannot hold.
    """
    if len(graphs) == 0:
        raise ValueError("`graphs` is empty: a batch needs at least one graph.")
    first = graphs[0]
    # One dictionary a graph instead of an attribute look-up a field: collating is the inner loop of a data pipeline.
    columns = [vars(g) for g in graphs]
    for name in ("node_mask", "edge_mask", "graph_mask"):
        for i, c in enumerate(columns):
            if c[name] is not None:
                raise ValueError(f"`graphs[{i}]` is padded already; call `unpad` on it first.")
    edges = [c["edge_index"] for c in columns]
    edge_indices = [e if isinstance(e, np.ndarray) else _edge_array(e) for e in edges]
    num_edges = [a.shape[1] for a in edge_indices]
    node_array = next((name for name in ("x", "pos") if columns[0][name] is not None), None)
    if node_array is None or any(c[node_array] is None for c in columns):
        num_nodes = [g.num_nodes for g in graphs]
    else:
        num_nodes = [c[node_array].shape[0] for c in columns]
    num_graphs = [c["num_graphs"] for c in columns]
    total = {"node": sum(num_nodes), "edge": sum(num_edges), "graph": sum(num_graphs)}
    room = dict(total)
    if budget is not None:
        rung = budget.choose(total["node"], total["edge"], total["graph"])
        room = {"node": rung.num_nodes, "edge": rung.num_edges, "graph": rung.num_graphs}

    node_offset = np.cumsum([0, *num_nodes[:-1]])
    edge_index = _joined("edge_index", edge_indices, room["edge"], total["edge"], axis=1)
    _check_ids(edge_index[:, : total["edge"]], num_edges, num_nodes)
    edge_index[:, : total["edge"]] += np.repeat(node_offset, num_edges).astype(edge_index.dtype)
    edge_index[:, total["edge"] :] = room["node"] - 1

    fields: dict[str, Any] = {}
    for level, names in LEVELS.items():
        for name in names:
            if name not in ("batch", "node_mask", "edge_mask", "graph_mask"):
                fields[name] = _joined(name, [c[name] for c in columns], room[level], total[level])
    levels = [c["y_level"] for c in columns]
    if levels.count(levels[0]) < len(levels):
        odd = next(i for i, level in enumerate(levels) if level != levels[0])
        raise ValueError(
            f"`y` of graph {odd} is per {levels[odd]}, that of graph 0 per {levels[0]}; say which with "
            "`Graph.from_edge_index(..., y_level=...)`."
        )
    fields["y"] = _joined("y", [c["y"] for c in columns], room[first.y_level], total[first.y_level])
    names = first.extras.keys()
    all_extras = [c["extras"] for c in columns]
    if any(e.keys() != names for e in all_extras):
        odd = next(i for i, e in enumerate(all_extras) if e.keys() != names)
        raise ValueError(f"`extras` of graph {odd} are {sorted(all_extras[odd])}, those of graph 0 {sorted(names)}.")
    extras: dict[str, Any] = {}
    for n in names:
        level = extra_level(n)
        extras[n] = _joined(n, [e[n] for e in all_extras], room[level], total[level])

    if len(graphs) > 1 or budget is not None or first.batch is not None:
        batch_ids = np.full(room["node"], room["graph"] - 1, np.int32)
        if total["graph"] == len(graphs):
            batch_ids[: total["node"]] = np.repeat(np.arange(len(graphs), dtype=np.int32), num_nodes)
        else:
            offset = np.cumsum([0, *num_graphs[:-1]])
            parts = [
                o + (np.asarray(g.batch) if g.batch is not None else np.zeros(n, np.int32))
                for g, o, n in zip(graphs, offset, num_nodes, strict=True)
            ]
            batch_ids[: total["node"]] = np.concatenate(parts)
        fields["batch"] = batch_ids
    if budget is not None:
        for level in ("node", "edge", "graph"):
            fields[f"{level}_mask"] = np.arange(room[level]) < total[level]
    compressed = compressed or isinstance(first.edge_index, EdgeIndex)
    return Graph(
        edge_index=_layout(edge_index, room["node"], compressed),
        extras=extras,
        num_graphs=room["graph"],
        y_level=first.y_level,
        **fields,
    )


def _check_ids(edge_index: np.ndarray, num_edges: list[int], num_nodes: list[int]) -> None:
    """Shifted, an id that its graph does not have would be a node of another graph."""
    is_wrong = (edge_index < 0) | (edge_index >= np.repeat(num_nodes, num_edges))
    if is_wrong.any():
        end, edge = (int(i) for i in np.argwhere(is_wrong)[0])
        graph = int(np.searchsorted(np.cumsum(num_edges), edge, side="right"))
        raise ValueError(
            f"`edge_index` of graph {graph} holds node {edge_index[end, edge]}, but the graph has {num_nodes[graph]} "
            "nodes, numbered from 0."
        )


def pad(graph: Graph, budget: AbstractBudget, *, compressed: bool = False) -> Graph:
    """`graph` with one padding graph at the end, filled up to `budget`.

    New nodes belong to the last graph, new edges connect the last node to itself, new entries are zero, and the three
    masks say what is real. Real outputs of convolutions and pools, and their gradients, do not change.

    **Arguments:** `graph`, with concrete arrays; `budget`: the shape, or shapes, to fill; `compressed`: make an
    `EdgeIndex`.

    **Raises:** `ValueError` if `graph` is padded already or larger than the budget.
    """
    return batch([graph], budget, compressed=compressed)


def unpad(graph: Graph) -> Graph:
    """The real part of a padded graph: masked nodes, edges and graphs are removed and the ids renumbered.

    **Raises:** `ValueError` if a real edge touches a padding node.
    """
    masks = {"node": graph.node_mask, "edge": graph.edge_mask, "graph": graph.graph_mask}
    if all(mask is None for mask in masks.values()):
        return graph
    graph = jax.tree.map(_host, graph)
    counts = {"node": graph.num_nodes, "edge": graph.num_edges, "graph": graph.num_graphs}
    keep = {level: _kept(mask, counts[level]) for level, mask in masks.items()}
    node_ids = np.full(graph.num_nodes, -1, np.int32)
    node_ids[keep["node"]] = np.arange(len(keep["node"]), dtype=np.int32)
    graph_ids = np.full(graph.num_graphs, -1, np.int32)
    graph_ids[keep["graph"]] = np.arange(len(keep["graph"]), dtype=np.int32)
    edge_index = node_ids[_edge_array(graph.edge_index)[:, keep["edge"]]]
    if edge_index.size and edge_index.min() < 0:
        raise ValueError("`edge_mask` keeps an edge whose sender or receiver `node_mask` drops.")
    if len(keep["graph"]) == 0:
        raise ValueError("`graph_mask` is False everywhere: there is no real graph left.")
    batch_ids = None if graph.batch is None else graph_ids[_host(graph.batch)[keep["node"]]]
    return _subset(graph, keep, edge_index, batch_ids, len(keep["graph"]))


def unbatch(graph: Graph) -> list[Graph]:
    """The graphs of a union, in order; a padded union is unpadded first. The inverse of `batch`.

    **Raises:** `ValueError` if an edge connects two graphs.
    """
    graph = jax.tree.map(_host, unpad(graph))
    if graph.num_graphs == 1:
        return [graph]
    batch_ids = _host(graph.batch)
    edge_index = _edge_array(graph.edge_index)
    edge_graph = batch_ids[edge_index[0]]
    if not np.array_equal(edge_graph, batch_ids[edge_index[1]]):
        edge = int(np.flatnonzero(edge_graph != batch_ids[edge_index[1]])[0])
        raise ValueError(f"Edge {edge} connects graphs {edge_graph[edge]} and {batch_ids[edge_index[1, edge]]}.")
    nodes = _members(batch_ids, graph.num_graphs)
    edges = _members(edge_graph, graph.num_graphs)
    local = np.empty(graph.num_nodes, np.int32)
    for ids in nodes:
        local[ids] = np.arange(len(ids), dtype=np.int32)
    out = []
    for k, (node_ids, edge_ids) in enumerate(zip(nodes, edges, strict=True)):
        keep = {"node": node_ids, "edge": edge_ids, "graph": np.array([k])}
        out.append(_subset(graph, keep, local[edge_index[:, edge_ids]], np.zeros(len(node_ids), np.int32), 1))
    return out


def _subset(
    graph: Graph, keep: Mapping[str, np.ndarray], edge_index: np.ndarray, batch_ids: np.ndarray | None, num_graphs: int
) -> Graph:
    """A host `graph` restricted to the rows `keep`, with edges and batch vector already renumbered, without masks."""
    columns = vars(graph)
    fields = {
        name: None if columns[name] is None else columns[name][keep[level]]
        for level, names in LEVELS.items()
        for name in names
    }
    fields |= {"node_mask": None, "edge_mask": None, "graph_mask": None, "batch": batch_ids}
    fields["y"] = None if graph.y is None else graph.y[keep[graph.y_level]]
    extras = {name: value[keep[extra_level(name)]] for name, value in graph.extras.items()}
    has_node_array = graph.x is not None or graph.pos is not None or any(n.startswith("node_") for n in extras)
    if num_graphs == 1 and has_node_array:
        fields["batch"] = None  # one graph says so by having no batch vector
    edges = _layout(edge_index, len(keep["node"]), isinstance(graph.edge_index, EdgeIndex))
    return dataclasses.replace(graph, edge_index=edges, extras=extras, num_graphs=num_graphs, **fields)


def _host(value: Any) -> np.ndarray:
    if not is_concrete(value):
        raise TypeError("Batching and padding run on the host, outside jit, vmap and grad; got a traced array.")
    return np.asarray(value)


def _edge_array(edge_index: Any) -> np.ndarray:
    """`(2, num_edges)` in the caller's order, on the host."""
    if isinstance(edge_index, AbstractEdges):
        if edge_index.edge_mask is not None:
            raise ValueError(
                "`edge_index` masks edges, which batching cannot carry; build the graph from the real edges only."
            )
        senders, receivers = edge_index.restore((_host(edge_index.senders), _host(edge_index.receivers)))
        return np.stack([_host(senders), _host(receivers)])
    return _host(edge_index)


def _layout(edge_index: np.ndarray, num_nodes: int, compressed: bool) -> np.ndarray | EdgeIndex:
    if not compressed:
        return edge_index
    return EdgeIndex.from_numpy(edge_index, num_senders=num_nodes, num_receivers=num_nodes)


def _kept(mask: Any, count: int) -> np.ndarray:
    return np.arange(count) if mask is None else np.flatnonzero(_host(mask))


def _members(ids: np.ndarray, num: int) -> list[np.ndarray]:
    """Positions of each id, in order."""
    order = np.argsort(ids, kind="stable")
    return np.split(order, np.cumsum(np.bincount(ids, minlength=num))[:-1])


def _joined(name: str, values: list[Any], room: int, total: int, axis: int = 0) -> Any:
    """`values` (`total` entries along `axis`) one after another, followed by zeros up to `room`."""
    first = values[0]
    if first is None:
        if any(v is not None for v in values):
            raise _misfit(name, values, axis)
        return None
    out = np.zeros((*first.shape[:axis], room, *first.shape[axis + 1 :]), first.dtype)
    try:
        np.concatenate(values, axis=axis, out=out[:, :total] if axis else out[:total], casting="no")
    except (TypeError, ValueError) as error:
        raise _misfit(name, values, axis) from error
    return out


def _misfit(name: str, values: list[Any], axis: int) -> ValueError:
    """The error that names the first graph whose `name` does not fit graph 0's."""
    first = values[0]
    for i, v in enumerate(values):
        if (v is None) != (first is None):
            with_it, without = (i, 0) if first is None else (0, i)
            return ValueError(
                f"Graph {with_it} has `{name}` but graph {without} has not; a batch needs the same fields everywhere."
            )
        if v is None:
            continue
        if v.dtype != first.dtype or v.ndim != first.ndim or (axis == 0 and v.shape[1:] != first.shape[1:]):
            return ValueError(
                f"`{name}` of graph {i} has dtype {v.dtype} and shape {tuple(v.shape)}, that of graph 0 dtype "
                f"{first.dtype} and shape {tuple(first.shape)}; dtypes and trailing sizes must agree."
            )
    return ValueError(f"`{name}` cannot be joined along axis {axis}.")
