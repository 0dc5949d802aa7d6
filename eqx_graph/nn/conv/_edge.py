"""Edge convolution, on a given graph and on the nearest neighbours in feature space."""

from collections.abc import Callable
from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...data import AbstractEdges, EdgeIndex, EdgeIndexLike
from .._message_passing import MessagePassing
from .._rows import apply_row, apply_rows, mixes_rows
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow
from ._first_last import split_first
from ._neighbors import NodeMask, Nodes, counted_edges, endpoints, reduce_messages


Batch = Int[Array | np.ndarray, " num_nodes"]
BatchPair = tuple[Int[Array | np.ndarray, " num_senders"], Int[Array | np.ndarray, " num_receivers"]]

# Distances in flight: bounds the memory of a neighbour search to 16 MB of float32.
_QUERY_BLOCK = 2**22


class EdgeConv(eqx.Module):
    r"""Edge convolution, $x_i' = \bigoplus_{j \in N(i)} \mathrm{nn}\left([x_i, x_j - x_i]\right)$.

    Where `nn` begins with a linear map $[U, V]$, that map is applied to nodes: $U x_i + V (x_j - x_i)$ is
    $U x_i - V \bar x_i$ at the receiver plus $V \bar x_j$ at the sender, with features $\bar x$ centred so that no
    digits are lost to a common offset. The rest of `nn` runs on blocks of edges. A network whose norms take statistics
    over rows (`MLP` with `batch_norm`, say) runs on all edges at once; `mask` leaves those of padding nodes out.

    ??? cite "Reference"
        Wang et al., Dynamic Graph CNN for Learning on Point Clouds, ACM TOG 2019, eq. 8.
    """

    nn: Callable[..., Any]
    aggregation: AbstractAggregation
    flow: Flow = eqx.field(static=True)

    def __init__(self, nn: Callable[..., Any], aggr: AggregationLike = "max", *, flow: Flow = "source_to_target"):
        """**Arguments:**

        - `nn`: network on ONE edge's `[x_i, x_j - x_i]`, twice as many inputs as node features; or an `MLP`.
        - `aggr`: aggregation of its outputs, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        """
        self.nn = nn
        self.aggregation = as_aggregation(aggr)
        self.flow = flow

    @overload
    def __call__(
        self, x: Nodes, edge_index: EdgeIndexLike, *, mask: NodeMask | None = None
    ) -> Float[Array, "num_receivers out"]: ...
    @overload
    def __call__(
        self, x: Nodes, edge_index: EdgeIndexLike, *, mask: NodeMask | None = None, state: eqx.nn.State
    ) -> tuple[Float[Array, "num_receivers out"], eqx.nn.State]: ...
    @jax.named_scope("eqx_graph.EdgeConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        *,
        mask: NodeMask | None = None,
        state: eqx.nn.State | None = None,
    ) -> Float[Array, "num_receivers out"] | tuple[Float[Array, "num_receivers out"], eqx.nn.State]:
        """**Arguments:**

        - `x`: node features, or (senders', receivers') with as many features on either side.
        - `edge_index`: `(2, num_edges)` integers or an `EdgeIndex`.
        - `mask`: False for receivers (padding) whose edges the norms of an `MLP` leave out.
        - `state`: running statistics of an `MLP` with batch norms.

        **Returns:** new receiver features, `(num_receivers, out_features)`, zeros for a receiver without edges;
        `(out, state)` if `state` is given.

        **Raises:** `ValueError` for wrong sizes.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, None, self.flow)
        out, state = _edge_conv(self.nn, self.aggregation, x_src, x_dst, edges, mask, state)
        return out if state is None else (out, state)


class DynamicEdgeConv(eqx.Module):
    r"""Edge convolution over the $k$ nearest neighbours in feature space, found anew at every call.

    Neighbours include the node itself (distance 0). Equal distances go to the node with the lower number. The choice
    of neighbours has no gradient.

    !!! note
        Finding neighbours takes $O(n^2 f)$ time, in blocks of queries, and works under `jit` with static shapes: where
        a graph of the batch has fewer than $k$ nodes, its nodes have as many neighbours as there are.

    ??? cite "Reference"
        Wang et al., Dynamic Graph CNN for Learning on Point Clouds, ACM TOG 2019, section 3.3. PyTorch Geometric 2.8
        leaves the order of ties open.
    """

    nn: Callable[..., Any]
    aggregation: AbstractAggregation
    k: int = eqx.field(static=True)

    def __init__(self, nn: Callable[..., Any], k: int, aggr: AggregationLike = "max"):
        """**Arguments:**

        - `nn`: network on ONE edge's `[x_i, x_j - x_i]`, twice as many inputs as node features; or an `MLP`.
        - `k`: number of neighbours, the node itself among them; at least 1.
        - `aggr`: aggregation of the outputs of `nn`, or its name.

        **Raises:** `ValueError` for `k` below 1.
        """
        if k < 1:
            raise ValueError(f"`k` (number of neighbours) must be at least 1; got {k}.")
        self.nn = nn
        self.k = k
        self.aggregation = as_aggregation(aggr)

    @overload
    def __call__(
        self, x: Nodes, batch: Batch | BatchPair | None = None, *, mask: NodeMask | None = None
    ) -> Float[Array, "num_receivers out"]: ...
    @overload
    def __call__(
        self, x: Nodes, batch: Batch | BatchPair | None = None, *, mask: NodeMask | None = None, state: eqx.nn.State
    ) -> tuple[Float[Array, "num_receivers out"], eqx.nn.State]: ...
    @jax.named_scope("eqx_graph.DynamicEdgeConv")
    def __call__(
        self,
        x: Nodes,
        batch: Batch | BatchPair | None = None,
        *,
        mask: NodeMask | None = None,
        state: eqx.nn.State | None = None,
    ) -> Float[Array, "num_receivers out"] | tuple[Float[Array, "num_receivers out"], eqx.nn.State]:
        """**Arguments:**

        - `x`: node features, or (senders', receivers') with as many features on either side.
        - `batch`: graph of every node, or such a pair; neighbours are sought within a graph only.
        - `mask`: False for receivers (padding) whose edges the norms of an `MLP` leave out.
        - `state`: running statistics of an `MLP` with batch norms.

        **Returns:** new receiver features, `(num_receivers, out_features)`; `(out, state)` if `state` is given.

        **Raises:** `ValueError` for wrong sizes.
        """
        x_src, x_dst = x if isinstance(x, tuple) else (x, x)
        if x_dst is None:
            raise ValueError("`x` must hold features of receivers too, which seek neighbours; got (x_src, None).")
        batches = batch if isinstance(batch, tuple) else (batch, batch)
        edges = _nearest(x_src, x_dst, *batches, k=self.k)
        out, state = _edge_conv(self.nn, self.aggregation, x_src, x_dst, edges, mask, state)
        return out if state is None else (out, state)


class _OnDifference(MessagePassing):
    """The whole network on every edge."""

    aggregation: AbstractAggregation
    nn: Callable[..., Any]

    def message(self, x_i: Float[Array, " in"], x_j: Float[Array, " in"]) -> Float[Array, " out"]:
        return apply_row(self.nn, jnp.concatenate([x_i, x_j - x_i]))


class _OnHidden(MessagePassing):
    """All but the first linear map on every edge."""

    aggregation: AbstractAggregation
    rest: Callable[..., Any]

    def message(self, h_i: Float[Array, " hidden"], h_j: Float[Array, " hidden"]) -> Float[Array, " out"]:
        return self.rest(h_i + h_j)


def _edge_conv(
    nn: Callable[..., Any],
    aggregation: AbstractAggregation,
    x_src: Array,
    x_dst: Array | None,
    edges: AbstractEdges,
    mask: NodeMask | None,
    state: eqx.nn.State | None,
) -> tuple[Array, eqx.nn.State | None]:
    if x_dst is None or x_dst.shape[1] != x_src.shape[1]:
        raise ValueError(
            "`x` must have as many features for receivers as for senders; got "
            f"{x_src.shape[1]} and {None if x_dst is None else x_dst.shape[1]}."
        )
    if mixes_rows(nn):
        x_i = edges.receive(x_dst)
        rows = jnp.concatenate([x_i, edges.send(x_src) - x_i], axis=-1)
        messages, state = apply_rows(nn, rows, state, counted_edges(edges, mask))
        return reduce_messages(aggregation, edges, messages), state
    first, rest = split_first(nn)
    if first is None:
        return _OnDifference(aggregation, nn).propagate(edges, x=(x_src, x_dst)), state
    width = x_src.shape[1]
    if first.in_features != 2 * width:
        raise ValueError(
            f"`nn` must take [x_i, x_j - x_i], {2 * width} numbers for `x` of shape {x_src.shape}; "
            f"its first layer takes {first.in_features}."
        )
    centre = _centre(edges, x_src)
    on_node, on_difference = first.weight[:, :width].T, first.weight[:, width:].T
    h_dst = x_dst @ on_node - (x_dst - centre) @ on_difference
    h_dst = h_dst if first.bias is None else h_dst + first.bias[None]
    h_src = (x_src - centre) @ on_difference
    return _OnHidden(aggregation, rest).propagate(edges, h=(h_src, h_dst)), state


def _centre(edges: AbstractEdges, x: Array) -> Array:
    """A mean row, `(1, in)`, beside which differences lose no digits: of the senders that are not padding.

    Padding has masked edges or loops only, and a loop's difference is zero whatever the centre.
    """
    counts = jnp.asarray(edges.senders) != jnp.asarray(edges.receivers)
    counts = counts if edges.edge_mask is None else counts & jnp.asarray(edges.edge_mask)
    is_used = jnp.zeros(edges.num_senders, bool).at[jnp.asarray(edges.senders)].max(counts, mode="drop")[:, None]
    number = jnp.maximum(jnp.sum(is_used), 1).astype(x.dtype)
    return jax.lax.stop_gradient(jnp.sum(jnp.where(is_used, x, 0), axis=0, keepdims=True) / number)


def _nearest(
    x_src: Array,
    x_dst: Array,
    batch_src: Array | np.ndarray | None,
    batch_dst: Array | np.ndarray | None,
    *,
    k: int,
) -> EdgeIndex:
    """Edges from the `k` nearest senders (of the same graph) to every receiver."""
    if x_src.shape[1] != x_dst.shape[1]:
        raise ValueError(
            f"`x` must have as many features for receivers as for senders; got {x_src.shape[1]} and {x_dst.shape[1]}."
        )
    if (batch_src is None) != (batch_dst is None):
        raise ValueError("`batch` must be given for both sides or for none.")
    for batch, x in ((batch_src, x_src), (batch_dst, x_dst)):
        if batch is not None and batch.shape != (x.shape[0],):
            raise ValueError(f"`batch` must have one entry for each of the {x.shape[0]} nodes; got {batch.shape}.")
    num_senders, num_receivers = x_src.shape[0], x_dst.shape[0]
    k = min(k, num_senders)
    graphs = None if batch_dst is None or batch_src is None else (jnp.asarray(batch_src), jnp.asarray(batch_dst))
    senders_x, receivers_x = jax.lax.stop_gradient((x_src, x_dst))

    def of_one(query: tuple[Array, Array | None]) -> tuple[Array, Array]:
        point, graph = query
        distance = jnp.sum((senders_x - point[None]) ** 2, axis=-1)
        if graphs is not None:
            distance = jnp.where(graphs[0] == graph, distance, jnp.inf)
        negative, senders = jax.lax.top_k(-distance, k)
        return senders, negative > -jnp.inf

    block = max(1, min(num_receivers, _QUERY_BLOCK // max(num_senders, 1)))
    queries = receivers_x, None if graphs is None else graphs[1]
    senders, found = jax.lax.map(of_one, queries, batch_size=block)
    receivers = jnp.broadcast_to(jnp.arange(num_receivers, dtype=senders.dtype)[:, None], senders.shape)
    return EdgeIndex.from_array(
        jnp.stack([senders.reshape(-1), receivers.reshape(-1)]),
        num_senders=num_senders,
        num_receivers=num_receivers,
        edge_mask=found.reshape(-1),
        check=False,  # ids of its own making
    )
