"""Aggregation of neighbours with nothing to learn."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...data import EdgeIndexLike
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow
from ._neighbors import Nodes, endpoints, neighbors


CombineRoot = Literal["sum", "cat", "self_loop"] | None


class SimpleConv(eqx.Module):
    r"""$x_i' = \bigoplus_{j \in N(i)} w_{ji} x_j$, combined with $x_i$ if asked (no parameters).

    ??? cite "Reference"
        The propagation step of Wu et al., A Comprehensive Survey on Graph Neural Networks, IEEE TNNLS 2021, eq. 18,
        with weights for the learned function; behaviour as `SimpleConv` of PyTorch Geometric 2.8.
    """

    aggregation: AbstractAggregation
    combine_root: CombineRoot = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        aggr: AggregationLike = "sum",
        combine_root: CombineRoot = None,
        *,
        flow: Flow = "source_to_target",
    ):
        """**Arguments:**

        - `aggr`: aggregation of the neighbours, its name, or a list of either, whose results are concatenated.
        - `combine_root`: None, `"sum"` (add the node), `"cat"` (put it in front), or `"self_loop"` (aggregate it with
            its neighbours, with weight 1).
        - `flow`: `"source_to_target"` or `"target_to_source"`.

        **Raises:** `ValueError` for an unknown `combine_root`.
        """
        if combine_root not in (None, "sum", "cat", "self_loop"):
            raise ValueError(f"`combine_root` must be 'sum', 'cat', 'self_loop' or None; got {combine_root!r}.")
        self.aggregation = as_aggregation(aggr)
        self.combine_root = combine_root
        self.flow = flow

    @jax.named_scope("eqx_graph.SimpleConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Float[Array, "num_receivers out"]:
        """**Arguments:** as `GraphConv`.

        **Returns:** `(num_receivers, features)`, more columns with `"cat"`.

        **Raises:** `ValueError` for wrong sizes, or a bipartite graph with `"self_loop"`.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, size, self.flow)
        if self.combine_root == "self_loop":
            if isinstance(x, tuple):
                raise ValueError("`x` must be one array with `combine_root='self_loop'`; got a pair.")
            edges = edges.with_self_loops(existing="keep")
            if edge_weight is not None:
                edge_weight = jnp.concatenate([edge_weight, jnp.ones(x_src.shape[0], edge_weight.dtype)])
        out = neighbors(self.aggregation, edges, x_src, edge_weight)
        if self.combine_root == "sum" and x_dst is not None:
            return out + x_dst
        if self.combine_root == "cat" and x_dst is not None:
            return jnp.concatenate([x_dst, out], axis=-1)
        return out
