"""Topology-adaptive convolution: a polynomial of the adjacency with a matrix for every power."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._linear import add_bias, check_features, check_sizes
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import AdjacencyLike, Flow, normalized
from ._neighbors import is_linear, propagate
from ._sg import check_hops


class TAGConv(eqx.Module):
    r"""Topology-adaptive graph convolution, $X' = \sum_{k=0}^{K} (D^{-1/2} A D^{-1/2})^k X W_k^\top + b$.

    Evaluated from the highest power down (Horner's rule) where the output has fewer features than the input.

    ??? cite "Reference"
        Du et al., Topology Adaptive Graph Convolutional Networks, arXiv 1710.10370, 2017, eq. 2. Deviations from
        PyTorch Geometric 2.8: those of `gcn_norm`.
    """

    lins: list[eqx.nn.Linear]
    bias: Float[Array, " out"] | None
    aggregation: AbstractAggregation
    normalize: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        K: int = 3,
        bias: bool = True,
        normalize: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`, `out_features`: features per node before and after.
        - `K`: highest power of the adjacency (number of hops), at least 0.
        - `bias`: learn an additive bias, zero at first.
        - `normalize`: symmetric normalisation on the fly; if False the edge weights are used as they are.
        - `aggr`: aggregation of the weighted neighbours, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear maps.

        **Raises:** `ValueError` for a negative `K`.
        """
        check_sizes(in_features=in_features, out_features=out_features)
        keys = jr.split(key, check_hops(K) + 1)
        self.lins = [eqx.nn.Linear(in_features, out_features, use_bias=False, key=k) for k in keys]
        self.bias = jnp.zeros(out_features) if bias else None
        self.aggregation = as_aggregation(aggr)
        self.normalize = normalize
        self.flow = flow

    @jax.named_scope("eqx_graph.TAGConv")
    def __call__(
        self,
        x: Float[Array, "num_nodes in"],
        edge_index: AdjacencyLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
    ) -> Float[Array, "num_nodes out"]:
        """**Arguments:** as `GCNConv`. **Returns:** new node features, `(num_nodes, out_features)`."""
        out_features, in_features = self.lins[0].weight.shape
        check_features(x, in_features)
        adjacency = normalized(
            x, edge_index, edge_weight, flow=self.flow, normalize=self.normalize, add_self_loops=False
        )
        first, *higher = [lin.weight.T for lin in self.lins]
        if is_linear(self.aggregation) and out_features < in_features:
            out = x @ self.lins[-1].weight.T
            for lin in self.lins[-2::-1]:
                out = propagate(adjacency, out, self.aggregation) + x @ lin.weight.T
            return add_bias(out, self.bias)
        out = x @ first
        for weight in higher:
            x = propagate(adjacency, x, self.aggregation)
            out = out + x @ weight
        return add_bias(out, self.bias)
