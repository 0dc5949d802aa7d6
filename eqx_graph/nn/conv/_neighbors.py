"""What the neighbours send, reduced: the step that layers linear in their neighbours share."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ...data import AbstractEdges, EdgeIndex, EdgeIndexLike, as_edges
from ...ops import matmul, segment_count
from .._linear import check_features
from .._message_passing import MessagePassing
from ..aggr import AbstractAggregation, Mean, Multi, Sum
from ._adjacency import Adjacency, Flow, arrange_weight, directed


NodePair = tuple[Float[Array, "num_senders in_src"], Float[Array, "num_receivers in_dst"] | None]
Nodes = Float[Array, "num_nodes in"] | NodePair
NodeMask = Bool[Array | np.ndarray, " num_receivers"]


class _Neighbors(MessagePassing):
    """The neighbours' rows, weighted, under any aggregation: the general route."""

    aggregation: AbstractAggregation

    def message(self, x_j: Array, edge_weight: Array | None) -> Array:
        return x_j if edge_weight is None else edge_weight * x_j


def endpoints(
    x: Nodes, edge_index: EdgeIndexLike, size: tuple[int, int] | None = None, flow: Flow = "source_to_target"
) -> tuple[Array, Array | None, AbstractEdges]:
    """Senders' features, receivers' features (None if there are none) and the edges between them.

    **Raises:** `ValueError` if `size` contradicts `x`, if nothing tells the number of receivers, or if a pair is given
    with `flow="target_to_source"`.
    """
    x_src, x_dst = x if isinstance(x, tuple) else (x, x)
    if isinstance(x, tuple) and flow == "target_to_source":
        raise ValueError(
            "`x` must be one array with `flow='target_to_source'`; got a pair (senders, receivers). Swap the rows of "
            "`edge_index` and the pair, and use 'source_to_target'."
        )
    if x_dst is not None:
        num_receivers = x_dst.shape[0]
    elif size is not None:
        num_receivers = size[1]
    elif isinstance(edge_index, AbstractEdges):
        num_receivers = edge_index.num_receivers
    else:
        raise ValueError("`size` must be given when `x` is (x_src, None) and `edge_index` an array; got size=None.")
    found = (x_src.shape[0], num_receivers)
    if size is not None and tuple(size) != found:
        raise ValueError(f"`size` must be (number of senders, number of receivers) = {found} for this `x`; got {size}.")
    return x_src, x_dst, directed(as_edges(edge_index, num_senders=found[0], num_receivers=found[1]), flow)


def is_linear(aggregation: AbstractAggregation) -> bool:
    """Whether the aggregation commutes with linear maps of the features."""
    return isinstance(aggregation, Sum | Mean)


def neighbors(
    aggregation: AbstractAggregation,
    edges: AbstractEdges,
    x: Float[Array, "num_senders in"],
    edge_weight: Float[Array, " num_edges"] | None = None,
) -> Float[Array, "num_receivers out"]:
    r"""$\bigoplus_{e : j \to i} w_e x_j$; sums and means take the linear route.

    **Arguments:** `edge_weight` in the caller's order; 1 if None.
    """
    if isinstance(aggregation, Multi):
        return aggregation.combine([neighbors(a, edges, x, edge_weight) for a in aggregation.aggrs])
    if not is_linear(aggregation):
        weight = None if edge_weight is None else edge_weight.astype(x.dtype)
        return _Neighbors(aggregation).propagate(edges, x=(x, None), edge_weight=weight)
    weight = arrange_weight(edges, edge_weight)
    total = matmul(edges, None if weight is None else weight.astype(x.dtype), x)
    if isinstance(aggregation, Sum):
        return total
    return total / jnp.maximum(in_degree(edges), 1).astype(x.dtype)[:, None]


def propagate(
    adjacency: Adjacency, x: Float[Array, "num_nodes in"], aggregation: AbstractAggregation
) -> Float[Array, "num_nodes out"]:
    """`adjacency @ x`, with any aggregation in place of the sum; self-loops are messages like the others."""
    if isinstance(aggregation, Sum):
        return adjacency @ x
    edges, weight, loop_weight = adjacency.edges, adjacency.weight, adjacency.loop_weight
    weight = None if weight is None else edges.restore(weight)
    if loop_weight is not None:
        weight = jnp.ones(edges.num_edges, loop_weight.dtype) if weight is None else weight
        edges, weight = edges.with_self_loops(), jnp.concatenate([weight, loop_weight])
    return neighbors(aggregation, edges, x, weight)


class _Given(MessagePassing):
    """Messages that exist."""

    aggregation: AbstractAggregation

    def message(self, row: Array) -> Array:
        return row


def reduce_messages(
    aggregation: AbstractAggregation, edges: AbstractEdges, messages: Float[Array, "num_edges in"]
) -> Float[Array, "num_receivers out"]:
    """One message per edge, in the layout's order, aggregated at the receivers."""
    return _Given(aggregation).propagate(edges, row=edges.restore(messages))


def counted_edges(edges: AbstractEdges, mask: NodeMask | None) -> Bool[Array | np.ndarray, " num_edges"] | None:
    """For norms over edges, in the layout's order: neither masked nor entering a node where `mask` is False."""
    if mask is None:
        return edges.edge_mask
    counted = jnp.asarray(mask)[jnp.asarray(edges.receivers)]
    return counted if edges.edge_mask is None else counted & jnp.asarray(edges.edge_mask)


def in_degree(edges: AbstractEdges) -> Array:
    """Number of edges (masked ones left out) that enter each receiver."""
    if isinstance(edges, EdgeIndex) and edges.edge_mask is None:
        return jnp.diff(jnp.asarray(edges.receiver_ptr))
    receivers = jnp.asarray(edges.receivers)
    if edges.edge_mask is not None:
        receivers = jnp.where(edges.edge_mask, receivers, edges.num_receivers)
    return segment_count(receivers, edges.num_receivers)


def edge_features(
    edges: AbstractEdges, edge_attr: Float[Array, " num_edges *dims"], edge_dim: int | None
) -> Float[Array, "num_edges edge_dim"]:
    """`edge_attr` as rows (a vector is one column) of `edge_dim` features, any number of them for -1.

    **Raises:** `ValueError` for a wrong number of rows or features, or if the layer takes none (`edge_dim` None).
    """
    if edge_attr.ndim == 1:
        edge_attr = edge_attr[:, None]
    if edge_attr.ndim != 2 or edge_attr.shape[0] != edges.num_edges:
        raise ValueError(
            f"`edge_attr` must have one row for each of the {edges.num_edges} edges; got shape {edge_attr.shape}. "
            "Pass it in the order of `edge_index`."
        )
    if edge_dim is None:
        raise ValueError(
            f"`edge_attr` is given (shape {edge_attr.shape}), but the layer has no weights for it. "
            f"Build it with `edge_dim={edge_attr.shape[1]}`, or leave `edge_attr` out."
        )
    if edge_dim >= 0:
        check_features(edge_attr, edge_dim, name="edge_attr")
    return edge_attr


def inputs_of(linear: eqx.nn.Linear | None) -> int | None:
    """Input features of a linear map, None without one."""
    return None if linear is None else int(linear.in_features)
