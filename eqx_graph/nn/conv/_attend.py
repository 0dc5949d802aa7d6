"""What attention layers share: heads, self-loops beside the edges, dropout on weights, weights handed back."""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._kernels import once
from ...data import AbstractEdges, EdgeList
from ...ops import attention, edge_softmax, matmul
from .._dropout import drop, is_active
from .._linear import add_bias, check_features
from .._message_passing import MessagePassing
from ..aggr import AbstractAggregation, Sum
from ..aggr._multi import as_aggregation
from ._adjacency import Flow


FillValue = float | Float[Array, "..."] | Literal["mean", "sum", "add", "min", "max", "mul"]


class AttentionWeights(NamedTuple):
    """Edges and their attention weights, in the caller's order: the given edges, then self-loops if a layer adds any.

    A self-loop that was among the given edges keeps its place with weight 0 where the layer replaces it by its own.
    """

    edge_index: Int[Array, "2 num_edges"]
    alpha: Float[Array, "num_edges heads"]


def split_heads(x: Float[Array, "rows total"], heads: int) -> Float[Array, "rows heads channels"]:
    """The last axis cut into `heads` equal parts."""
    return x.reshape(x.shape[0], heads, x.shape[1] // heads)


def merge_heads(x: Float[Array, "rows heads channels"], concat: bool) -> Float[Array, "rows out"]:
    """Heads side by side, or their mean."""
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2]) if concat else jnp.mean(x, axis=1)


def loops_of(edges: AbstractEdges) -> int:
    """Number of self-loops that an attention layer adds: one for every id that both sides have."""
    return min(edges.num_senders, edges.num_receivers)


class Attended(NamedTuple):
    """What `attend` computed, in the layout's order."""

    out: Float[Array, "num_receivers heads channels"]
    edges: AbstractEdges
    softmax: tuple[Array, Array | None]  # weights of edges and of self-loops
    dropped: tuple[Array, Array | None]  # the same after dropout

    def weights(self, alpha: tuple[Array, Array | None], flow: Flow) -> AttentionWeights:
        """`softmax` or `dropped` in the caller's order, beside the edges as the caller gave them."""
        edge_index, on_edges = self.edges.to_array(), self.edges.restore(alpha[0])
        edge_index = edge_index if flow == "source_to_target" else edge_index[::-1]
        if alpha[1] is None:
            return AttentionWeights(edge_index, on_edges)
        num_loops = alpha[1].shape[0]
        loops = jnp.broadcast_to(jnp.arange(num_loops, dtype=edge_index.dtype), (2, num_loops))
        return AttentionWeights(jnp.concatenate([edge_index, loops], axis=1), jnp.concatenate([on_edges, alpha[1]]))


def attend(
    edges: AbstractEdges,
    logits: Float[Array, "num_edges heads"],
    values: Float[Array, "num_senders heads channels"],
    loop_logits: Float[Array, "num_loops heads"] | None = None,
    *,
    dropout: eqx.nn.Dropout,
    key: PRNGKeyArray | None,
    aggregation: AbstractAggregation = Sum(),
    edge_terms: tuple[eqx.nn.Linear, Float[Array, "num_edges edge_dim"]] | None = None,
) -> Attended:
    r"""$\sum_j \alpha_{ij} v_j$ with $\alpha$ the softmax of the logits over the edges that enter $i$.

    **Arguments:**

    - `edges`, `logits`: the edges and one logit per edge and head, in the layout's order.
    - `values`: one vector per sender and head.
    - `loop_logits`: logits of self-loops to add; existing self-loops must be masked in `edges`.
    - `dropout`, `key`: dropout on the weights.
    - `aggregation`: of the weighted values $\alpha_{ij} v_j$; one that is no sum runs edge by edge.
    - `edge_terms`: a linear map and edge features (caller's order); their product joins the values of such an
        aggregation. A sum takes them on the nodes' side, which is the caller's business.
    """
    if loop_logits is not None and edges.num_senders != edges.num_receivers:
        edges, logits = _append_loops(edges, logits, loop_logits)
        loop_logits = None
    is_sum = isinstance(aggregation, Sum)
    if is_sum and not is_active(dropout):
        out, alpha = attention(edges, logits, values, self_logits=loop_logits, return_weights=True)
        return Attended(out, edges, alpha, alpha)
    edge_key, loop_key = (None, None) if key is None else jr.split(key)
    alpha, own = edge_softmax(edges, logits, loop_logits)
    dropped = drop(dropout, alpha, edge_key)
    dropped_own = None if own is None else drop(dropout, own, loop_key)
    if is_sum:
        out = matmul(edges, dropped, values)
        out = out if dropped_own is None else out + dropped_own[..., None] * values
    else:
        lin, edge_attr = (None, None) if edge_terms is None else edge_terms
        every, weights = edges, edges.restore(dropped)
        if dropped_own is not None:
            every, weights = edges.with_self_loops(), jnp.concatenate([weights, dropped_own])
        arguments = {"alpha": weights, "v": (values, None), "edge_attr": edge_attr}
        out = _WeightedValues(aggregation, lin).propagate(every, **arguments)
    return Attended(out, edges, (alpha, own), (dropped, dropped_own))


