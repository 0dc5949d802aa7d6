"""Aggregations, as objects: `aggregation=Max()`."""

from ._aggregation import (
    AbstractAggregation as AbstractAggregation,
    AbstractStreamingAggregation as AbstractStreamingAggregation,
)
from ._multi import AggregationLike as AggregationLike, Multi as Multi, as_aggregation as as_aggregation
from ._ordered import LSTM as LSTM, Median as Median, Quantile as Quantile, Sort as Sort
from ._streaming import (
    LogSumExp as LogSumExp,
    Max as Max,
    Mean as Mean,
    Min as Min,
    Mul as Mul,
    PowerMean as PowerMean,
    Softmax as Softmax,
    Std as Std,
    Sum as Sum,
    Var as Var,
)
