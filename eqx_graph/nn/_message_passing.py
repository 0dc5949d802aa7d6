"""Message passing: the function of one edge, run for every edge, aggregated at every receiver."""

import inspect
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..data._edges import AbstractEdges, EdgeIndexLike, as_edges
from .aggr import AbstractAggregation


def _node_sides(value: Any) -> tuple[Any, Any]:
    """(senders' values, receivers' values): a pair is split, anything else serves both."""
    return value if type(value) is tuple and len(value) == 2 else (value, value)


def _num_rows(value: Any) -> int | None:
    leaves = jax.tree.leaves(value)
    return leaves[0].shape[0] if leaves else None


class MessagePassing(eqx.Module):
    """Base of layers that are a function on one edge and an aggregation.

    A subclass writes `message` for ONE edge and calls `propagate` with the whole arrays. An argument of `message` named
    `foo_i` is the receiver's row of the node argument `foo`, `foo_j` the sender's; any other name is a per-edge
    argument, in the caller's edge order. Node arguments are arrays (or pytrees of arrays) with a row per node, or a
    pair (senders', receivers') of them for a bipartite graph.
    """

    aggregation: eqx.AbstractVar[AbstractAggregation]

    def message(self, *args: Any, **kwargs: Any) -> Array:
        """The message of one edge, from its slices of the arguments of `propagate`."""
        raise NotImplementedError

    def propagate(self, edge_index: EdgeIndexLike, *, size: tuple[int, int] | None = None, **arguments: Any) -> Array:
        """Messages of all edges, aggregated at their receivers."""
        names = list(inspect.signature(self.message).parameters)
        edges = self._edges(edge_index, names, size, arguments)
        per_edge = {name: _edge_argument(edges, name, arguments) for name in names}
        messages = jax.vmap(lambda kwargs: self.message(**kwargs))(per_edge)
        receivers = jnp.asarray(edges.receivers)
        if edges.edge_mask is not None:
            receivers = jnp.where(edges.edge_mask, receivers, edges.num_receivers)
        return self.aggregation(messages, receivers, edges.num_receivers)

    def _edges(
        self, edge_index: EdgeIndexLike, names: list[str], size: tuple[int, int] | None, arguments: Mapping[str, Any]
    ) -> AbstractEdges:
        if size is None:
            if isinstance(edge_index, AbstractEdges):
                size = edge_index.num_senders, edge_index.num_receivers
            else:
                node_names = {name[:-2] for name in names if name.endswith(("_i", "_j"))}
                sides = [_node_sides(arguments[name]) for name in node_names if name in arguments]
                rows = [tuple(_num_rows(s) for s in pair) for pair in sides]
                senders = next((r[0] for r in rows if r[0] is not None), None)
                receivers = next((r[1] for r in rows if r[1] is not None), None)
                if senders is None or receivers is None:
                    raise ValueError("`size` is needed: no argument of `propagate` tells the number of nodes.")
                size = senders, receivers
        return as_edges(edge_index, num_senders=size[0], num_receivers=size[1])


def _edge_argument(edges: AbstractEdges, name: str, arguments: Mapping[str, Any]) -> Any:
    if name.endswith("_i"):
        return jax.tree.map(edges.receive, _node_sides(arguments[name[:-2]])[1])
    if name.endswith("_j"):
        return jax.tree.map(edges.send, _node_sides(arguments[name[:-2]])[0])
    return edges.arrange(arguments[name])
