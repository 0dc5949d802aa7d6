"""Chebyshev filters of the scaled graph Laplacian."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ...data import AbstractEdges, EdgeIndexLike
from ...data._edge_build import in_range
from ...ops import segment_sum
from .._linear import add_bias, check_features, check_sizes, glorot_linear
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Adjacency, Flow, as_adjacency, at_least_float32, inverse, inverse_sqrt, resolve_num_nodes
from ._neighbors import is_linear, propagate


Normalization = Literal["sym", "rw"] | None


class ChebConv(eqx.Module):
    r"""Chebyshev spectral convolution, $X' = \sum_{k=0}^{K-1} T_k(\tilde L) X W_k^\top + b$.

    $\tilde L = 2 L / \lambda_{\max} - I$ with $L = D - A$, $I - D^{-1/2} A D^{-1/2}$ (`"sym"`) or $I - D^{-1} A$
    (`"rw"`), and $T_k(z) = 2 z T_{k-1}(z) - T_{k-2}(z)$. Evaluated by Clenshaw's recurrence where the output has fewer
    features than the input.

    ??? cite "Reference"
        Defferrard et al., Convolutional Neural Networks on Graphs with Fast Localized Spectral Filtering, NeurIPS
        2016, eq. 4. As in PyTorch Geometric 2.8, degrees count the edges that leave a node (row 0 of `edge_index`) and
        existing self-loops are removed. Deviation: $\tilde L$ is $-I$, not NaN, where $\lambda_{\max} = 0$.
    """

    lins: list[eqx.nn.Linear]
    bias: Float[Array, " out"] | None
    aggregation: AbstractAggregation
    normalization: Normalization = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        K: int,
        *,
        normalization: Normalization = "sym",
        bias: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`, `out_features`: features per node before and after.
        - `K`: number of Chebyshev polynomials (filter size), at least 1.
        - `normalization`: `"sym"`, `"rw"` or None.
        - `bias`: learn an additive bias, zero at first.
        - `aggr`: aggregation of the weighted neighbours, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the Glorot-uniform weights.

        **Raises:** `ValueError` for `K` below 1 or an unknown normalization.
        """
        check_sizes(in_features=in_features, out_features=out_features)
        if K < 1:
            raise ValueError(f"`K` (number of Chebyshev polynomials) must be at least 1; got {K}.")
        if normalization not in (None, "sym", "rw"):
            raise ValueError(f"`normalization` must be 'sym', 'rw' or None; got {normalization!r}.")
        self.lins = [glorot_linear(in_features, out_features, key=k) for k in jr.split(key, K)]
        self.bias = jnp.zeros(out_features) if bias else None
        self.aggregation = as_aggregation(aggr)
        self.normalization = normalization
        self.flow = flow

    @jax.named_scope("eqx_graph.ChebConv")
    def __call__(
        self,
        x: Float[Array, "num_nodes in"],
        edge_index: EdgeIndexLike | Adjacency,
        edge_weight: Float[Array, " num_edges"] | None = None,
        batch: Int[Array | np.ndarray, " num_nodes"] | None = None,
        lambda_max: float | Float[Array, " *num_graphs"] | None = None,
    ) -> Float[Array, "num_nodes out"]:
        """**Arguments:**

        - `x`: node features.
        - `edge_index`: `(2, num_edges)` integers, an `EdgeIndex`, or an `Adjacency` made by `cheb_norm`.
        - `edge_weight`: one weight per edge, in the caller's order.
        - `batch`: graph of every node; needed with one `lambda_max` per graph.
        - `lambda_max`: largest eigenvalue of the Laplacian, one number or one per graph; twice the largest entry of
            the Laplacian if None.

        **Returns:** new node features, `(num_nodes, out_features)`.

        **Raises:** `ValueError` for wrong sizes, or one `lambda_max` per graph without `batch`.
        """
        out_features, in_features = self.lins[0].weight.shape
        check_features(x, in_features)
        laplacian = cheb_norm(
            edge_index, edge_weight, x.shape[0], self.normalization, batch, lambda_max, flow=self.flow, dtype=x.dtype
        )
        weights = [lin.weight.T for lin in self.lins]
        evaluate = _clenshaw if is_linear(self.aggregation) and out_features < in_features else _chebyshev
        return add_bias(evaluate(lambda h: propagate(laplacian, h, self.aggregation), weights, x), self.bias)


