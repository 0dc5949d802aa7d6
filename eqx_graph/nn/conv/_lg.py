"""LightGCN's propagation: no weights, no nonlinearity."""

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import AdjacencyLike, Flow, normalized
from ._neighbors import propagate


class LGConv(eqx.Module):
    r"""Light graph convolution, $X' = D^{-1/2} A D^{-1/2} X$ without added self-loops (no parameters).

    ??? cite "Reference"
        He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation, SIGIR 2020, eq. 3.
        Deviations from PyTorch Geometric 2.8: those of `gcn_norm`.
    """

    aggregation: AbstractAggregation
    normalize: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(self, normalize: bool = True, *, aggr: AggregationLike = "sum", flow: Flow = "source_to_target"):
        """**Arguments:**

        - `normalize`: symmetric normalisation on the fly; if False the edge weights are used as they are.
        - `aggr`: aggregation of the weighted neighbours, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        """
        self.aggregation = as_aggregation(aggr)
        self.normalize = normalize
        self.flow = flow

    @jax.named_scope("eqx_graph.LGConv")
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        edge_index: AdjacencyLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
    ) -> Float[Array, "num_nodes out"]:
        """**Arguments:** as `GCNConv`. **Returns:** propagated features, the shape of `x` (one `aggr` given)."""
        adjacency = normalized(
            x, edge_index, edge_weight, flow=self.flow, normalize=self.normalize, add_self_loops=False
        )
        return propagate(adjacency, x, self.aggregation)
