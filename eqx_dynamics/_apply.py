"""Stateless layers over every leading (time and batch) axis at once."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Key

from ._scan import merge_time


class PerSample(eqx.Module):
    """A layer written for one sample, applied to every sample: `layer` is mapped over all leading axes together.

    For layers whose number of feature axes cannot be told, such as `eqx.nn.GroupNorm`, and for your own functions.
    """

    layer: Callable[[Array], Any]
    feature_ndim: int = eqx.field(static=True)

    def __init__(self, layer: Callable[[Array], Any], feature_ndim: int):
        """**Arguments:** `layer`: array to array; `feature_ndim`: how many trailing axes make one sample.

        **Raises:** `ValueError` if `feature_ndim` is negative.
        """
        if feature_ndim < 0:
            raise ValueError(f"`feature_ndim` must not be negative; got {feature_ndim}.")
        self.layer = layer
        self.feature_ndim = feature_ndim

    def __call__(self, x: Array) -> Any:
        """`x` with any leading axes; the layer's outputs keep them."""
        if x.ndim < self.feature_ndim:
            raise ValueError(f"`x` must have at least {self.feature_ndim} axes for this layer; got shape {x.shape}.")
        merged, leading = merge_time(x, self.feature_ndim)
        return jax.tree.map(lambda y: jnp.reshape(y, (*leading, *y.shape[1:])), jax.vmap(self.layer)(merged))


def apply_stateless(layer: Callable, x: Array, key: Key[Array, "..."] | None, *, over_time: bool = False) -> Array:
    """A layer without state on `x`, whose leading axes are time and batch; `key` has one key a step, or is one key.

    A function of which nothing is known sees one time step, as in the step loop; `over_time`: `x` holds several.

    Affine layers are ONE matrix product with time and batch merged: the gradient of the weight is then a plain product
    of two matrices (1.8 times faster on CPU than the contraction over two axes that autodiff would write).
    """
    if isinstance(layer, eqx.nn.Linear):
        return _linear(layer, x)
    if isinstance(layer, eqx.nn.Dropout):
        return _dropout(layer, x, key)
    if isinstance(layer, eqx.nn.Sequential):
        for index, inner in enumerate(layer.layers):
            inner_key = None if key is None else _fold_in(key, index)
            x = apply_stateless(inner, x, inner_key, over_time=over_time)
        return x
    if isinstance(layer, eqx.nn.StatefulLayer):
        raise TypeError(
            f"`layers` holds a {type(layer).__name__}, whose running statistics are hidden state. Use one that keeps "
            "none, such as `eqx.nn.LayerNorm`, or write an `AbstractCell` that carries them."
        )
    feature_ndim = _feature_ndim(layer)
    if feature_ndim is not None:
        return PerSample(layer, feature_ndim)(_as_float(x, layer))
    if type(layer).__module__.startswith("equinox.nn") and not isinstance(layer, _ELEMENTWISE):
        raise TypeError(
            f"`layers` holds a {type(layer).__name__}, which does not say how many axes make one sample. Wrap it as "
            "`PerSample(layer, feature_ndim)`."
        )
    return jax.vmap(layer)(x) if over_time else layer(x)


_ELEMENTWISE = (eqx.nn.Lambda, eqx.nn.Identity, eqx.nn.PReLU)


def _linear(layer: eqx.nn.Linear, x: Array) -> Array:
    if x.ndim == 0 or x.shape[-1] != layer.in_features:
        raise ValueError(f"`x` must end in the {layer.in_features} features of the Linear layer; got shape {x.shape}.")
    merged, leading = merge_time(_as_float(x, layer))
    y = rows_by(merged, layer.weight)
    y = y if layer.bias is None else y + layer.bias[None]
    return jnp.reshape(y, (*leading, y.shape[-1]))


@jax.custom_jvp
def rows_by(x: Any, weight: Any) -> Array:
    """`x @ weight.T`, rows of samples by a weight laid out as `eqx.nn.Linear`'s.

    On CPU its derivative by the weight is a product of two matrices as they lie in memory, one of them transposed by a
    copy: XLA's fast kernels take no transposed left operand (dW of 1280 rows, 128 by 128: 0.12 ms instead of 0.18).
    """
    return x @ weight.T


def _rows_by_jvp(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
    (x, weight), (of_x, of_weight) = primals, tangents
    terms = [] if isinstance(of_x, SymbolicZero) else [rows_by(of_x, weight)]
    if not isinstance(of_weight, SymbolicZero):
        if jax.default_backend() == "cpu":  # The barrier keeps XLA from folding the transposition into the product.
            terms.append(jax.lax.optimization_barrier(of_weight @ x.T).T)
        else:
            terms.append(x @ of_weight.T)
    out = rows_by(x, weight)
    return out, sum(terms[1:], start=terms[0]) if terms else jnp.zeros_like(out)


rows_by.defjvp(_rows_by_jvp, symbolic_zeros=True)


def _dropout(layer: eqx.nn.Dropout, x: Array, key: Key[Array, "..."] | None) -> Array:
    if layer.inference or (isinstance(layer.p, int | float) and layer.p == 0):
        return x
    if key is None:
        raise ValueError(
            "`key` is missing: a Dropout layer draws its mask; pass `key=`, or use `eqx.nn.inference_mode(network)`."
        )
    if key.ndim == 0:
        return layer(x, key=key)
    return jax.vmap(lambda x, k: layer(x, key=k))(x, key)


def _feature_ndim(layer: Callable) -> int | None:
    if isinstance(layer, eqx.nn.Conv | eqx.nn.ConvTranspose | eqx.nn.Pool):
        return layer.num_spatial_dims + 1
    if isinstance(layer, eqx.nn.AdaptivePool):
        return len(layer.target_shape) + 1
    if isinstance(layer, eqx.nn.LayerNorm | eqx.nn.RMSNorm):
        return len(layer.shape)
    return 1 if isinstance(layer, eqx.nn.MLP) else None


def _as_float(x: Array, layer: Any) -> Array:
    """Bool or integer spikes in the dtype of the layer's weights: whoever made them keeps the small copy."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    weights = [leaf for leaf in jax.tree.leaves(layer) if eqx.is_inexact_array(leaf)]
    return x.astype(weights[0].dtype if weights else float)


def _fold_in(key: Key[Array, "..."], index: int) -> Key[Array, "..."]:
    return jr.fold_in(key, index) if key.ndim == 0 else jax.vmap(lambda k: jr.fold_in(k, index))(key)