def _chebyshev(laplacian: Callable[[Array], Array], weights: list[Array], x: Array) -> Array:
    """Powers first: $T_k(L) X$ for $k = 0, 1, \\dots$, each multiplied with its matrix."""
    before, now = x, x
    out = x @ weights[0]
    for k, weight in enumerate(weights[1:], start=1):
        before, now = now, laplacian(now) if k == 1 else 2.0 * laplacian(now) - before
        out = out + now @ weight
    return out


def _clenshaw(laplacian: Callable[[Array], Array], weights: list[Array], x: Array) -> Array:
    """Matrices first: $b_k = X W_k + 2 L b_{k+1} - b_{k+2}$ from the highest $k$ down; the sum is $b_0 - L b_1$."""
    after, now = None, x @ weights[-1]
    for k in range(len(weights) - 2, -1, -1):
        step = laplacian(now)
        value = x @ weights[k] + (step if k == 0 else 2.0 * step)
        after, now = now, value if after is None else value - after
    return now


@jax.named_scope("eqx_graph.cheb_norm")
def cheb_norm(
    edge_index: EdgeIndexLike | Adjacency,
    edge_weight: Float[Array, " num_edges"] | None = None,
    num_nodes: int | None = None,
    normalization: Normalization = "sym",
    batch: Int[Array | np.ndarray, " num_nodes"] | None = None,
    lambda_max: float | Float[Array, " *num_graphs"] | None = None,
    *,
    flow: Flow = "source_to_target",
    dtype: jax.typing.DTypeLike | None = None,
) -> Adjacency:
    r"""The scaled Laplacian $2 L / \lambda_{\max} - I$ of `ChebConv`, computed once and passed in.

    **Arguments:** those of `ChebConv`; `num_nodes` may be left out when `edge_index` is a layout, `dtype` is the float
    type of the weights (that of `edge_weight`, or JAX's default, if None).

    **Returns:** an `Adjacency`; differentiable with respect to `edge_weight` and `lambda_max`, gradients are finite.

    **Raises:** `ValueError` if `num_nodes` is missing, or `lambda_max` has several entries and `batch` is None.
    """
    num_nodes = resolve_num_nodes(edge_index, num_nodes)
    plain = as_adjacency(edge_index, edge_weight, num_nodes=num_nodes, flow=flow)
    if isinstance(edge_index, Adjacency):
        return plain
    edges = plain.edges.remove_self_loops()
    if dtype is None:
        dtype = jnp.result_type(float) if plain.weight is None else plain.weight.dtype
    precise = at_least_float32(dtype)
    weight = jnp.ones(edges.num_edges, precise) if plain.weight is None else plain.weight.astype(precise)
    weight = weight if edges.edge_mask is None else jnp.where(edges.edge_mask, weight, 0.0)
    source, at_source = (edges.senders, edges.send) if flow == "source_to_target" else (edges.receivers, edges.receive)
    degree = segment_sum(weight, jnp.asarray(source), num_nodes)
    diagonal = jnp.ones(num_nodes, precise)
    if normalization == "sym":
        scale = inverse_sqrt(degree)
        weight = edges.send(scale) * weight * edges.receive(scale)
    elif normalization == "rw":
        weight = at_source(inverse(degree)) * weight
    else:
        diagonal = degree
    if lambda_max is None:
        lambda_max = 2.0 * _largest(edges, -weight, diagonal)
    per_node = _per_node(jnp.asarray(lambda_max, precise), batch, num_nodes)
    factor = 2.0 * inverse(per_node)
    return Adjacency(edges, (-weight * at_source(factor)).astype(dtype), (diagonal * factor - 1.0).astype(dtype))


def _largest(edges: AbstractEdges, weight: Array, diagonal: Array) -> Array:
    """The largest entry of the Laplacian; masked edges are no entries."""
    weight = weight if edges.edge_mask is None else jnp.where(edges.edge_mask, weight, -jnp.inf)
    return jnp.max(jnp.concatenate([weight, diagonal]), initial=-jnp.inf)


def _per_node(lambda_max: Array, batch: Array | np.ndarray | None, num_nodes: int) -> Array:
    if lambda_max.size == 1:
        return jnp.full(num_nodes, lambda_max.reshape(()))
    if batch is None:
        raise ValueError(
            f"`batch` must be given with one `lambda_max` per graph; got {lambda_max.size} values and batch=None."
        )
    return lambda_max[jnp.asarray(in_range("batch", batch, lambda_max.size, "number of `lambda_max`"))]
