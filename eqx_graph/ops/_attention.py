"""The attention route: a softmax over the edges entering each node, then one sparse product a head."""

import math
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._kernels import accumulator_dtype, add_at, block_size, loop_over_blocks, rows_at, zeros_after
from ..data._edges import AbstractEdges, EdgeIndex
from ._matmul import product
from ._segment import expand
from ._segment_softmax import exp_shifted


Weights = tuple[Array, Array | None]


def _terms(edges: AbstractEdges, logits: Array, top: Array) -> tuple[Array, Array]:
    """Exponentials relative to `top`, and their sums; in blocks, or XLA would keep all that they are made of."""

    def exponentials(logits: Array, at_edges: Array, mask: Any) -> Array:
        weights = exp_shifted(jnp.minimum(logits, at_edges), at_edges)
        # A factor, because exponentials under a choice per edge are computed one by one on a CPU: 5 times slower.
        return weights if mask is None else weights * expand(jnp.asarray(mask).astype(weights.dtype), weights)

    if not isinstance(edges, EdgeIndex):
        weights = exponentials(logits, edges.receive(top), edges.edge_mask)
        return weights, edges.sum_received(weights)
    block = block_size(edges.num_edges, 4 * math.prod(logits.shape[1:]), jax.default_backend())

    def body(start: Any, fresh: Any, carry: Any) -> Any:
        def cut(a):
            return jax.lax.dynamic_slice_in_dim(jnp.asarray(a), start, block)

        ids, mask = cut(edges.receivers), None if edges.edge_mask is None else cut(edges.edge_mask)
        here = exponentials(cut(logits), rows_at(top, ids), mask)
        weights = jax.lax.dynamic_update_slice_in_dim(carry[0], here, start, 0)
        here = here.astype(carry[1].dtype)
        return weights, add_at(carry[1], ids, here if fresh is None else here * expand(fresh.astype(here.dtype), here))

    zeros = [zeros_after(top, a.shape, d) for a, d in ((logits, logits.dtype), (top, accumulator_dtype(top.dtype)))]
    weights, total = loop_over_blocks(edges.num_edges, block, body, tuple(zeros)) if edges.num_edges else zeros
    return weights, total.astype(top.dtype)


@jax.custom_jvp
def _exponentials(edges: AbstractEdges, logits: Array, self_logits: Array | None) -> tuple[Array, Array | None, Array]:
    """Weights of edges and of self-loops before normalisation, relative to each receiver's largest logit; their sums.

    Only ratios of the three mean anything, so the maximum is a constant to the derivatives.
    """
    ids, mask = jnp.asarray(edges.receivers), edges.edge_mask
    ids = ids if mask is None else jnp.where(jnp.asarray(mask), ids, edges.num_receivers)
    top = jnp.full((edges.num_receivers, *logits.shape[1:]), -jnp.inf, logits.dtype)
    top = top.at[ids].max(logits, mode="drop", wrap_negative_indices=False)
    top = top if self_logits is None else jnp.maximum(top, self_logits)
    weights, total = _terms(edges, logits, top)
    if self_logits is None:
        return weights, None, total
    own = exp_shifted(self_logits, top)
    return weights, own, total + own


@_exponentials.defjvp
def _exponentials_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    edges, logits, self_logits = primals
    weights, own, total = _exponentials(edges, logits, self_logits)
    moved = weights * tangents[1]
    moved_total = edges.sum_received(moved)
    if own is None:
        return (weights, None, total), (moved, None, moved_total)
    moved_own = own * tangents[2]
    return (weights, own, total), (moved, moved_own, moved_total + moved_own)


def _unnormalised(edges: AbstractEdges, logits: Array, self_logits: Array | None) -> tuple[Array, Array | None, Array]:
    """`_exponentials` with divisors that are never zero in place of the sums."""
    weights, own, total = _exponentials(edges, logits, self_logits)
    return weights, own, jnp.where(total > 0, total, 1)


def _normalised(edges: AbstractEdges, weights: Array, own: Array | None, divisor: Array) -> Weights:
    return weights / edges.receive(divisor), None if own is None else own / divisor


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
    return _normalised(edges, *_unnormalised(edges, logits, self_logits))


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
    channels)` exists in any pass: exponentials of the logits are the only per-edge array kept, a sparse product adds up
    what they weigh, each receiver divides once, and the derivatives are another sparse product and one dot product an
    edge.

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
    weights, own, divisor = _unnormalised(edges, logits, self_logits)
    # The sum before the division can be larger than any value, so it is not kept in 16 bits.
    wide = values.astype(accumulator_dtype(values.dtype))
    out = product(edges, weights, wide)
    if own is not None:
        out = out + own[..., None].astype(wide.dtype) * wide
    out = (out / divisor[..., None].astype(wide.dtype)).astype(values.dtype)
    return (out, _normalised(edges, weights, own, divisor)) if return_weights else out
