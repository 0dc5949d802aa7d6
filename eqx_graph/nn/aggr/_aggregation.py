"""Aggregations: how the messages that reach one node become one value."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, Int

from ...ops import segment_max, segment_mean, segment_min, segment_sum


class AbstractAggregation(eqx.Module):
    """A permutation-invariant reduction of rows grouped by `index`."""

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, " rows *dims"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, " num_segments *out"]:
        """Reduces the rows of each group; rows whose id lies outside `[0, num_segments)` contribute nothing."""


class Sum(AbstractAggregation):
    """Sum of the rows; an empty group gives 0."""

    def __call__(
        self, x: Float[Array, " rows *dims"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, " num_segments *dims"]:
        return segment_sum(x, index, num_segments)


class Mean(AbstractAggregation):
    """Mean of the rows; an empty group gives 0."""

    def __call__(
        self, x: Float[Array, " rows *dims"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, " num_segments *dims"]:
        return segment_mean(x, index, num_segments)


class Max(AbstractAggregation):
    """Largest entry; an empty group gives 0."""

    def __call__(
        self, x: Float[Array, " rows *dims"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, " num_segments *dims"]:
        return segment_max(x, index, num_segments)


class Min(AbstractAggregation):
    """Smallest entry; an empty group gives 0."""

    def __call__(
        self, x: Float[Array, " rows *dims"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, " num_segments *dims"]:
        return segment_min(x, index, num_segments)
