"""Norms by what they take."""

from ._batch import BatchNorm
from ._graph import GraphNorm
from ._instance import InstanceNorm
from ._layer import LayerNorm
from ._simple import GraphSizeNorm, MeanSubtractionNorm, PairNorm


NormByGraph = GraphNorm | GraphSizeNorm | InstanceNorm | LayerNorm | MeanSubtractionNorm | PairNorm
NormOverRows = BatchNorm | NormByGraph
