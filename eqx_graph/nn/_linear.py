"""Initialisers and the one way a layer applies a linear map to rows of features."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray


def uniform(key: PRNGKeyArray, shape: Sequence[int], bound: float) -> Float[Array, "..."]:
    """Independent draws from $U(-\\text{bound}, \\text{bound})$ in the default float type."""
    return jr.uniform(key, tuple(shape), minval=-bound, maxval=bound)


def glorot(key: PRNGKeyArray, shape: Sequence[int]) -> Float[Array, "..."]:
    """Glorot-uniform draws: $U(-b, b)$ with $b = \\sqrt{6 / (s_{-2} + s_{-1})}$ for the last two sizes of `shape`.

    ??? cite "Reference"
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010.
    """
    return uniform(key, shape, math.sqrt(6.0 / (shape[-2] + shape[-1])))


def glorot_linear(in_features: int, out_features: int, *, use_bias: bool = False, key: PRNGKeyArray) -> eqx.nn.Linear:
    """`eqx.nn.Linear` with a Glorot-uniform weight (the bias, if any, keeps $U(\\pm 1/\\sqrt{\\text{in}})$)."""
    weight_key, linear_key = jr.split(key)
    linear = eqx.nn.Linear(in_features, out_features, use_bias=use_bias, key=linear_key)
    return eqx.tree_at(lambda lin: lin.weight, linear, glorot(weight_key, (out_features, in_features)))


def project(linear: eqx.nn.Linear, x: Float[Array, "rows in"], *, name: str = "x") -> Float[Array, "rows out"]:
    """`linear` on every row of `x`; a row of the wrong length is an error naming the argument `name`."""
    check_features(x, int(linear.in_features), name=name)
    return jax.vmap(linear)(x)


def check_features(x: Float[Array, "rows features"], features: int, *, name: str = "x") -> None:
    """Raise `ValueError` unless the rows of `x` have `features` entries."""
    if x.shape[-1] != features:
        raise ValueError(
            f"`{name}` must have {features} features per row; got an array of shape {x.shape}. "
            f"Build the layer for {x.shape[-1]} features, or pass the features it was built for."
        )


def check_sizes(**sizes: int | tuple[int, ...] | None) -> None:
    """Raise `ValueError` naming the first size (or pair of sizes) below 1; `None` stands for one that is not used."""
    for name, size in sizes.items():
        if size is not None and min(size if isinstance(size, tuple) else (size,)) < 1:
            hint = " Sizes are known when a layer is built: there is no -1 that stands for those of the first input."
            raise ValueError(f"`{name}` must be at least 1; got {size}.{hint if str(-1) in str(size) else ''}")


def add_bias(x: Float[Array, "rows out"], bias: Float[Array, " out"] | None) -> Float[Array, "rows out"]:
    """`x + bias`, or `x` when there is none."""
    return x if bias is None else x + jnp.expand_dims(bias, 0)
