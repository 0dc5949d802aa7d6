from ._edges import (
    AbstractEdges as AbstractEdges,
    EdgeIndex as EdgeIndex,
    EdgeIndexLike as EdgeIndexLike,
    EdgeList as EdgeList,
    as_edges as as_edges,
)
