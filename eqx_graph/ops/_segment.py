"""Reductions over segments: rows of `data` grouped by an integer id, in any order.

In every operation here ids outside `[0, num_segments)` count nowhere, `num_segments` is a static int that sets the
number of rows of the result, and gradients are finite wherever the data are. 16-bit floats are reduced in float32.
"""

import functools as ft
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from .._kernels import accumulator_dtype, alone
from .._ruled import ruled
from ..data._edge_build import is_outside


SegmentIds = Int[Array, " rows"]
FloatRows = Float[Array, " rows *dims"]
FloatSegments = Float[Array, " {num_segments} *dims"]
F = TypeVar("F", bound=Callable[..., Array])


def expand(per_row: Array, like: Array) -> Array:
    """`per_row` with trailing axes of size one added, as many axes as `like`."""
    return jnp.reshape(per_row, (*per_row.shape, *[1] * (like.ndim - per_row.ndim)))


def checked_ids(data: Array, segment_ids: Array, num_segments: int) -> Array:
    """The ids, with every one out of range moved to the spare id `num_segments`, which is dropped below."""
    if data.shape[0] != segment_ids.shape[0]:
        raise ValueError(
            f"`segment_ids` must hold one id for each of the {data.shape[0]} rows of `data`; "
            f"got {segment_ids.shape[0]}."
        )
    if num_segments < 0:
        raise ValueError(f"`num_segments` must not be negative; got {num_segments}.")
    return jnp.where(is_outside(segment_ids, num_segments), num_segments, segment_ids.astype(jnp.int32))


def add_up(data: Array, ids: Array, num_segments: int) -> Array:
    """Sum per checked id."""
    return jnp.zeros((num_segments, *data.shape[1:]), data.dtype).at[ids].add(data, mode="drop")


def in_wide(reduction: F) -> F:
    """Computes a reduction of 16-bit floats in float32, to round once: a sum of ones in bfloat16 stops at 256."""
    first = next(iter(inspect.signature(reduction).parameters))

    @ft.wraps(reduction)
    def widened(*args: Any, **kwargs: Any) -> Array:
        data: Any = args[0] if args else kwargs.get(first)
        dtype = getattr(data, "dtype", None)
        if dtype is None or accumulator_dtype(dtype) == dtype:
            return reduction(*args, **kwargs)
        kwargs.pop(first, None)
        return reduction(jnp.asarray(data, accumulator_dtype(dtype)), *args[1:], **kwargs).astype(dtype)

    return cast(F, widened)


def rows_of(per_segment: Array, ids: Array) -> Array:
    """Each row's segment's value; rows without a segment read zero."""
    return per_segment.at[ids].get(mode="fill", fill_value=0)


def _lowest(dtype: jnp.dtype) -> Array:
    low = -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min
    return jnp.asarray(low, dtype)


def segment_count(segment_ids: SegmentIds, num_segments: int) -> Int[Array, " {num_segments}"]:
    """Number of rows of each segment."""
    ids = checked_ids(segment_ids, segment_ids, num_segments)
    return jnp.zeros(num_segments, jnp.int32).at[ids].add(1, mode="drop")


@in_wide
def segment_sum(
    data: Shaped[Array, " rows *dims"], segment_ids: SegmentIds, num_segments: int
) -> Shaped[Array, " {num_segments} *dims"]:
    r"""Sum of the rows of each segment, $y_s = \sum_{e : s(e) = s} x_e$; an empty segment gives 0.

    **Arguments:**

    - `data`: one row per entry, any trailing shape and dtype.
    - `segment_ids`: the segment of each row, in any order; ids outside `[0, num_segments)` count nowhere.
    - `num_segments`: static int.

    **Returns:** `(num_segments, *dims)`.

    **Raises:** `ValueError` if the leading sizes differ or `num_segments` is negative.
    """
    return add_up(data, checked_ids(data, segment_ids, num_segments), num_segments)


@in_wide
def segment_mean(data: FloatRows, segment_ids: SegmentIds, num_segments: int) -> FloatSegments:
    """Mean of the rows of each segment; an empty segment gives 0. Arguments and errors of `segment_sum`."""
    count = jnp.maximum(segment_count(segment_ids, num_segments), 1).astype(data.dtype)
    return segment_sum(data, segment_ids, num_segments) / expand(count, data)


@jax.custom_jvp
def _max(data: Array, ids: Array, fill: Array) -> Array:
    return fill.at[ids].max(data, mode="drop")


@_max.defjvp
def _max_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    data, ids, fill = primals
    data = alone(lambda d: d, data)
    out, num_segments = _max(data, ids, fill), fill.shape[0]
    is_max = (data == rows_of(out, ids)) & expand(ids < num_segments, data)
    ties = jnp.maximum(add_up(is_max.astype(data.dtype), ids, num_segments), 1)
    return out, add_up(jnp.where(is_max, tangents[0], 0), ids, num_segments) / ties


