"""Normalisation over nodes and graphs."""

from ._batch import BatchNorm as BatchNorm, RunningStatistics as RunningStatistics
from ._graph import GraphNorm as GraphNorm
from ._layer import LayerNorm as LayerNorm
