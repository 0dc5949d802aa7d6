"""Aggregations, as objects: `aggregation=Max()`."""

from ._aggregation import (
    AbstractAggregation as AbstractAggregation,
    Max as Max,
    Mean as Mean,
    Min as Min,
    Sum as Sum,
)
