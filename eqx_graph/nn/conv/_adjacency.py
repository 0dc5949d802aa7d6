"""The weighted adjacency as a linear operator, and the symmetric normalisation of graph convolutional networks."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from ..._ruled import jvp_of_moving, ruled
from ...data import AbstractEdges, EdgeIndexLike, as_edges
from ...ops import matmul
from .._linear import add_bias, check_features, project


Flow = Literal["source_to_target", "target_to_source"]


class Adjacency(eqx.Module):
    r"""A weighted adjacency, ready to be multiplied with node features: `adjacency @ x`.

    $(A x)_i = \sum_{e : j \to i} w_e x_j + \ell_i x_i$ with edge weights $w$ (1 where `weight` is None) and self-loop
    weights $\ell$ (0 where `loop_weight` is None). Every layer that normalises its graph accepts an `Adjacency` in
    place of `edge_index`: compute it once with `gcn_norm` and no step pays for degrees again.
    """

    edges: AbstractEdges
    weight: Float[Array, " num_edges"] | None  # in the layout's order
    loop_weight: Float[Array, " num_nodes"] | None

    @jax.named_scope("eqx_graph.Adjacency")
    def __matmul__(self, x: Float[Array, "num_senders features"]) -> Float[Array, "num_receivers features"]:
        weight = None if self.weight is None else self.weight.astype(x.dtype)
        out = matmul(self.edges, weight, x)
        return out if self.loop_weight is None else out + self.loop_weight.astype(x.dtype)[:, None] * x


AdjacencyLike = EdgeIndexLike | Adjacency


def as_adjacency(
    edge_index: AdjacencyLike,
    edge_weight: Float[Array, " num_edges"] | None = None,
    *,
    num_nodes: int,
    flow: Flow = "source_to_target",
) -> Adjacency:
    """The graph as it stands, without normalisation; an `Adjacency` is returned as it is.

    **Arguments:**

    - `edge_index`: `(2, num_edges)` integers, an edge layout, or an `Adjacency`.
    - `edge_weight`: one weight per edge, in the caller's order; 1 if None.
    - `num_nodes`: static int.
    - `flow`: which end of an edge receives: its target, or its source.

    **Raises:** `ValueError` if `edge_weight` is given beside an `Adjacency`, or if sizes do not fit.
    """
    if isinstance(edge_index, Adjacency):
        if edge_weight is not None:
            raise ValueError(
                "`edge_weight` must be None when `edge_index` is an Adjacency, which carries its weights; got both. "
                "Give the weights to `gcn_norm`."
            )
        as_edges(edge_index.edges, num_senders=num_nodes, num_receivers=num_nodes)
        return edge_index
    edges = directed(as_edges(edge_index, num_senders=num_nodes, num_receivers=num_nodes), flow)
    return Adjacency(edges, arrange_weight(edges, edge_weight), None)


def normalized(
    x: Float[Array, "num_nodes in"],
    edge_index: AdjacencyLike,
    edge_weight: Float[Array, " num_edges"] | None,
    *,
    flow: Flow,
    normalize: bool = True,
    improved: bool = False,
    add_self_loops: bool = True,
) -> Adjacency:
    """`gcn_norm` for the nodes and the type of `x`; without `normalize` the graph as it stands."""
    if not normalize:
        return as_adjacency(edge_index, edge_weight, num_nodes=x.shape[0], flow=flow)
    return gcn_norm(edge_index, edge_weight, x.shape[0], improved, add_self_loops, flow, x.dtype)


def convolve(
    operator: Callable[[Float[Array, "num_nodes any"]], Float[Array, "num_receivers any"]],
    linear: eqx.nn.Linear,
    x: Float[Array, "num_nodes in"],
    *,
    is_linear: bool = True,
    root: tuple[eqx.nn.Linear, Float[Array, "num_receivers in_root"]] | None = None,
) -> Float[Array, "num_receivers out"]:
    r"""$P(X) W^\top + b$; a linear map $P$ over nodes is applied on the side with fewer features.

    With a `root` $(W_r, X_r)$, $+ X_r W_r^\top$.
    """
    if is_linear:
        check_features(x, int(linear.in_features))
    if is_linear and int(linear.out_features) < int(linear.in_features):
        out = add_bias(operator(x @ linear.weight.T), linear.bias)
    elif is_linear and linear.weight.shape == (x.shape[1],) * 2 and linear.weight.dtype == x.dtype:
        out = add_bias(_on_either_side(operator, linear.weight, x), linear.bias)
    else:
        out = project(linear, operator(x))
    return out if root is None else out + project(*root)


def _on_either_side(
    operator: Callable[[Float[Array, "num_nodes width"]], Float[Array, "num_receivers width"]],
    weight: Float[Array, "width width"],
    x: Float[Array, "num_nodes width"],
) -> Float[Array, "num_receivers width"]:
    """$P(X) W^\\top$; on which side $P$ is applied does not matter until this is differentiated.

    In the weight alone (features that are data): $P(X)$ is what the gradient needs, and no transposed $P$. In the
    features too, the transposed $P$ of the cotangent serves both gradients and only $X$ is kept: half the memory
    of a deep network, where every $X$ is the result of the layer before.
    """
    closed = eqx.filter_closure_convert(operator, x)
    arrays, rest = eqx.partition(closed, eqx.is_array)

    def inside(arrays: Any, weight: Array, x: Array) -> Array:
        return eqx.combine(arrays, rest)(x) @ weight.T

    def outside(arrays: Any, weight: Array, x: Array) -> Array:
        return eqx.combine(arrays, rest)(x @ weight.T)

    def rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        return jvp_of_moving(inside if isinstance(tangents[2], SymbolicZero) else outside, primals, tangents)

    return ruled(inside, rule)(arrays, weight, x)


def directed(edges: AbstractEdges, flow: Flow) -> AbstractEdges:
    """`edges`, turned round if messages flow from target to source."""
    return edges if flow == "source_to_target" else edges.reverse()


def arrange_weight(
    edges: AbstractEdges, edge_weight: Float[Array, " num_edges"] | None
) -> Float[Array, " num_edges"] | None:
    """`edge_weight` in the layout's order; a wrong length is an error."""
    if edge_weight is None:
        return None
    if edge_weight.shape != (edges.num_edges,):
        raise ValueError(
            f"`edge_weight` must have one entry for each of the {edges.num_edges} edges; got shape "
            f"{edge_weight.shape}. Pass a vector in the order of `edge_index`."
        )
    return edges.arrange(edge_weight)


