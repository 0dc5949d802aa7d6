"""Graph convolution: the normalised adjacency times linear features."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._linear import add_bias, check_sizes, glorot_linear, project
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import AdjacencyLike, Flow, convolve, normalized
from ._neighbors import is_linear, propagate


class GCNConv(eqx.Module):
    r"""Graph convolution, $X' = \hat D^{-1/2} \hat A \hat D^{-1/2} X W^\top + b$ with $\hat A = A + I$.

    `x` is `(num_nodes, in_features)`, $W$ is `(out_features, in_features)`. The linear map is applied on whichever
    side of the propagation has fewer features.

    ??? cite "Reference"
        Kipf and Welling, Semi-Supervised Classification with Graph Convolutional Networks, ICLR 2017, eq. 2.
        Deviations from PyTorch Geometric 2.8: those of `gcn_norm`; `cached` is replaced by passing an `Adjacency`.
    """

    lin: eqx.nn.Linear
    bias: Float[Array, " out"] | None
    aggregation: AbstractAggregation
    improved: bool = eqx.field(static=True)
    add_self_loops: bool = eqx.field(static=True)
    normalize: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        improved: bool = False,
        add_self_loops: bool | None = None,
        normalize: bool = True,
        bias: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`, `out_features`: features per node before and after.
        - `improved`: self-loops of weight 2 in place of 1.
        - `add_self_loops`: give every node a self-loop if it has none; as `normalize` says if None.
        - `normalize`: symmetric normalisation on the fly; if False the edge weights are used as they are.
        - `bias`: learn an additive bias, zero at first.
        - `aggr`: aggregation of the weighted neighbours, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the Glorot-uniform weight.

        **Raises:** `ValueError` for `add_self_loops=True` with `normalize=False`.
        """
        check_sizes(in_features=in_features, out_features=out_features)
        add_self_loops = normalize if add_self_loops is None else add_self_loops
        if add_self_loops and not normalize:
            raise ValueError(
                "`add_self_loops` must be False when `normalize` is False; got True. "
                "Add the loops to the graph with `EdgeIndex.with_self_loops`."
            )
        self.lin = glorot_linear(in_features, out_features, key=key)
        self.bias = jnp.zeros(out_features) if bias else None
        self.aggregation = as_aggregation(aggr)
        self.improved = improved
        self.add_self_loops = add_self_loops
        self.normalize = normalize
        self.flow = flow

    @jax.named_scope("eqx_graph.GCNConv")
    def __call__(
        self,
        x: Float[Array, "num_nodes in"],
        edge_index: AdjacencyLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
    ) -> Float[Array, "num_nodes out"]:
        """**Arguments:**

        - `x`: node features.
        - `edge_index`: `(2, num_edges)` integers, an `EdgeIndex`, or an `Adjacency` made by `gcn_norm`.
        - `edge_weight`: one weight per edge, in the caller's order.

        **Returns:** new node features, `(num_nodes, out_features)`, in the dtype of `x`.

        **Raises:** `ValueError` for a wrong number of features or of weights.
        """
        options = {"normalize": self.normalize, "improved": self.improved, "add_self_loops": self.add_self_loops}
        adjacency = normalized(x, edge_index, edge_weight, flow=self.flow, **options)

        def smooth(h):
            return propagate(adjacency, h, self.aggregation)

        out = convolve(smooth, self.lin, x) if is_linear(self.aggregation) else smooth(project(self.lin, x))
        return add_bias(out, self.bias)
