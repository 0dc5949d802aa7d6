"""Lengths of rows, with finite gradients at zero."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def lengths(x: Float[Array, "rows features"]) -> Float[Array, "rows 1"]:
    """Euclidean length of every row; a zero row has a zero gradient."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    nonzero = square > 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, square, 1.0)), 0.0)


@jax.named_scope("eqx_graph.unit_rows")
def unit_rows(x: Float[Array, "rows features"]) -> Float[Array, "rows features"]:
    """Rows divided by their Euclidean length; a zero row stays zero and has a zero gradient."""
    length = lengths(x)
    return x * jnp.where(length > 0, 1.0 / jnp.maximum(length, 1e-12), 0.0)