@jax.named_scope("eqx_graph.gcn_norm")
def gcn_norm(
    edge_index: AdjacencyLike,
    edge_weight: Float[Array, " num_edges"] | None = None,
    num_nodes: int | None = None,
    improved: bool = False,
    add_self_loops: bool = True,
    flow: Flow = "source_to_target",
    dtype: jax.typing.DTypeLike | None = None,
) -> Adjacency:
    r"""Symmetric normalisation $\hat D^{-1/2} \hat A \hat D^{-1/2}$, computed once and passed to layers.

    $\hat A = A + \text{fill} \cdot I$ where a node has no self-loop yet, $\hat D_{ii} = \sum_j \hat A_{ij}$ over the
    edges that enter node $i$. A node of degree zero (or, with negative weights, less) gets weight 0.

        adjacency = gcn_norm(edge_index, num_nodes=x.shape[0])
        out = conv(x, adjacency)          # instead of conv(x, edge_index)

    **Arguments:**

    - `edge_index`: `(2, num_edges)` integers or an edge layout; an `Adjacency` is returned as it is.
    - `edge_weight`: one weight per edge, in the caller's order; 1 if None.
    - `num_nodes`: static int; may be left out when `edge_index` is a layout.
    - `improved`: self-loops get weight 2 in place of 1.
    - `add_self_loops`: give a self-loop to every node that has none. A node that has some keeps the last of them.
    - `flow`: `"source_to_target"`, or `"target_to_source"` to send messages against the edges.
    - `dtype`: float type of the weights; that of `edge_weight`, or JAX's default, if None. Degrees are summed in at
        least float32.

    **Returns:** an `Adjacency`. Differentiable with respect to `edge_weight`, with finite gradients everywhere.

    **Raises:** `ValueError` if `num_nodes` is missing or does not fit.

    ??? cite "Reference"
        Kipf and Welling, Semi-Supervised Classification with Graph Convolutional Networks, ICLR 2017, eq. 2.
        Deviations from PyTorch Geometric 2.8: `improved=True` is honoured without edge weights too (PyG gives such
        self-loops weight 1); gradients are finite and outputs zero where a degree is zero or negative (PyG: NaN); of
        several self-loops at a node, only the one that counts gets a gradient (PyG: all of them).
    """
    num_nodes = resolve_num_nodes(edge_index, num_nodes)
    plain = as_adjacency(edge_index, edge_weight, num_nodes=num_nodes, flow=flow)
    if isinstance(edge_index, Adjacency):
        return plain
    edges, weight = plain.edges, plain.weight
    if dtype is None:
        dtype = jnp.result_type(float) if weight is None else weight.dtype
    precise = at_least_float32(dtype)
    weight = jnp.ones(edges.num_edges, precise) if weight is None else weight.astype(precise)
    if edges.edge_mask is not None:
        weight = jnp.where(edges.edge_mask, weight, 0.0)
    loop_weight = None
    if add_self_loops:
        loop_weight = edges.self_loop_values(weight, 2.0 if improved else 1.0)
        weight = jnp.where(edges.senders == edges.receivers, 0.0, weight)
    degree = edges.sum_received(weight)
    degree = degree if loop_weight is None else degree + loop_weight
    scale = inverse_sqrt(degree)
    weight = edges.send(scale) * weight * edges.receive(scale)
    if loop_weight is not None:
        loop_weight = (scale * loop_weight * scale).astype(dtype)
    return Adjacency(edges, weight.astype(dtype), loop_weight)


def resolve_num_nodes(edge_index: AdjacencyLike, num_nodes: int | None) -> int:
    """`num_nodes`, or what a layout tells; an error if neither does."""
    if num_nodes is not None:
        return num_nodes
    if isinstance(edge_index, Adjacency):
        return edge_index.edges.num_receivers
    if isinstance(edge_index, AbstractEdges):
        return edge_index.num_receivers
    raise ValueError("`num_nodes` must be given when `edge_index` is an array; pass `num_nodes=x.shape[0]`.")


def at_least_float32(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """`dtype`, or float32 if it has fewer bits: sums of edge weights lose counts above 256 in bfloat16."""
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def inverse_sqrt(degree: Float[Array, " num_nodes"]) -> Float[Array, " num_nodes"]:
    """$d^{-1/2}$ where $d > 0$, else 0; gradients are finite everywhere."""
    positive = degree > 0
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, degree, 1.0)), 0.0)


def inverse(degree: Float[Array, " num_nodes"]) -> Float[Array, " num_nodes"]:
    """$1 / d$ where $d \\ne 0$, else 0; gradients are finite everywhere."""
    nonzero = degree != 0
    return jnp.where(nonzero, 1.0 / jnp.where(nonzero, degree, 1.0), 0.0)
