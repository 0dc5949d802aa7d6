"""Normalisation over nodes and graphs."""

from ._batch import BatchNorm as BatchNorm, RunningStatistics as RunningStatistics
from ._graph import GraphNorm as GraphNorm
from ._instance import InstanceNorm as InstanceNorm
from ._layer import LayerNorm as LayerNorm
from ._simple import (
    GraphSizeNorm as GraphSizeNorm,
    MeanSubtractionNorm as MeanSubtractionNorm,
    MessageNorm as MessageNorm,
    PairNorm as PairNorm,
)
