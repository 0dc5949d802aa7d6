"""The graph operator of higher-order networks: separate maps for a node and its neighbours."""

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import EdgeIndexLike
from .._linear import check_sizes
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, aggregated_features, as_aggregation
from ._adjacency import Flow, convolve
from ._neighbors import Nodes, endpoints, is_linear, neighbors


class GraphConv(eqx.Module):
    r"""Convolution of higher order, $x_i' = W_{\text{root}} x_i + W_{\text{rel}} \bigoplus_j w_{ji} x_j + b$.

    Sums and means take the linear route, with $W_{\text{rel}}$ on the side that has fewer features.

    ??? cite "Reference"
        Morris et al., Weisfeiler and Leman Go Neural: Higher-order Graph Neural Networks, AAAI 2019, eq. 5.
    """

    lin_rel: eqx.nn.Linear
    lin_root: eqx.nn.Linear
    aggregation: AbstractAggregation
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int | tuple[int, int],
        out_features: int,
        aggr: AggregationLike = "sum",
        *,
        bias: bool = True,
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`: features per node, or (senders', receivers') of a bipartite graph.
        - `out_features`: features per node of the result.
        - `aggr`: aggregation of the neighbours, or its name.
        - `bias`: learn an additive bias.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear maps.
        """
        check_sizes(in_features=in_features, out_features=out_features)
        in_src, in_dst = in_features if isinstance(in_features, tuple) else (in_features, in_features)
        k_aggr, k_rel, k_root = jr.split(key, 3)
        self.aggregation = as_aggregation(aggr, in_src, key=k_aggr)
        self.lin_rel = eqx.nn.Linear(
            aggregated_features(self.aggregation, in_src), out_features, use_bias=bias, key=k_rel
        )
        self.lin_root = eqx.nn.Linear(in_dst, out_features, use_bias=False, key=k_root)
        self.flow = flow

    @jax.named_scope("eqx_graph.GraphConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Float[Array, "num_receivers out"]:
        """**Arguments:** as `SAGEConv`; `edge_weight` is one weight per edge, in the caller's order.

        **Returns:** new receiver features, `(num_receivers, out_features)`.

        **Raises:** `ValueError` for wrong sizes.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, size, self.flow)

        def gather(h):
            return neighbors(self.aggregation, edges, h, edge_weight)

        root = None if x_dst is None else (self.lin_root, x_dst)
        return convolve(gather, self.lin_rel, x_src, is_linear=is_linear(self.aggregation), root=root)
