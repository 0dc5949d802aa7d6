"""Softmax, log-softmax and log-sum-exp over segments."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._segment import FloatRows, FloatSegments, SegmentIds, add_up, checked_ids, in_wide, rows_of, segment_top


def exp_shifted(values: Array, top: Array) -> Array:
    """`exp(values - top)` for the maximum `top`: 1 at the maximum even if it is infinite, 0 at minus infinity."""
    return jnp.where(values == -jnp.inf, 0, jnp.exp(jnp.where(values == top, 0, values - top)))


def _exponentials(logits: Array, ids: Array, num_segments: int) -> tuple[Array, Array, Array]:
    top = segment_top(logits, ids, num_segments)
    weights = jnp.where(expand_inside(ids, num_segments, logits), exp_shifted(logits, rows_of(top, ids)), 0)
    return top, weights, add_up(weights, ids, num_segments)


def expand_inside(ids: Array, num_segments: int, like: Array) -> Array:
    """Which rows belong to a segment, broadcastable to `like`."""
    return jnp.reshape(ids < num_segments, (-1, *[1] * (like.ndim - 1)))


@jax.custom_jvp
def _softmax(logits: Array, ids: Array, like: Array) -> Array:
    _, weights, total = _exponentials(logits, ids, like.shape[0])
    divisor = total.at[ids].get(mode="fill", fill_value=1)
    return weights / jnp.where(divisor > 0, divisor, 1)


@_softmax.defjvp
def _softmax_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    logits, ids, like = primals
    weights = _softmax(logits, ids, like)
    moved = weights * tangents[0]
    return weights, moved - weights * rows_of(add_up(moved, ids, like.shape[0]), ids)


@in_wide
def segment_softmax(logits: FloatRows, segment_ids: SegmentIds, num_segments: int) -> FloatRows:
    r"""Softmax over the rows of each segment: $\exp(l_e) / \sum_{e' : s(e') = s(e)} \exp(l_{e'})$.

    **Arguments:**

    - `logits`: one row per entry. Among infinite ones, $+\infty$ share the weight evenly and $-\infty$ get none.
    - `segment_ids`: the segment of each row, in any order; rows with an id outside `[0, num_segments)` get weight 0.
    - `num_segments`: static int.

    **Returns:** weights, shape of `logits`; those of a segment sum to 1 (to 0 if all its logits are $-\infty$).

    **Raises:** `ValueError` if the leading sizes differ.
    """
    ids = checked_ids(logits, segment_ids, num_segments)
    return _softmax(logits, ids, jnp.zeros(num_segments))


@jax.custom_jvp
def _logsumexp(logits: Array, ids: Array, like: Array) -> Array:
    top, _, total = _exponentials(logits, ids, like.shape[0])
    return jnp.where(total == 0, -jnp.inf, top + jnp.log(jnp.where(total == 0, 1, total)))


@_logsumexp.defjvp
def _logsumexp_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    logits, ids, like = primals
    return _logsumexp(logits, ids, like), add_up(_softmax(logits, ids, like) * tangents[0], ids, like.shape[0])


@in_wide
def segment_logsumexp(logits: FloatRows, segment_ids: SegmentIds, num_segments: int) -> FloatSegments:
    r"""$\log \sum \exp(l_e)$ over the rows of each segment; an empty segment gives $-\infty$ (and gradient 0).

    Arguments and errors of `segment_softmax`.
    """
    return _logsumexp(logits, checked_ids(logits, segment_ids, num_segments), jnp.zeros(num_segments))


@in_wide
def segment_log_softmax(logits: FloatRows, segment_ids: SegmentIds, num_segments: int) -> FloatRows:
    r"""Logarithm of `segment_softmax`, without under- or overflow; rows out of range give $-\infty$.

    Arguments and errors of `segment_softmax`.
    """
    ids = checked_ids(logits, segment_ids, num_segments)
    total = rows_of(_logsumexp(logits, ids, jnp.zeros(num_segments)), ids)
    counts = expand_inside(ids, num_segments, logits) & ~jnp.isinf(total)
    return jnp.where(counts, logits - jnp.where(counts, total, 0), -jnp.inf)
