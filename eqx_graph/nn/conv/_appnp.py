"""Personalised propagation of predictions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._dropout import drop, is_active, make_dropout
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Adjacency, AdjacencyLike, Flow, normalized
from ._neighbors import propagate
from ._sg import check_hops


class APPNP(eqx.Module):
    r"""Approximate personalised propagation of neural predictions (no parameters).

    $Z^{(k+1)} = (1 - \alpha)\, \hat S Z^{(k)} + \alpha X$, from $Z^{(0)} = X$ for $K$ steps, with
    $\hat S = \hat D^{-1/2} \hat A \hat D^{-1/2}$; the result has the shape of `x`.

    ??? cite "Reference"
        Gasteiger et al., Predict then Propagate: Graph Neural Networks meet Personalized PageRank, ICLR 2019, eq. 4.
        Deviations from PyTorch Geometric 2.8: those of `gcn_norm`; `cached` is replaced by passing an `Adjacency`.
    """

    alpha: float | Float[Array, ""]
    dropout: eqx.nn.Dropout
    aggregation: AbstractAggregation
    K: int = eqx.field(static=True)
    add_self_loops: bool = eqx.field(static=True)
    normalize: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        K: int,
        alpha: float | Float[Array, ""],
        *,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        normalize: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
    ):
        """**Arguments:**

        - `K`: number of propagation steps, at least 0.
        - `alpha`: teleport probability, the share of a node's own input at every step.
        - `dropout`: probability of dropping an edge weight, drawn anew at every step; active outside
            `eqx.nn.inference_mode`.
        - `add_self_loops`: give every node a self-loop if it has none (only with `normalize`).
        - `normalize`: symmetric normalisation on the fly; if False the edge weights are used as they are.
        - `aggr`: aggregation of the weighted neighbours, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.

        **Raises:** `ValueError` for a negative `K`.
        """
        self.alpha = alpha
        self.dropout = make_dropout(dropout)
        self.aggregation = as_aggregation(aggr)
        self.K = check_hops(K)
        self.add_self_loops = add_self_loops
        self.normalize = normalize
        self.flow = flow

    @jax.named_scope("eqx_graph.APPNP")
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        edge_index: AdjacencyLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "num_nodes features"]:
        """**Arguments:** as `GCNConv`; `key` draws the dropout masks.

        **Returns:** propagated features, the shape of `x`.

        **Raises:** `ValueError` if dropout is active and `key` is None.
        """
        loops = self.add_self_loops
        adjacency = normalized(
            x, edge_index, edge_weight, flow=self.flow, normalize=self.normalize, add_self_loops=loops
        )

        def step(z, step_key):
            z = propagate(_drop_edges(self.dropout, adjacency, step_key), z, self.aggregation)
            return (1.0 - self.alpha) * z + self.alpha * x, None

        keys = None if key is None else jr.split(key, self.K)
        return jax.lax.scan(step, x, keys, length=self.K)[0]


def _drop_edges(dropout: eqx.nn.Dropout, adjacency: Adjacency, key: PRNGKeyArray | None) -> Adjacency:
    """`adjacency` with dropout on its edge and self-loop weights."""
    if not is_active(dropout):
        return adjacency
    edge_key, loop_key = (None, None) if key is None else jr.split(key)
    weight, loop_weight = adjacency.weight, adjacency.loop_weight
    if weight is None:
        weight = jnp.ones(adjacency.edges.num_edges)
    loop_weight = None if loop_weight is None else drop(dropout, loop_weight, loop_key)
    return Adjacency(adjacency.edges, drop(dropout, weight, edge_key), loop_weight)
