"""What the laws hold for: one line per layer, aggregation or cell; `test_laws_*.py` check every law for each."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from jaxtyping import PRNGKeyArray

import eqx_graph.nn as egnn
import eqx_graph.nn.aggr as aggr


NUM_FEATURES = 5
EDGE_FEATURES = 3


class Conv(NamedTuple):
    """A layer called as `layer(x, edge_index)` or, if `edge` names a per-edge argument, `layer(x, edge_index, value)`.

    `x` has `NUM_FEATURES` features, an `edge_attr` `EDGE_FEATURES`, an `edge_weight` is one positive number.
    """

    make: Callable[[PRNGKeyArray], Any]
    edge: Literal["edge_weight", "edge_attr"] | None = None
    smooth: bool = True  # False where a derivative jumps too often for finite differences (max, median, ...)


CONVS: dict[str, Conv] = {
    "GCNConv": Conv(lambda key: egnn.GCNConv(5, 4, key=key), "edge_weight"),
    "GCNConv-nonorm": Conv(lambda key: egnn.GCNConv(5, 7, normalize=False, key=key), "edge_weight"),
    "SAGEConv": Conv(lambda key: egnn.SAGEConv(5, 4, key=key)),
    "GraphConv": Conv(lambda key: egnn.GraphConv(5, 4, key=key), "edge_weight"),
    "APPNP": Conv(lambda key: egnn.APPNP(2, 0.1), "edge_weight"),
    "ChebConv": Conv(lambda key: egnn.ChebConv(5, 4, 3, key=key), "edge_weight"),
    "LGConv": Conv(lambda key: egnn.LGConv(), "edge_weight"),
    "SGConv": Conv(lambda key: egnn.SGConv(5, 4, K=2, key=key), "edge_weight"),
    "TAGConv": Conv(lambda key: egnn.TAGConv(5, 4, K=2, key=key), "edge_weight"),
}

# Rows grouped by an index, `aggregation(x, index, num_segments)`.
AGGREGATIONS: dict[str, Callable[[PRNGKeyArray], Any]] = {
    "Sum": lambda key: aggr.Sum(),
    "Mean": lambda key: aggr.Mean(),
    "Max": lambda key: aggr.Max(),
    "Min": lambda key: aggr.Min(),
}
