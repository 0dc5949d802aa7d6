"""Reductions over segments: rows of `data` grouped by an integer id."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


SegmentIds = Int[Array, " rows"]


def _expand(per_row: Array, like: Array) -> Array:
    """`per_row`, one value a row, with as many axes as `like`."""
    return per_row.reshape(per_row.shape[0], *[1] * (like.ndim - 1))


def _checked(data: Array, segment_ids: Array, num_segments: int) -> Array:
    """The ids with every one outside `[0, num_segments)` moved to the spare id `num_segments`, which all ops drop."""
    if data.shape[0] != segment_ids.shape[0]:
        raise ValueError(
            f"`segment_ids` must hold one id for each of the {data.shape[0]} rows of `data`; got {segment_ids.shape[0]}."
        )
    if num_segments < 0:
        raise ValueError(f"`num_segments` must not be negative; got {num_segments}.")
    inside = (segment_ids >= 0) & (segment_ids < num_segments)
    return jnp.where(inside, segment_ids, num_segments)


def _sum(data: Array, ids: Array, num_segments: int) -> Array:
    return jnp.zeros((num_segments, *data.shape[1:]), data.dtype).at[ids].add(data, mode="drop")


def _count(ids: Array, num_segments: int, dtype: jnp.dtype) -> Array:
    return jnp.zeros(num_segments, dtype).at[ids].add(1, mode="drop")


def _rows(per_segment: Array, ids: Array) -> Array:
    """Each row's segment's value; rows without a segment read zero."""
    return per_segment.at[ids].get(mode="fill", fill_value=0)


def segment_sum(
    data: Shaped[Array, " rows *dims"], segment_ids: SegmentIds, num_segments: int
) -> Shaped[Array, " {num_segments} *dims"]:
    """Sum of the rows of each segment; an empty segment gives 0."""
    return _sum(data, _checked(data, segment_ids, num_segments), num_segments)


def segment_count(segment_ids: SegmentIds, num_segments: int) -> Int[Array, " {num_segments}"]:
    """Number of rows in each segment."""
    return _count(_checked(segment_ids, segment_ids, num_segments), num_segments, jnp.dtype(jnp.int32))


def segment_mean(
    data: Float[Array, " rows *dims"], segment_ids: SegmentIds, num_segments: int
) -> Float[Array, " {num_segments} *dims"]:
    """Mean of the rows of each segment; an empty segment gives 0."""
    ids = _checked(data, segment_ids, num_segments)
    count = jnp.maximum(_count(ids, num_segments, data.dtype), 1)
    return _sum(data, ids, num_segments) / _expand(count, data)


def _lowest(dtype: jnp.dtype) -> Array:
    low = -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min
    return jnp.asarray(low, dtype)


@jax.custom_jvp
def _max(data: Array, ids: Array, like: Array) -> Array:
    """Maximum per segment, the lowest value of the dtype where empty; `like` gives the number of segments."""
    fill = jnp.full((like.shape[0], *data.shape[1:]), _lowest(data.dtype))
    return fill.at[ids].max(data, mode="drop")


@_max.defjvp
def _max_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    data, ids, like = primals
    out = _max(data, ids, like)
    is_max = (data == out.at[ids].get(mode="fill", fill_value=0)) & _expand(ids < like.shape[0], data)
    ties = _sum(is_max.astype(data.dtype), ids, like.shape[0])
    share = jnp.where(is_max, tangents[0], 0)
    return out, _sum(share, ids, like.shape[0]) / jnp.maximum(ties, 1)


def segment_max(
    data: Shaped[Array, " rows *dims"], segment_ids: SegmentIds, num_segments: int
) -> Shaped[Array, " {num_segments} *dims"]:
    """Largest row entry of each segment; an empty segment gives 0. Ties share the gradient evenly."""
    ids = _checked(data, segment_ids, num_segments)
    filled = _count(ids, num_segments, jnp.dtype(jnp.int32)) > 0
    return jnp.where(_expand(filled, data), _max(data, ids, jnp.zeros(num_segments)), jnp.zeros((), data.dtype))


def segment_min(
    data: Shaped[Array, " rows *dims"], segment_ids: SegmentIds, num_segments: int
) -> Shaped[Array, " {num_segments} *dims"]:
    """Smallest row entry of each segment; an empty segment gives 0. Ties share the gradient evenly."""
    if jnp.issubdtype(data.dtype, jnp.integer):
        return ~segment_max(~data, segment_ids, num_segments) + 0
    return -segment_max(-data, segment_ids, num_segments)


def segment_softmax(
    logits: Float[Array, " rows *dims"], segment_ids: SegmentIds, num_segments: int
) -> Float[Array, " rows *dims"]:
    r"""$\exp(l_e) / \sum_{e' : s(e') = s(e)} \exp(l_{e'})$."""
    ids = _checked(logits, segment_ids, num_segments)
    top = jax.lax.stop_gradient(_max(logits, ids, jnp.zeros(num_segments)))
    top = jnp.where(jnp.isfinite(top), top, 0)
    weights = jnp.exp(logits - _rows(top, ids))
    total = _rows(_sum(weights, ids, num_segments), ids)
    return weights / jnp.where(total > 0, total, 1)
