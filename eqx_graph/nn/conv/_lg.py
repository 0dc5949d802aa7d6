"""LightGCN's propagation: no weights, no nonlinearity."""

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ._adjacency import AdjacencyLike, Flow, as_adjacency, gcn_norm


class LGConv(eqx.Module):
    r"""Light graph convolution, $X' = D^{-1/2} A D^{-1/2} X$ without added self-loops (no parameters).

    ??? cite "Reference"
        He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation, SIGIR 2020, eq. 3.
        Deviations from PyTorch Geometric 2.8: those of `gcn_norm`.
    """

    normalize: bool = eqx.field(static=True, default=True)
    flow: Flow = eqx.field(static=True, default="source_to_target")

    @jax.named_scope("eqx_graph.LGConv")
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        edge_index: AdjacencyLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
    ) -> Float[Array, "num_nodes features"]:
        """**Arguments:** as `GCNConv`. **Returns:** propagated features, the shape of `x`."""
        if not self.normalize:
            return as_adjacency(edge_index, edge_weight, num_nodes=x.shape[0], flow=self.flow) @ x
        return gcn_norm(edge_index, edge_weight, x.shape[0], add_self_loops=False, flow=self.flow, dtype=x.dtype) @ x
