"""Graphs and their edge layouts; joining, padding and budgets, on the host."""

from ._batch import batch as batch, pad as pad, unbatch as unbatch, unpad as unpad
from ._budget import (
    AbstractBudget as AbstractBudget,
    PaddingBudget as PaddingBudget,
    PaddingLadder as PaddingLadder,
)
from ._edge_convert import (
    edges_from_bcsr as edges_from_bcsr,
    edges_from_scipy as edges_from_scipy,
    edges_to_bcsr as edges_to_bcsr,
    edges_to_scipy as edges_to_scipy,
)
from ._edge_index import EdgeIndex as EdgeIndex
from ._edges import (
    AbstractEdges as AbstractEdges,
    EdgeIndexLike as EdgeIndexLike,
    EdgeList as EdgeList,
    as_edges as as_edges,
)
from ._graph import Graph as Graph
from ._padding import DynamicBatches as DynamicBatches, PaddingReport as PaddingReport, dynamic_batch as dynamic_batch
