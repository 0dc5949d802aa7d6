"""ReLUs: one for node arrays, and a leaky one with PyTorch's derivative at 0."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""$\max(x, 0)$ with the derivative read off the result: 1 where that is positive, else 0, as in `jax.nn.relu`.

    That one reads it off `x`, so a backward pass keeps `x` besides the result, which what comes next keeps anyway: one
    array of all nodes more a layer. NaN stays NaN, with derivative 0.
    """
    # Not `maximum`: XLA computes a result of one array anew where it is read, here from `x` in the backward pass; of
    # two arrays (the condition and `x`) it does so once.
    return jnp.where(x <= 0, jnp.zeros_like(x), x)


relu.defjvps(lambda moved, result, x: jnp.where(result > 0, moved, jnp.zeros_like(moved)))


def leaky_relu(x: Float[Array, "..."], negative_slope: float | Float[Array, ""] = 0.01) -> Float[Array, "..."]:
    """`jax.nn.leaky_relu` with PyTorch's derivative at 0: `negative_slope`, not 1. Rows of zeros stand there."""
    return jnp.where(x > 0, x, negative_slope * x)
