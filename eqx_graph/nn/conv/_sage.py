"""GraphSAGE: a node beside the aggregate of its neighbours."""

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import EdgeIndexLike
from .._activation import relu
from .._linear import check_sizes, project
from .._unit import unit_rows
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, aggregated_features, as_aggregation
from ._adjacency import Flow, convolve
from ._neighbors import Nodes, endpoints, is_linear, neighbors


class SAGEConv(eqx.Module):
    r"""GraphSAGE, $x_i' = W_l \bigoplus_{j \in N(i)} x_j + b + W_r x_i$, optionally scaled to unit length.

    With `project`, neighbours send $\mathrm{ReLU}(W x_j + c)$. Sums and means take the linear route, with $W_l$ on
    the side of the propagation that has fewer features.

    ??? cite "Reference"
        Hamilton et al., Inductive Representation Learning on Large Graphs, NeurIPS 2017, algorithm 1. Deviation from
        PyTorch Geometric 2.8: with `normalize`, a zero row has a zero gradient (PyG: 1e12 times the cotangent).
    """

    lin: eqx.nn.Linear | None
    lin_l: eqx.nn.Linear
    lin_r: eqx.nn.Linear | None
    aggregation: AbstractAggregation
    normalize: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int | tuple[int, int],
        out_features: int,
        aggr: AggregationLike = "mean",
        *,
        normalize: bool = False,
        root_weight: bool = True,
        project: bool = False,
        bias: bool = True,
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`: features per node, or (senders', receivers') of a bipartite graph.
        - `out_features`: features per node of the result.
        - `aggr`: an aggregation, its name (`"mean"`, `"max"`, `"lstm"`, ...), or a list of either, whose results are
            concatenated.
        - `normalize`: scale every row of the result to unit length.
        - `root_weight`: add the node's own features through `lin_r`.
        - `project`: send neighbours' features through `lin` and ReLU first.
        - `bias`: learn an additive bias.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear maps.
        """
        check_sizes(in_features=in_features, out_features=out_features)
        in_src, in_dst = in_features if isinstance(in_features, tuple) else (in_features, in_features)
        k_aggr, k_lin, k_l, k_r = jr.split(key, 4)
        self.aggregation = as_aggregation(aggr, in_src, key=k_aggr)
        self.lin = eqx.nn.Linear(in_src, in_src, key=k_lin) if project else None
        self.lin_l = eqx.nn.Linear(aggregated_features(self.aggregation, in_src), out_features, use_bias=bias, key=k_l)
        self.lin_r = eqx.nn.Linear(in_dst, out_features, use_bias=False, key=k_r) if root_weight else None
        self.normalize = normalize
        self.flow = flow

    @jax.named_scope("eqx_graph.SAGEConv")
    def __call__(
        self, x: Nodes, edge_index: EdgeIndexLike, size: tuple[int, int] | None = None
    ) -> Float[Array, "num_receivers out"]:
        """**Arguments:**

        - `x`: node features, or (senders', receivers') with None for receivers that have none.
        - `edge_index`: `(2, num_edges)` integers or an `EdgeIndex`.
        - `size`: (number of senders, number of receivers), needed only with `(x, None)` and an array of edges.

        **Returns:** new receiver features, `(num_receivers, out_features)`.

        **Raises:** `ValueError` for wrong sizes.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, size, self.flow)
        if self.lin is not None:
            x_src = relu(project(self.lin, x_src))

        def gather(h):
            return neighbors(self.aggregation, edges, h)

        root = None if self.lin_r is None or x_dst is None else (self.lin_r, x_dst)
        out = convolve(gather, self.lin_l, x_src, is_linear=is_linear(self.aggregation), root=root)
        return unit_rows(out) if self.normalize else out
