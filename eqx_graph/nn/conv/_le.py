"""Local extremum convolution."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import EdgeIndexLike
from ...ops import matmul
from .._linear import check_sizes, project
from .._message_passing import MessagePassing
from ..aggr import AbstractAggregation, Sum
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow, arrange_weight
from ._neighbors import Nodes, endpoints


class LEConv(MessagePassing):
    r"""Local extremum operator, $x_i' = W_3 x_i + \sum_j w_{ji} (W_1 x_j - W_2 x_i)$, with biases in $W_1$ and $W_3$.

    The second term of the sum is $W_2 x_i$ times the sum of the weights that enter $i$. Any aggregation may take the
    place of the sum, over messages edge by edge.

    ??? cite "Reference"
        Ranjan et al., ASAP: Adaptive Structure Aware Pooling for Learning Hierarchical Graph Representations, AAAI
        2020, eq. 9.
    """

    lin1: eqx.nn.Linear
    lin2: eqx.nn.Linear
    lin3: eqx.nn.Linear
    aggregation: AbstractAggregation
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int | tuple[int, int],
        out_features: int,
        *,
        bias: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`: features per node, or (senders', receivers') of a bipartite graph.
        - `out_features`: features per node of the result.
        - `bias`: biases in `lin1` and `lin3`.
        - `aggr`: aggregation of the messages, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear maps.
        """
        check_sizes(in_features=in_features, out_features=out_features)
        src, dst = in_features if isinstance(in_features, tuple) else (in_features, in_features)
        keys = jr.split(key, 3)
        self.lin1 = eqx.nn.Linear(src, out_features, use_bias=bias, key=keys[0])
        self.lin2 = eqx.nn.Linear(dst, out_features, use_bias=False, key=keys[1])
        self.lin3 = eqx.nn.Linear(dst, out_features, use_bias=bias, key=keys[2])
        self.aggregation = as_aggregation(aggr)
        self.flow = flow

    def message(
        self, sent_j: Float[Array, " out"], own_i: Float[Array, " out"], edge_weight: Float[Array, ""] | None
    ) -> Float[Array, " out"]:
        return sent_j - own_i if edge_weight is None else edge_weight * (sent_j - own_i)

    @jax.named_scope("eqx_graph.LEConv")
    def __call__(
        self, x: Nodes, edge_index: EdgeIndexLike, edge_weight: Float[Array, " num_edges"] | None = None
    ) -> Float[Array, "num_receivers out"]:
        """**Arguments:** as `GraphConv`. **Returns:** new receiver features, `(num_receivers, out_features)`."""
        x_src, x_dst, edges = endpoints(x, edge_index, None, self.flow)
        if x_dst is None:
            raise ValueError("`x` must hold features of receivers too; got (x_src, None).")
        weight = arrange_weight(edges, edge_weight)
        weight = None if weight is None else weight.astype(x_src.dtype)
        sent, own, root = project(self.lin1, x_src), project(self.lin2, x_dst), project(self.lin3, x_dst)
        if not isinstance(self.aggregation, Sum):
            weight = None if weight is None else edges.restore(weight)
            return self.propagate(edges, sent=(sent, None), own=(None, own), edge_weight=weight) + root
        total = matmul(edges, weight, jnp.ones((edges.num_senders, 1), x_src.dtype))
        return matmul(edges, weight, sent) - total * own + root
