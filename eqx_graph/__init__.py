"""Message passing in Equinox: a function on one edge, an aggregation, a function on one node."""

import importlib.metadata

from jaxtyping import install_import_hook

from . import _typecheck as _typecheck


# Shapes and types are checked at every public call; JAXTYPING_DISABLE=1 turns it off. The hook stays installed so that
# rooms imported later are checked too.
install_import_hook("eqx_graph", "eqx_graph._typecheck.on_first_call")

from . import nn as nn, ops as ops  # noqa: E402
from .data import (  # noqa: E402
    AbstractEdges as AbstractEdges,
    EdgeIndex as EdgeIndex,
    EdgeIndexLike as EdgeIndexLike,
    EdgeList as EdgeList,
    Graph as Graph,
    PaddingBudget as PaddingBudget,
    PaddingLadder as PaddingLadder,
    as_edges as as_edges,
    batch as batch,
    dynamic_batch as dynamic_batch,
    pad as pad,
    unbatch as unbatch,
    unpad as unpad,
)


__version__ = importlib.metadata.version("eqx-graph-dynamics")
