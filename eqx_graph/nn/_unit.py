"""Lengths of rows, with finite gradients at zero."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def lengths(x: Float[Array, "rows features"], p: float = 2.0) -> Float[Array, "rows 1"]:
    r"""$\left(\sum_f |x_f|^p\right)^{1/p}$ of every row; a zero row has a zero gradient."""
    if p == 2:
        return _power(jnp.sum(x * x, axis=-1, keepdims=True), 0.5)
    return _power(jnp.sum(_power(jnp.abs(x), p), axis=-1, keepdims=True), 1 / p)


def _power(base: Array, exponent: float) -> Array:
    """`base ** exponent` for a base that is not negative, with value and gradient 0 at 0."""
    positive = base > 0
    safe = jnp.where(positive, base, 1.0)
    return jnp.where(positive, jnp.sqrt(safe) if exponent == 0.5 else safe**exponent, 0.0)


@jax.named_scope("eqx_graph.unit_rows")
def unit_rows(x: Float[Array, "rows features"], p: float = 2.0) -> Float[Array, "rows features"]:
    """Rows divided by their length; a zero row stays zero and has a zero gradient."""
    length = lengths(x, p)
    return x * jnp.where(length > 0, 1.0 / jnp.maximum(length, 1e-12), 0.0)
