"""The attention route."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..data._edges import AbstractEdges
from ._matmul import matmul
from ._segment import segment_softmax


def edge_softmax(
    edges: AbstractEdges, logits: Float[Array, "num_edges *heads"]
) -> Float[Array, "num_edges *heads"]:
    """Softmax over the edges entering each receiver, layout order."""
    if edges.edge_mask is not None:
        mask = jnp.reshape(edges.edge_mask, (-1, *[1] * (logits.ndim - 1)))
        logits = jnp.where(mask, logits, -jnp.inf)
    return segment_softmax(logits, edges.receivers, edges.num_receivers)


def attention(
    edges: AbstractEdges,
    logits: Float[Array, "num_edges heads"],
    values: Float[Array, "num_senders heads channels"],
    *,
    return_weights: bool = False,
) -> Float[Array, "num_receivers heads channels"] | tuple[Float[Array, "num_receivers heads channels"], Float[Array, "num_edges heads"]]:
    """Softmax-weighted sum of the senders' values."""
    weights = edge_softmax(edges, logits)
    out = matmul(edges, weights, values)
    return (out, weights) if return_weights else out
