"""A function of one edge with the arrays its arguments are rows of, and how many edges to take together."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..data._edge_index import EdgeIndex


Side = Literal["sender", "receiver", "edge", "caller", "crossed"]

# Bytes of arguments and outputs of one block. On a CPU they should stay in the cache; an accelerator wants long blocks.
_CPU_BUDGET = 8 * 2**20
_ACCELERATOR_BUDGET = 512 * 2**20


class EdgeFunction(NamedTuple):
    """`function(constants, *slices)` of one edge; `values = [*constants, *operands]` are all its arrays."""

    function: Callable[..., Any]
    num_constants: int
    sides: tuple[Side, ...]  # which row of its operand a slice is: that of the sender, the receiver, the edge (in the
    # layout's order, in the caller's, in that of the layout turned round)
    out: Any  # shapes of one edge's outputs
    block: int
    values: list[Any]
    edges: EdgeIndex


TURNED: dict[Side, Side] = {
    "sender": "receiver",
    "receiver": "sender",
    "edge": "crossed",
    "crossed": "edge",
    "caller": "caller",
}


def turned(fn: EdgeFunction) -> EdgeFunction:
    """The same function over the same edges, in the other order."""
    return fn._replace(edges=fn.edges.reverse(), sides=tuple(TURNED[side] for side in fn.sides))


def default_block_size(num_edges: int, edge_bytes: int, block_bytes: int | None = None) -> int:
    """Edges in a block: as many as keep `edge_bytes` for each within `block_bytes` (a default for the backend)."""
    if block_bytes is None:
        block_bytes = _CPU_BUDGET if jax.default_backend() == "cpu" else _ACCELERATOR_BUDGET
    fitting = max(256, block_bytes // max(edge_bytes, 1))
    # A power of two: rows of blocks of other lengths are taken up to 1.3 times as slowly by a CPU.
    return max(1, min(num_edges, 2 ** (fitting.bit_length() - 1)))


def num_bytes(shapes: Any) -> int:
    return sum(math.prod(s.shape) * s.dtype.itemsize for s in jax.tree.leaves(shapes))


def edge_function(
    edges: EdgeIndex, function: Callable[..., Any], arguments: Sequence[tuple[Side, Any]], block_size: int | None = None
) -> EdgeFunction:
    """Packs `function` with its `arguments`, each a side and a pytree of arrays with a row per node or edge."""
    trees = [jax.tree.structure(value) for _, value in arguments]
    leaves: list[tuple[Side, Any]] = [(s, jnp.asarray(a)) for s, value in arguments for a in jax.tree.leaves(value)]
    rows = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for _, leaf in leaves]
    sides: tuple[Side, ...] = tuple(side for side, _ in leaves)

    def on_leaves(*slices: Any) -> Any:
        rest = iter(slices)
        return function(*(jax.tree.unflatten(t, [next(rest) for _ in range(t.num_leaves)]) for t in trees))

    # What the function closes over (a layer's parameters, say) becomes an argument, so that it gets a gradient.
    closed = eqx.filter_closure_convert(on_leaves, *rows)
    dynamic, static = eqx.partition(closed, eqx.is_array)
    constants, tree = jax.tree.flatten(dynamic)

    def pure(constants: Sequence[Any], *slices: Any) -> Any:
        return eqx.combine(jax.tree.unflatten(tree, constants), static)(*slices)

    if block_size is not None and block_size < 1:
        raise ValueError(
            f"`block_size` must be at least 1; got {block_size}. Leave it out for one that fits the cache."
        )
    out = eqx.filter_eval_shape(closed, *rows)
    if block_size is None:
        block_size = default_block_size(edges.num_edges, num_bytes((rows, out)))
    return EdgeFunction(
        function=pure,
        num_constants=len(constants),
        sides=sides,
        out=out,
        block=max(1, min(block_size, edges.num_edges)),
        values=[*constants, *(leaf for _, leaf in leaves)],
        edges=edges,
    )


def extend(fn: EdgeFunction, transform: Callable[..., Any], at_receiver: Sequence[Any] = ()) -> EdgeFunction:
    """The edge function `transform(output, *rows)`, with the receiver's rows of the node arrays `at_receiver`."""
    rows = [jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in at_receiver]
    closed = eqx.filter_closure_convert(transform, fn.out, *rows)
    dynamic, static = eqx.partition(closed, eqx.is_array)
    extra, tree = jax.tree.flatten(dynamic)
    split, num_slices = fn.num_constants, len(fn.sides)

    def pure(constants: Sequence[Any], *slices: Any) -> Any:
        out = fn.function(constants[:split], *slices[:num_slices])
        return eqx.combine(jax.tree.unflatten(tree, constants[split:]), static)(out, *slices[num_slices:])

    return fn._replace(
        function=pure,
        num_constants=split + len(extra),
        sides=fn.sides + ("receiver",) * len(at_receiver),
        out=eqx.filter_eval_shape(closed, fn.out, *rows),
        values=[*fn.values[:split], *extra, *fn.values[split:], *at_receiver],
    )