def segment_top(data: Array, segment_ids: Array, num_segments: int) -> Array:
    """Largest entry of each segment, the lowest value of the dtype where it is empty; ties share the gradient."""
    ids = checked_ids(data, segment_ids, num_segments)
    return _max(data, ids, jnp.full((num_segments, *data.shape[1:]), _lowest(data.dtype)))


@in_wide
def segment_max(
    data: Shaped[Array, " rows *dims"], segment_ids: SegmentIds, num_segments: int
) -> Shaped[Array, " {num_segments} *dims"]:
    """Largest entry of each segment; an empty segment gives 0. Ties share the gradient evenly.

    Arguments and errors of `segment_sum`.
    """
    filled = expand(segment_count(segment_ids, num_segments) > 0, data)
    return jnp.where(filled, segment_top(data, segment_ids, num_segments), jnp.zeros((), data.dtype))


@in_wide
def segment_min(
    data: Shaped[Array, " rows *dims"], segment_ids: SegmentIds, num_segments: int
) -> Shaped[Array, " {num_segments} *dims"]:
    """Smallest entry of each segment; an empty segment gives 0. Ties share the gradient evenly.

    Arguments and errors of `segment_sum`.
    """
    if jnp.issubdtype(data.dtype, jnp.floating):
        return -segment_max(-data, segment_ids, num_segments)
    # The complement reverses the order of integers, unsigned ones and the lowest one included.
    filled = expand(segment_count(segment_ids, num_segments) > 0, data)
    return jnp.where(filled, ~segment_top(~data, segment_ids, num_segments), jnp.zeros((), data.dtype))


def _product(data: Array, ids: Array, ones: Array) -> Array:
    return ones.at[ids].multiply(jnp.where(data == 0, 1, data), mode="drop")


def _product_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    data, ids, ones = primals
    out = _nonzero_product(data, ids, ones)
    ratio = jnp.where(data == 0, 0, tangents[0] / jnp.where(data == 0, 1, data))
    return out, out * add_up(ratio, ids, ones.shape[0])


_nonzero_product = ruled(_product, _product_jvp)


@in_wide
def segment_mul(data: FloatRows, segment_ids: SegmentIds, num_segments: int) -> FloatSegments:
    """Product of the rows of each segment; an empty segment gives 1. Gradients are exact at zero factors too.

    Arguments and errors of `segment_sum`.
    """
    ids = checked_ids(data, segment_ids, num_segments)
    data = alone(lambda d: d, data)
    product = _nonzero_product(data, ids, jnp.ones((num_segments, *data.shape[1:]), data.dtype))
    # The zero factors, one or two of them, multiply the rest as themselves: right to second order.
    zeros = jnp.where(data == 0, data, 0)
    count, total, squares = (add_up(v, ids, num_segments) for v in ((data == 0).astype(data.dtype), zeros, zeros**2))
    return with_zero_factors(product, count, total, squares)


def with_zero_factors(product: Array, count: Array, total: Array, squares: Array) -> Array:
    """The product of nonzero factors times `count` zero ones, given the sums of these and of their squares."""
    pair = (total**2 - squares) / 2
    return product * jnp.where(count == 0, 1, jnp.where(count == 1, total, jnp.where(count == 2, pair, 0)))


@in_wide
def segment_var(data: FloatRows, segment_ids: SegmentIds, num_segments: int, *, ddof: int = 0) -> FloatSegments:
    r"""Variance of each segment, $\frac{1}{n - \mathrm{ddof}} \sum (x - \bar{x})^2$; 0 with `ddof` rows or fewer.

    The mean is subtracted first, so nothing cancels in large values. Arguments and errors of `segment_sum`.
    """
    ids = checked_ids(data, segment_ids, num_segments)
    mean = segment_mean(data, segment_ids, num_segments)
    square = jnp.square(data - rows_of(mean, ids))
    freedom = jnp.maximum(segment_count(segment_ids, num_segments) - ddof, 1).astype(data.dtype)
    return add_up(square, ids, num_segments) / expand(freedom, data)


@in_wide
def segment_std(data: FloatRows, segment_ids: SegmentIds, num_segments: int, *, ddof: int = 0) -> FloatSegments:
    """Square root of `segment_var`, with gradient 0 (not NaN) where the variance is 0."""
    variance = segment_var(data, segment_ids, num_segments, ddof=ddof)
    return jnp.where(variance == 0, 0, jnp.sqrt(jnp.where(variance == 0, 1, variance)))
