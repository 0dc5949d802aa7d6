"""The linear route: messages that are a weight times the sender's features are never built."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from .. import _primitives as prim
from .._kernels import accumulator_dtype
from ..data._edge_index import EdgeIndex
from ..data._edges import AbstractEdges, check_rows
from ._segment import expand


def fold_mask(edges: AbstractEdges, weight: Array | None, dtype: jnp.dtype) -> Array | None:
    """`weight` with zeros for masked edges; stays `None` (all ones) where nothing is masked."""
    if edges.edge_mask is None:
        return weight
    mask = jnp.asarray(edges.edge_mask)
    return mask.astype(dtype) if weight is None else jnp.where(expand(mask, weight), weight, 0)


def matmul(
    edges: AbstractEdges,
    weight: Float[Array, " num_edges"] | Float[Array, "num_edges heads"] | None,
    x: Float[Array, " num_senders *dims"],
) -> Float[Array, " num_receivers *dims"]:
    r"""Sparse-dense product: the weighted sum of the senders' features at every receiver.

    $y_i = \sum_{e : r(e) = i} w_e\, x_{s(e)}$, or, with one weight a head, $y_{ih} = \sum_{e : r(e) = i} w_{eh}\,
    x_{s(e)h}$. On an `EdgeIndex` this is one product with a compressed matrix, and so are its derivatives in `x`; the
    derivative in `weight` is one dot product an edge, computed only if something is differentiated in `weight`.
    Every JAX transform applies, and `vmap` over `x` or `weight` becomes more features or more heads of one product.

    **Arguments:**

    - `edges`: any layout; edges masked out contribute nothing (their senders' features must be finite).
    - `weight`: one value per edge, or `(num_edges, heads)`, in layout order; `None` means ones, which are not stored.
    - `x`: features of the senders; `(num_senders, heads, ...)` with a weight per head.

    **Returns:** `(num_receivers, *dims)`, dtype of `x`; zeros for a receiver without edges. Sums of 16-bit floats are
    kept in float32.

    **Raises:** `ValueError` if a size does not fit the layout.
    """
    return product(edges, fold_mask(edges, weight, x.dtype), x)


def product(edges: AbstractEdges, weight: Array | None, x: Array) -> Array:
    """`matmul` with weights that are zero already where an edge is masked."""
    _check(edges, weight, x)
    weight = None if weight is None else weight.astype(x.dtype)
    if not isinstance(edges, EdgeIndex):
        messages = edges.send(x).astype(accumulator_dtype(x.dtype))
        messages = messages if weight is None else messages * expand(weight, messages).astype(messages.dtype)
        return edges.sum_received(messages).astype(x.dtype)
    heads = 1 if weight is None or weight.ndim == 1 else weight.shape[1]
    columns = x.reshape(x.shape[0], heads, math.prod(x.shape[1:]) // heads)
    weight = None if weight is None else weight.reshape(-1, heads)
    out = prim.spmm(weight, columns, edges.layout, edges.num_receivers, edges.kernel)
    return out.reshape(edges.num_receivers, *x.shape[1:])


def edge_dot(
    edges: AbstractEdges,
    senders_x: Float[Array, " num_senders *heads channels"],
    receivers_x: Float[Array, " num_receivers *heads channels"],
) -> Float[Array, " num_edges *heads"]:
    r"""Dot product of the two ends of every edge: $w_{eh} = \sum_c a_{s(e)hc}\, b_{r(e)hc}$, in layout order.

    The transpose of `matmul` in its weights: logits of dot-product attention, link scores. On an `EdgeIndex` the
    gathered features are never stored.

    **Arguments:**

    - `senders_x`, `receivers_x`: features of the two ends, contracted over their last axis.

    **Returns:** `(num_edges,)`, or `(num_edges, heads)`.

    **Raises:** `ValueError` for a wrong number of rows, or if the two ends differ in heads or channels.
    """
    check_rows("senders_x", senders_x, edges.num_senders, "senders")
    check_rows("receivers_x", receivers_x, edges.num_receivers, "receivers")
    if senders_x.shape[1:] != receivers_x.shape[1:]:
        raise ValueError(
            f"`senders_x` and `receivers_x` must agree in heads and channels; got shapes {senders_x.shape} and "
            f"{receivers_x.shape}."
        )
    if not isinstance(edges, EdgeIndex):
        return (edges.send(senders_x) * edges.receive(receivers_x)).sum(-1)
    heads = math.prod(senders_x.shape[1:-1])
    a, b = (v.reshape(v.shape[0], heads, v.shape[-1]) for v in (senders_x, receivers_x))
    out = prim.sddmm(a, b, edges.layout, edges.kernel)
    return out.reshape(edges.num_edges, *senders_x.shape[1:-1])


def _check(edges: AbstractEdges, weight: Array | None, x: Array) -> None:
    check_rows("x", x, edges.num_senders, "senders")
    if weight is None:
        return
    if weight.shape[0] != edges.num_edges:
        raise ValueError(
            f"`weight` must have an entry for each of the {edges.num_edges} edges, in layout order; got shape "
            f"{weight.shape}. Bring per-edge values into it with `edges.arrange`."
        )
    if weight.ndim == 2 and (x.ndim < 2 or x.shape[1] != weight.shape[1]):
        raise ValueError(
            f"`x` must have shape (num_senders, heads, ...) for a `weight` of shape {weight.shape}; got {x.shape}."
        )
