"""The attention route: a softmax over the edges entering each node, then one sparse product a head."""

from typing import Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..data._edges import AbstractEdges
from ._matmul import product
from ._segment import expand
from ._segment_softmax import exp_shifted


Weights = tuple[Array, Array | None]


def _weights(edges: AbstractEdges, logits: Array, self_logits: Array | None) -> Weights:
    top = jnp.full((edges.num_receivers, *logits.shape[1:]), -jnp.inf, logits.dtype)
    top = top.at[edges.receivers].max(logits, mode="drop")
    top = top if self_logits is None else jnp.maximum(top, self_logits)

    weights = exp_shifted(logits, edges.receive(top))
    total = edges.sum_received(weights)
    if self_logits is None:
        return weights / edges.receive(jnp.where(total > 0, total, 1)), None
    own = exp_shifted(self_logits, top)
    total = total + own
    total = jnp.where(total > 0, total, 1)
    return weights / edges.receive(total), own / total


@jax.custom_jvp
def _softmax(edges: AbstractEdges, logits: Array, self_logits: Array | None) -> Weights:
    return _weights(edges, logits, self_logits)


@_softmax.defjvp
def _softmax_jvp(primals: tuple, tangents: tuple) -> tuple[Weights, Weights]:
    """Only the weights are kept for the backward pass, whatever the maximum and the sums were."""
    edges, logits, self_logits = primals
    _, logits_dot, self_dot = tangents
    weights, own = _softmax(edges, logits, self_logits)
    moved = weights * logits_dot
    drift = edges.sum_received(moved)
    if own is None:
        return (weights, None), (moved - weights * edges.receive(drift), None)
    drift = drift + own * self_dot
    return (weights, own), (moved - weights * edges.receive(drift), own * (self_dot - drift))


def edge_softmax(
    edges: AbstractEdges,
    logits: Float[Array, " num_edges"] | Float[Array, "num_edges heads"],
    self_logits: Float[Array, " num_nodes"] | Float[Array, "num_nodes heads"] | None = None,
) -> tuple[Array, Array | None]:
    r"""Softmax over the edges entering each receiver: $\alpha_e = e^{l_e} / \sum_{e' : r(e') = r(e)} e^{l_{e'}}$.

    **Arguments:**

    - `edges`: any layout; masked edges get weight 0.
    - `logits`: one value per edge (and head), in layout order. Among infinite ones, $+\infty$ share the weight evenly
        and $-\infty$ get none; a receiver with no other logit than $-\infty$ has weights 0.
    - `self_logits`: logits of one more edge per node, from the node to itself: self-loops without the edges.

    **Returns:** `(weights, self_weights)`, shaped as the logits; `self_weights` is `None` without `self_logits`.
    """
    if edges.edge_mask is not None:
        logits = jnp.where(expand(jnp.asarray(edges.edge_mask), logits), logits, -jnp.inf)
    return _softmax(edges, logits, self_logits)


@overload
def attention(
    edges: AbstractEdges,
    logits: Float[Array, "num_edges heads"],
    values: Float[Array, "num_senders heads channels"],
    *,
    self_logits: Float[Array, "num_senders heads"] | None = None,
    return_weights: Literal[False] = False,
) -> Float[Array, "num_receivers heads channels"]: ...
@overload
def attention(
    edges: AbstractEdges,
    logits: Float[Array, "num_edges heads"],
    values: Float[Array, "num_senders heads channels"],
    *,
    self_logits: Float[Array, "num_senders heads"] | None = None,
    return_weights: Literal[True],
) -> tuple[Float[Array, "num_receivers heads channels"], Weights]: ...
def attention(
    edges: AbstractEdges,
    logits: Float[Array, "num_edges heads"],
    values: Float[Array, "num_senders heads channels"],
    *,
    self_logits: Float[Array, "num_senders heads"] | None = None,
    return_weights: bool = False,
) -> Float[Array, "num_receivers heads channels"] | tuple[Float[Array, "num_receivers heads channels"], Weights]:
    r"""Attention over the edges entering each node: $y_{ih} = \sum_{e : r(e) = i} \alpha_{eh}\, v_{s(e)h}$.

    $\alpha = \mathrm{softmax}$ of the logits over the edges of a receiver. Nothing of size `(num_edges, heads,
    channels)` exists in any pass: the weights are the only per-edge array kept, the sum is one sparse product a head,
    and its derivatives are another sparse product and one dot product an edge.

    **Arguments:**

    - `edges`: any layout; masked edges get weight 0.
    - `logits`: `(num_edges, heads)`, in layout order; infinities as in `edge_softmax`.
    - `values`: what the senders send.
    - `self_logits`: `(num_nodes, heads)`: every node also attends to itself, without self-loop edges (mask existing
        ones with `edges.remove_self_loops()`).
    - `return_weights`: also return `(weights, self_weights)`, in layout order (`edges.restore` gives the caller's).

    **Returns:** `(num_receivers, heads, channels)`; zeros for a receiver without edges.

    **Raises:** `ValueError` if `self_logits` is given for a bipartite layout.

    For dropout of the weights, call `edge_softmax`, drop, and `matmul`.
    """
    if self_logits is not None and edges.num_senders != edges.num_receivers:
        raise ValueError(
            f"`self_logits` needs one set of nodes; got num_senders={edges.num_senders} and "
            f"num_receivers={edges.num_receivers}."
        )
    weights, own = edge_softmax(edges, logits, self_logits)
    out = product(edges, weights, values)
    if own is not None:
        out = out + own[..., None] * values
    return (out, (weights, own)) if return_weights else out
