"""Deep graph convolution with initial residual and identity mapping."""

import math

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._linear import check_features, check_sizes, glorot
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import AdjacencyLike, Flow, normalized
from ._neighbors import propagate


class GCN2Conv(eqx.Module):
    r"""Convolution of GCNII.

    $X' = \left((1 - \alpha) \hat S X + \alpha X^{(0)}\right) \left((1 - \beta) I + \beta W_1\right)$ with
    $\beta = \log(\theta / \ell + 1)$ in layer $\ell$ (1 without $\theta$); without `shared_weights`,
    $(1 - \alpha) \hat S X$ meets $W_1$ and $\alpha X^{(0)}$ meets $W_2$.

    ??? cite "Reference"
        Chen et al., Simple and Deep Graph Convolutional Networks, ICML 2020, eq. 5. Deviations from PyTorch Geometric
        2.8: those of `gcn_norm`; `cached` is replaced by passing an `Adjacency`.
    """

    weight1: Float[Array, "features features"]
    weight2: Float[Array, "features features"] | None
    alpha: float | Float[Array, ""]
    beta: float | Float[Array, ""]
    aggregation: AbstractAggregation
    add_self_loops: bool = eqx.field(static=True)
    normalize: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        alpha: float | Float[Array, ""],
        theta: float | None = None,
        layer: int | None = None,
        *,
        shared_weights: bool = True,
        add_self_loops: bool = True,
        normalize: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        r"""**Arguments:**

        - `in_features`: features per node, before and after.
        - `alpha`: share of the initial features.
        - `theta`, `layer`: strength of the identity mapping and number of the layer (from 1); both or neither.
        - `shared_weights`: one matrix for smoothed and initial features.
        - `add_self_loops`, `normalize`, `aggr`, `flow`: as `GCNConv`.
        - `key`: draws the Glorot-uniform matrices.

        **Raises:** `ValueError` if only one of `theta` and `layer` is given.
        """
        check_sizes(in_features=in_features)
        if (theta is None) != (layer is None):
            raise ValueError(f"`theta` and `layer` must be given together; got theta={theta} and layer={layer}.")
        k1, k2 = jr.split(key)
        self.weight1 = glorot(k1, (in_features, in_features))
        self.weight2 = None if shared_weights else glorot(k2, (in_features, in_features))
        self.alpha = alpha
        self.beta = 1.0 if theta is None or layer is None else math.log(theta / layer + 1.0)
        self.aggregation = as_aggregation(aggr)
        self.add_self_loops = add_self_loops
        self.normalize = normalize
        self.flow = flow

    @jax.named_scope("eqx_graph.GCN2Conv")
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        x_0: Float[Array, "num_nodes features"],
        edge_index: AdjacencyLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
    ) -> Float[Array, "num_nodes features"]:
        """**Arguments:** as `GCNConv`; `x_0` holds the features of the first layer. **Returns:** new node features."""
        check_features(x, self.weight1.shape[0])
        loops = self.add_self_loops
        adjacency = normalized(
            x, edge_index, edge_weight, flow=self.flow, normalize=self.normalize, add_self_loops=loops
        )
        smooth, initial = (1.0 - self.alpha) * propagate(adjacency, x, self.aggregation), self.alpha * x_0
        if self.weight2 is None:
            return self._mix(smooth + initial, self.weight1)
        return self._mix(smooth, self.weight1) + self._mix(initial, self.weight2)

    def _mix(self, h: Array, weight: Array) -> Array:
        return (1.0 - self.beta) * h + self.beta * (h @ weight)
