"""A function of one edge, run over every edge in blocks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..data._edge_index import EdgeIndex
from ..data._edges import AbstractEdges, check_rows
from ._blocks import map_edges
from ._edge_function import Side, edge_function
from ._segment import expand


def edge_map(
    edges: AbstractEdges,
    function: Callable[..., PyTree[Array]],
    *,
    x_j: PyTree[Array] = None,
    x_i: PyTree[Array] = None,
    edge_values: PyTree[Array] = None,
    block_size: int | None = None,
) -> PyTree[Array]:
    """Outputs of a function of one edge for every edge: small per-edge results of large node features.

    On an `EdgeIndex` the function runs over blocks of edges, so the gathered features are never stored, and the
    backward pass recomputes them block by block: attention logits of shape `(num_edges, heads)` from features of
    shape `(num_nodes, heads, channels)` take memory for the logits only. On an `EdgeList` it runs on all edges at once.

    **Arguments:**

    - `edges`: any layout.
    - `function`: of ONE edge, called with those of the keywords `x_j` (the sender's row), `x_i` (the receiver's) and
        `edge_values` (the edge's) that are given here. Arrays that it closes over are differentiated too.
    - `x_j`, `x_i`, `edge_values`: pytrees of arrays with a row per sender, per receiver, per edge (layout order).
    - `block_size`: edges in a block; by default as many as keep a block's rows within 8 MiB (CPU), 512 MiB (others).

    **Returns:** the outputs with a leading axis of `num_edges`, in layout order; 0 for edges masked out.

    **Raises:** `ValueError` for a wrong number of rows, or if `block_size` is less than 1.
    """
    sides: dict[str, tuple[Side, Any]] = {
        "x_j": ("sender", x_j),
        "x_i": ("receiver", x_i),
        "edge_values": ("edge", edge_values),
    }
    counts = {"sender": edges.num_senders, "receiver": edges.num_receivers, "edge": edges.num_edges}
    for name, (side, value) in sides.items():
        check_rows(name, value, counts[side], f"{side}s")
    given = {name: pair for name, pair in sides.items() if pair[1] is not None}

    def positional(*rows: Any) -> Any:
        return function(**dict(zip(given, rows, strict=True)))

    if isinstance(edges, EdgeIndex):
        return map_edges(edge_function(edges, positional, list(given.values()), block_size))
    rows = {"sender": edges.send, "receiver": edges.receive, "edge": lambda a: a}
    gathered = [jax.tree.map(rows[side], value) for side, value in given.values()]
    out = jax.vmap(positional, axis_size=edges.num_edges)(*gathered)
    if edges.edge_mask is None:
        return out
    mask = jnp.asarray(edges.edge_mask)
    return jax.tree.map(lambda a: jnp.where(expand(mask, a), a, 0), out)
