"""The attention route: a softmax over the edges entering each node, then one sparse product a head."""

import functools as ft
import math
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._kernels import accumulator_dtype, once
from .._linear_call import linear_call
from ..data._edges import AbstractEdges, check_one_set, check_rows
from ._matmul import product
from ._segment import expand
from ._segment_softmax import exp_shifted


Weights = tuple[Array, Array | None]


@jax.custom_jvp
def _exponentials(edges: AbstractEdges, logits: Array, self_logits: Array | None) -> tuple[Array, Array | None, Array]:
    """Weights of edges and of self-loops before normalisation, relative to a largest logit; their sums by receiver.

    Only ratios of the three mean anything, so what they are relative to is a constant to the derivatives. Where the
    range of all logits is so narrow that no exponential comes near underflow, it is the largest of all: as exact as
    that of each receiver, which takes a scattered maximum, one core three times as long as the sums.
    """
    every = [logits] if self_logits is None else [logits, self_logits]
    highest = ft.reduce(jnp.maximum, [jnp.max(a, initial=-jnp.inf) for a in every])
    lowest = ft.reduce(jnp.minimum, [jnp.min(a, initial=jnp.inf) for a in every])
    # Within a quarter of the exponents of the type; not so if either end is infinite.
    narrow = highest - lowest < -0.25 * math.log(float(jnp.finfo(logits.dtype).tiny))

    def masked(weights: Array) -> Array:
        if edges.edge_mask is None:
            return weights
        # A factor, because exponentials under a choice per edge are computed one by one on a CPU: 5 times slower.
        return weights * expand(jnp.asarray(edges.edge_mask).astype(weights.dtype), weights)

    def relative_to_highest() -> tuple[Array, Array | None]:
        return masked(jnp.exp(logits - highest)), None if self_logits is None else jnp.exp(self_logits - highest)

    def relative_to_each() -> tuple[Array, Array | None]:
        ids, mask = jnp.asarray(edges.receivers), edges.edge_mask
        ids = ids if mask is None else jnp.where(jnp.asarray(mask), ids, edges.num_receivers)
        top = jnp.full((edges.num_receivers, *logits.shape[1:]), -jnp.inf, logits.dtype)
        top = top.at[ids].max(logits, mode="drop", wrap_negative_indices=False)
        top = top if self_logits is None else jnp.maximum(top, self_logits)
        at_edges = edges.receive(top)
        weights = masked(exp_shifted(jnp.minimum(logits, at_edges), at_edges))
        return weights, None if self_logits is None else exp_shifted(self_logits, top)

    # Branches are compiled apart; elsewhere XLA would keep all that the weights are made of for the backward pass.
    weights, own = jax.lax.cond(narrow, relative_to_highest, relative_to_each)
    total = edges.sum_received(weights)
    return weights, own, total if own is None else total + own


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


def _check(edges: AbstractEdges, logits: Array, self_logits: Array | None) -> None:
    check_rows("logits", logits, edges.num_edges, "edges")
    if self_logits is None:
        return
    check_one_set(edges, "self_logits", "Put the loops among the edges, or leave it out.")
    check_rows("self_logits", self_logits, edges.num_receivers, "nodes")
    if self_logits.shape[1:] != logits.shape[1:]:
        raise ValueError(
            f"`self_logits` must have as many heads as `logits`; got shapes {self_logits.shape} and {logits.shape}."
        )


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

    **Raises:** `ValueError` for a wrong number of rows or heads, or if `self_logits` is given for a bipartite layout.
    """
    _check(edges, logits, self_logits)
    return _normalised(edges, *_unnormalised(edges, logits, self_logits))


def _divide(divisor: Array, values: Array) -> Array:
    return values / divisor[..., None]


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

    **Raises:** `ValueError` for a wrong number of rows or heads, or if `self_logits` is given for a bipartite layout.

    For dropout of the weights, call `edge_softmax`, drop, and `matmul`.
    """
    _check(edges, logits, self_logits)
    check_rows("values", values, edges.num_senders, "senders")
    if values.ndim != 3 or logits.ndim != 2 or values.shape[1] != logits.shape[1]:
        raise ValueError(
            f"`values` must have shape (num_senders, heads, channels) for `logits` of shape (num_edges, heads); got "
            f"{values.shape} and {logits.shape}."
        )
    weights, own, divisor = _unnormalised(edges, logits, self_logits)
    # The sum before the division can be larger than any value, so it is not kept in 16 bits.
    wide = values.astype(accumulator_dtype(values.dtype))
    out = product(edges, weights, wide)
    if own is not None:
        out = out + own[..., None].astype(wide.dtype) * wide
    out = linear_call(_divide, ft.partial(once, _divide), divisor.astype(wide.dtype), out).astype(values.dtype)
    return (out, _normalised(edges, weights, own, divisor)) if return_weights else out
