"""Simplified convolutions: several propagations, one linear map."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._linear import check_sizes
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import AdjacencyLike, Flow, convolve, normalized
from ._neighbors import is_linear, propagate


class SGConv(eqx.Module):
    r"""Simplified graph convolution, $X' = \hat S^K X W^\top + b$ with $\hat S = \hat D^{-1/2} \hat A \hat D^{-1/2}$.

    ??? cite "Reference"
        Wu et al., Simplifying Graph Convolutional Networks, ICML 2019, eq. 8. Deviations from PyTorch Geometric 2.8:
        those of `gcn_norm`; `cached` is replaced by passing an `Adjacency`.
    """

    lin: eqx.nn.Linear
    aggregation: AbstractAggregation
    K: int = eqx.field(static=True)
    add_self_loops: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        K: int = 1,
        add_self_loops: bool = True,
        bias: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`, `out_features`: features per node before and after.
        - `K`: number of propagations (hops), at least 0.
        - `add_self_loops`: give every node a self-loop if it has none.
        - `bias`: learn an additive bias.
        - `aggr`: aggregation of the weighted neighbours, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear map.

        **Raises:** `ValueError` for a negative `K`.
        """
        check_sizes(in_features=in_features, out_features=out_features)
        self.lin = eqx.nn.Linear(in_features, out_features, use_bias=bias, key=key)
        self.aggregation = as_aggregation(aggr)
        self.K = check_hops(K)
        self.add_self_loops = add_self_loops
        self.flow = flow

    @jax.named_scope("eqx_graph.SGConv")
    def __call__(
        self,
        x: Float[Array, "num_nodes in"],
        edge_index: AdjacencyLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
    ) -> Float[Array, "num_nodes out"]:
        """**Arguments:** as `GCNConv`. **Returns:** new node features, `(num_nodes, out_features)`."""
        adjacency = normalized(x, edge_index, edge_weight, flow=self.flow, add_self_loops=self.add_self_loops)

        def hop(x, _):
            return propagate(adjacency, x, self.aggregation), None

        def hops(x):
            return jax.lax.scan(hop, x, length=self.K)[0]

        return convolve(hops, self.lin, x, is_linear=is_linear(self.aggregation))


class SSGConv(eqx.Module):
    r"""Simple spectral graph convolution.

    $X' = \left(\alpha X + \frac{1 - \alpha}{K} \sum_{k=1}^{K} \hat S^k X\right) W^\top + b$.

    ??? cite "Reference"
        Zhu and Koniusz, Simple Spectral Graph Convolution, ICLR 2021, eq. 8. Deviations from PyTorch Geometric 2.8:
        those of `gcn_norm`; `cached` is replaced by passing an `Adjacency`.
    """

    lin: eqx.nn.Linear
    alpha: float | Float[Array, ""]
    aggregation: AbstractAggregation
    K: int = eqx.field(static=True)
    add_self_loops: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        alpha: float | Float[Array, ""],
        *,
        K: int = 1,
        add_self_loops: bool = True,
        bias: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`, `out_features`: features per node before and after.
        - `alpha`: share of a node's own features, between 0 and 1.
        - `K`: number of propagations (hops), at least 1.
        - `add_self_loops`: give every node a self-loop if it has none.
        - `bias`: learn an additive bias.
        - `aggr`: aggregation of the weighted neighbours, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear map.

        **Raises:** `ValueError` for `K` below 1.
        """
        check_sizes(in_features=in_features, out_features=out_features)
        self.lin = eqx.nn.Linear(in_features, out_features, use_bias=bias, key=key)
        self.alpha = alpha
        self.aggregation = as_aggregation(aggr)
        self.K = check_hops(K, least=1)
        self.add_self_loops = add_self_loops
        self.flow = flow

    @jax.named_scope("eqx_graph.SSGConv")
    def __call__(
        self,
        x: Float[Array, "num_nodes in"],
        edge_index: AdjacencyLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
    ) -> Float[Array, "num_nodes out"]:
        """**Arguments:** as `GCNConv`. **Returns:** new node features, `(num_nodes, out_features)`."""
        adjacency = normalized(x, edge_index, edge_weight, flow=self.flow, add_self_loops=self.add_self_loops)
        share = (1.0 - self.alpha) / self.K

        def hop(carry, _):
            h, total = carry
            h = propagate(adjacency, h, self.aggregation)
            return (h, total + share * h), None

        def mean_of_hops(x):
            return jax.lax.scan(hop, (x, self.alpha * x), length=self.K)[0][1]

        return convolve(mean_of_hops, self.lin, x, is_linear=is_linear(self.aggregation))


def check_hops(K: int, least: int = 0) -> int:
    """`K`, or a `ValueError` if it is below `least`."""
    if least > K:
        raise ValueError(f"`K` (number of hops) must be at least {least}; got {K}.")
    return K
