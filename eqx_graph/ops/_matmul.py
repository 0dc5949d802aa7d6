"""The linear route."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..data._edges import AbstractEdges
from ._segment import segment_sum


def fold_mask(edges: AbstractEdges, weight: Array | None) -> Array | None:
    """Weights with masked edges set to zero."""
    if edges.edge_mask is None:
        return weight
    if weight is None:
        return jnp.asarray(edges.edge_mask, jnp.float32)
    mask = jnp.reshape(edges.edge_mask, (-1, *[1] * (weight.ndim - 1)))
    return jnp.where(mask, weight, 0)


def matmul(
    edges: AbstractEdges,
    weight: Float[Array, "num_edges *heads"] | None,
    x: Float[Array, "num_senders *dims"],
) -> Float[Array, "num_receivers *dims"]:
    r"""$y_i = \sum_{e : r(e) = i} w_e x_{s(e)}$."""
    weight = fold_mask(edges, weight)
    messages = edges.send(x)
    if weight is not None:
        messages = messages * weight.reshape(*weight.shape, *[1] * (messages.ndim - weight.ndim)).astype(x.dtype)
    return segment_sum(messages, edges.receivers, edges.num_receivers)
