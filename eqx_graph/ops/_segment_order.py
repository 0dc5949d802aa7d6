"""Order statistics over segments: median, quantiles, the position of the maximum."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ._segment import (
    FloatRows,
    FloatSegments,
    SegmentIds,
    checked_ids,
    expand,
    in_wide,
    rows_of,
    segment_count,
    segment_top,
)


Interpolation = Literal["linear", "lower", "higher", "midpoint", "nearest"]


def sort_within(data: Array, ids: Array) -> Array:
    """Every column of `data` sorted by (segment, value); differentiable as the gather it is."""
    keys = jnp.broadcast_to(expand(ids, data), data.shape)
    rows = jnp.broadcast_to(expand(jnp.arange(data.shape[0], dtype=jnp.int32), data), data.shape)
    _, _, order = jax.lax.sort((keys, jax.lax.stop_gradient(data), rows), dimension=0, num_keys=2, is_stable=True)
    return jnp.take_along_axis(data, order, axis=0)


@in_wide
def segment_quantile(
    data: FloatRows,
    segment_ids: SegmentIds,
    num_segments: int,
    q: float,
    *,
    interpolation: Interpolation = "linear",
) -> FloatSegments:
    r"""Quantile `q` of each column of each segment, at position $q (n - 1)$ of its sorted rows; 0 if it is empty.

    **Arguments:**

    - `data`, `segment_ids`, `num_segments`: as in `segment_sum`.
    - `q`: in [0, 1].
    - `interpolation`: between the two neighbouring rows. `"nearest"` breaks ties as PyG does (to the even position
        in the list of all sorted rows).

    **Returns:** `(num_segments, *dims)`. Takes a sort of every column, O(rows log rows).

    **Raises:** `ValueError` if `q` is outside [0, 1].
    """
    if not 0 <= q <= 1:
        raise ValueError(f"`q` must be in [0, 1]; got {q}.")
    ids = checked_ids(data, segment_ids, num_segments)
    count = segment_count(segment_ids, num_segments)
    if data.shape[0] == 0:
        return jnp.zeros((num_segments, *data.shape[1:]), data.dtype)
    start = jnp.cumsum(count) - count
    position = q * jnp.maximum(count - 1, 0).astype(data.dtype)
    low = jnp.floor(position).astype(jnp.int32)
    fraction = position - low.astype(data.dtype)
    odd = (start + low) % 2 == 1
    steps = {
        "linear": fraction,
        "lower": jnp.zeros_like(fraction),
        "higher": jnp.ceil(fraction),
        "midpoint": jnp.where(fraction > 0, 0.5, 0).astype(data.dtype),
        "nearest": ((fraction > 0.5) | ((fraction == 0.5) & odd)).astype(data.dtype),
    }
    step = expand(steps[interpolation], data)
    ordered = sort_within(data, ids)
    last = data.shape[0] - 1
    below = ordered[jnp.clip(start + low, 0, last)]
    above = ordered[jnp.clip(start + jnp.minimum(low + 1, jnp.maximum(count - 1, 0)), 0, last)]
    # Both ends by `where`, so that an infinite neighbour with weight 0 gives no NaN.
    between = below * (1 - step) + above * step
    value = jnp.where(step == 0, below, jnp.where(step == 1, above, between))
    return jnp.where(expand(count > 0, data), value, 0)


@in_wide
def segment_median(data: FloatRows, segment_ids: SegmentIds, num_segments: int) -> FloatSegments:
    """Lower median of each column of each segment (of an even number, the smaller middle one); 0 if it is empty.

    Arguments of `segment_sum`.
    """
    return segment_quantile(data, segment_ids, num_segments, 0.5, interpolation="lower")


def segment_argmax(data: FloatRows, segment_ids: SegmentIds, num_segments: int) -> Int[Array, " {num_segments} *dims"]:
    """First row that attains each segment's maximum, per column; an empty segment gives `rows`, out of range.

    Arguments and errors of `segment_sum`.
    """
    ids = checked_ids(data, segment_ids, num_segments)
    num_rows = data.shape[0]
    top = rows_of(segment_top(data, ids, num_segments), ids)
    rows = expand(jnp.arange(num_rows, dtype=jnp.int32), data)
    candidates = jnp.where((data == top) & expand(ids < num_segments, data), rows, num_rows)
    return jnp.full((num_segments, *data.shape[1:]), num_rows, jnp.int32).at[ids].min(candidates, mode="drop")
