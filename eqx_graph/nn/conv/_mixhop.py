"""Several powers of the adjacency, side by side."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._linear import add_bias, check_features, check_sizes, project
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import AdjacencyLike, Flow, normalized
from ._neighbors import propagate


class MixHopConv(eqx.Module):
    r"""MixHop convolution, $X' = \Vert_{p \in P} \hat S^p X W_p^\top + b$.

    ??? cite "Reference"
        Abu-El-Haija et al., MixHop: Higher-Order Graph Convolutional Architectures via Sparsified Neighborhood Mixing,
        ICML 2019, eq. 4. Deviations from PyTorch Geometric 2.8: those of `gcn_norm`.
    """

    lins: list[eqx.nn.Linear | None]
    bias: Float[Array, " out"] | None
    aggregation: AbstractAggregation
    powers: tuple[int, ...] = eqx.field(static=True)
    add_self_loops: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        powers: Sequence[int] = (0, 1, 2),
        *,
        add_self_loops: bool = True,
        bias: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`: features per node.
        - `out_features`: features per power (`len(powers) * out_features` in all).
        - `powers`: powers of the adjacency, none below 0.
        - `add_self_loops`: give every node a self-loop if it has none.
        - `bias`: learn an additive bias, zero at first.
        - `aggr`: aggregation of the weighted neighbours, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear maps.

        **Raises:** `ValueError` for no power, or one below 0.
        """
        check_sizes(in_features=in_features, out_features=out_features)
        if len(powers) == 0 or min(powers) < 0:
            raise ValueError(f"`powers` must hold at least one number, none below 0; got {list(powers)}.")
        keys = jr.split(key, max(powers) + 1)
        self.lins = [
            eqx.nn.Linear(in_features, out_features, use_bias=False, key=k) if p in powers else None
            for p, k in enumerate(keys)
        ]
        self.bias = jnp.zeros(len(powers) * out_features) if bias else None
        self.aggregation = as_aggregation(aggr)
        self.powers = tuple(powers)
        self.add_self_loops = add_self_loops
        self.flow = flow

    @jax.named_scope("eqx_graph.MixHopConv")
    def __call__(
        self,
        x: Float[Array, "num_nodes in"],
        edge_index: AdjacencyLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
    ) -> Float[Array, "num_nodes out"]:
        """**Arguments:** as `GCNConv`. **Returns:** new node features, `(num_nodes, len(powers) * out_features)`."""
        check_features(x, next(int(lin.in_features) for lin in self.lins if lin is not None))
        adjacency = normalized(x, edge_index, edge_weight, flow=self.flow, add_self_loops=self.add_self_loops)
        results = {}
        for p, lin in enumerate(self.lins):
            x = propagate(adjacency, x, self.aggregation) if p > 0 else x
            if lin is not None:
                results[p] = project(lin, x)
        return add_bias(jnp.concatenate([results[p] for p in self.powers], axis=-1), self.bias)