class _WeightedValues(MessagePassing):
    """Values, with a linear map of the edge's features if there are any, weighted by every head."""

    aggregation: AbstractAggregation
    lin: eqx.nn.Linear | None

    def message(
        self, alpha: Float[Array, " heads"], v_j: Float[Array, "heads channels"], edge_attr: Array | None
    ) -> Float[Array, "heads channels"]:
        if self.lin is not None and edge_attr is not None:
            v_j = v_j + self.lin(edge_attr).reshape(v_j.shape)
        return alpha[:, None] * v_j


def _append_loops(edges: AbstractEdges, logits: Array, loop_logits: Array) -> tuple[EdgeList, Array]:
    """Bipartite edges with a self-loop behind them for every id that both sides have, and the logits of both."""
    num_loops = loop_logits.shape[0]
    loops = jnp.broadcast_to(jnp.arange(num_loops, dtype=edges.senders.dtype), (2, num_loops))
    senders, receivers = jnp.concatenate([edges.to_array(), loops], axis=1)
    mask = None
    if edges.edge_mask is not None:
        mask = jnp.concatenate([edges.restore(jnp.asarray(edges.edge_mask)), jnp.ones(num_loops, bool)])
    both = jnp.concatenate([edges.restore(logits), loop_logits])
    return EdgeList(senders, receivers, mask, edges.num_senders, edges.num_receivers), both


def loop_features(
    edges: AbstractEdges, edge_attr: Float[Array, "num_edges edge_dim"], fill_value: FillValue, flow: Flow
) -> Float[Array, "num_loops edge_dim"]:
    """Edge features of added self-loops.

    **Arguments:** `edges` with existing self-loops masked, `edge_attr` in the caller's order, `fill_value`: a number, a
    vector, or the name of an aggregation of the features of the edges that point at a node (as in PyG, this means row 1
    of `edge_index` whatever the `flow`).
    """
    num_loops = loops_of(edges)
    if not isinstance(fill_value, str):
        if jnp.size(fill_value) not in (1, edge_attr.shape[1]):
            raise ValueError(
                f"`fill_value` must be a number or have an entry for each of the {edge_attr.shape[1]} edge features; "
                f"got shape {jnp.shape(fill_value)}."
            )
        return jnp.broadcast_to(jnp.asarray(fill_value, edge_attr.dtype), (num_loops, edge_attr.shape[1]))
    forward = flow == "source_to_target"
    ids, size = (edges.receivers, edges.num_receivers) if forward else (edges.senders, edges.num_senders)
    ids = jnp.asarray(ids)
    if edges.edge_mask is not None:
        ids = jnp.where(edges.edge_mask, ids, size)
    return as_aggregation(fill_value)(edges.arrange(edge_attr), ids, size)[:num_loops]


@jax.custom_jvp
def _add_once(x: Array, bias: Array) -> Array:
    return once(add_bias, x, bias)


@_add_once.defjvp
def _add_once_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return _add_once(*primals), add_bias(*tangents)


def project_once(linear: eqx.nn.Linear, x: Float[Array, "rows in"]) -> Float[Array, "rows out"]:
    """`project`, where products of heads and sums over them read the result: with its bias it is kept once."""
    check_features(x, int(linear.in_features))
    out = x @ linear.weight.T
    return out if linear.bias is None else _add_once(out, linear.bias)


def project_heads(linear: eqx.nn.Linear, x: Float[Array, "rows in"], heads: int) -> Float[Array, "rows heads channels"]:
    """A linear map into `heads` heads."""
    return split_heads(project_once(linear, x), heads)


def head_dots(
    linear: eqx.nn.Linear,
    x: Float[Array, "rows in"],
    values: Float[Array, "rows heads channels"] | None,
    *atts: Float[Array, "1 heads channels"],
) -> list[Float[Array, "rows heads"]]:
    r"""Dot products $a_h \cdot (W x)_h$ for each of the `atts`, $W$ being a `linear` without bias: one dense product.

    $a$ and $W$ are multiplied first, so that gradients reach `x` and $W$ through arrays with `heads` numbers a row; but
    where rows of `x` are longer than those of `values` $= W x$ (if the caller has them), those are multiplied with $a$.
    """
    _, heads, channels = atts[0].shape
    if values is None or int(linear.in_features) <= heads * channels:
        rows, weight = x, linear.weight.reshape(heads, channels, -1)
        maps = [jnp.einsum("hci,hc->ih", weight, att[0]) for att in atts]
    else:
        rows, heads_apart = values.reshape(-1, heads * channels), jnp.eye(heads, dtype=values.dtype)
        maps = [(heads_apart[:, None] * att[0][:, :, None]).reshape(-1, heads) for att in atts]
    return jnp.split(rows @ jnp.concatenate(maps, axis=1), len(atts), axis=1)
