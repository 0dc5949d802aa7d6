"""The general route: a function of one edge, run over blocks of edges, so that no array holds every message.

`map_edges` and `sum_edges` run an `EdgeFunction` over blocks under a derivative rule of their own: the backward pass
recomputes a block's outputs, and adds its part of the gradient of a node array row by row (autodiff would pass over the
whole array once a block). Rows that come in order stay in the cache, so on a CPU the edges of a map are gone over
twice, by receiver for the gradients of receivers and by sender for those of senders.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from .._kernels import accumulator_dtype, add_at, loop_over_blocks, rows_at, zeros_after
from .._linear_call import linear_call
from ..data._edge_index import EdgeIndex
from ._edge_function import TURNED, EdgeFunction, Side, num_bytes, turned


Kind = Literal["map", "sum"]

# Bytes of a node array of which any row is at hand: what a core of a CPU has for itself.
_CORE_CACHE = 2**20


# --- one block --------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """Positions of one block: index arrays by side, where it starts, and which of its edges count."""

    start: Any
    ids: dict[str, Any]
    mask: Any  # edges that the layout counts; None if all
    valid: Any  # of these, the ones that no block before has had; None if all


def _block_at(fn: EdgeFunction, start: Any, fresh: Any) -> Block:
    def cut(a: Any) -> Any:
        return jax.lax.dynamic_slice_in_dim(jnp.asarray(a), start, fn.block)

    edges = fn.edges
    ids = {
        "sender": cut(edges.senders),
        "receiver": cut(edges.receivers),
        "caller": cut(edges.permutation),
        "crossed": cut(edges.by_receiver),
    }
    mask = None if edges.edge_mask is None else cut(edges.edge_mask)
    valid = mask if fresh is None else fresh if mask is None else mask & fresh
    return Block(start, ids, mask, valid)


def _flat(a: Any) -> Any:
    """`a` with rows of one axis at most: XLA on a CPU copies rows of more axes a small piece at a time."""
    return a.reshape(a.shape[0], -1) if a.ndim > 2 and a.size else a


def _row(fn: EdgeFunction, block: Block, side: Side, operand: Any) -> Any:
    """The block's rows of one operand."""
    if side == "edge":
        return jax.lax.dynamic_slice_in_dim(operand, block.start, fn.block)
    return rows_at(_flat(operand), block.ids[side]).reshape(fn.block, *operand.shape[1:])


def _rows(fn: EdgeFunction, block: Block, values: Sequence[Any]) -> list[Any]:
    """The block's rows of every operand."""
    pairs = zip(fn.sides, values[fn.num_constants :], strict=True)
    return [_row(fn, block, side, operand) for side, operand in pairs]


def _evaluate(fn: EdgeFunction, constants: Sequence[Any], rows: Sequence[Any]) -> Any:
    in_axes = (None, *[0] * len(rows))
    return jax.vmap(fn.function, in_axes=in_axes, axis_size=fn.block)(constants, *rows)


def where_valid(valid: Any, a: Any, other: Any) -> Any:
    if valid is None:
        return a
    return jnp.where(valid.reshape(-1, *[1] * (a.ndim - 1)), a, jnp.asarray(other, a.dtype))


def block_messages(fn: EdgeFunction, block: Block, values: Sequence[Any], other: Any) -> Any:
    """The block's outputs, with `other` for edges that do not count."""
    out = _evaluate(fn, values[: fn.num_constants], _rows(fn, block, values))
    return jax.tree.map(lambda a: where_valid(block.valid, a, other), out)


def fold_blocks(fn: EdgeFunction, body: Callable[[Block, Any], Any], init: Any) -> Any:
    def step(start: Any, fresh: Any, carry: Any) -> Any:
        return body(_block_at(fn, start, fresh), carry)

    return loop_over_blocks(fn.edges.num_edges, fn.block, step, init)


# --- map and sum, with their derivatives ------------------------------------------------------------------------------


def _out_zeros(fn: EdgeFunction, kind: Kind) -> Any:
    """Zeros of the shape of the whole result; sums of 16-bit floats are kept in float32."""
    after = fn.values[-1] if fn.values else jnp.zeros(0)
    if kind == "map":
        return jax.tree.map(lambda s: zeros_after(after, (fn.edges.num_edges, *s.shape), s.dtype), fn.out)
    rows = fn.edges.num_receivers
    return jax.tree.map(lambda s: zeros_after(after, (rows, *s.shape), accumulator_dtype(s.dtype)), fn.out)


def _forward(fn: EdgeFunction, kind: Kind, values: Sequence[Any]) -> Any:
    rows = [jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in values[fn.num_constants :]]
    if kind == "map" and num_bytes(rows) <= 2 * num_bytes(fn.out):
        # What an edge needs is about as large as what it yields, so blocks would save no memory: one fused pass.
        fn = fn._replace(block=fn.edges.num_edges)

    def body(block: Block, out: Any) -> Any:
        if kind == "map":
            values_here = _evaluate(fn, values[: fn.num_constants], _rows(fn, block, values))
            return jax.tree.map(
                lambda o, v: jax.lax.dynamic_update_slice_in_dim(o, where_valid(block.mask, v, 0), block.start, 0),
                out,
                values_here,
            )
        messages = block_messages(fn, block, values, 0)
        ids = block.ids["receiver"]
        return jax.tree.map(lambda o, m: add_at(o, ids, m.astype(o.dtype)), out, messages)

    out = fold_blocks(fn, body, _out_zeros(fn._replace(values=list(values)), kind))
    return jax.tree.map(lambda o, s: o.astype(s.dtype), out, fn.out)


def _backward(fn: EdgeFunction, kind: Kind, values: Sequence[Any], cts: Any, moving: Sequence[int]) -> list[Any]:
    """Cotangents of `values[k]` for the `moving` k, given those of the result."""
    side: Side = "edge" if kind == "map" else "receiver"
    by_sender = [k for k in moving if kind == "map" and _is_sent_far(fn, k, values[k])]
    by_receiver = [k for k in moving if k not in by_sender]
    start = jax.tree.leaves(cts)[0]
    parts = _totals(fn, side, values, cts, by_receiver, start) if by_receiver else {}
    if by_sender:  # after the others: side by side the two would share the threads and the cache
        start = next(iter(parts.values()), start)
        parts |= _totals(turned(fn), TURNED[side], values, cts, by_sender, start)
    return [parts[k] for k in moving]


def _is_sent_far(fn: EdgeFunction, k: int, value: Any) -> bool:
    """Whether `value` is rows of senders, more than the cache of a core holds: it would miss most, in no order."""
    sent = k >= fn.num_constants and fn.sides[k - fn.num_constants] == "sender"
    return sent and jax.default_backend() == "cpu" and value.size * value.dtype.itemsize > _CORE_CACHE


def _totals(
    fn: EdgeFunction, side: Side, values: Sequence[Any], cts: Any, moving: Sequence[int], after: Any
) -> dict[int, Any]:
    """Cotangents by the position of their value; those of the results lie at the edges' `side`."""

    def body(block: Block, totals: list[Any]) -> list[Any]:
        constants, rows = values[: fn.num_constants], _rows(fn, block, values)
        summed = block.valid if moving[0] < fn.num_constants else None  # the rows of others are dropped by their ids

        def of_moving(moved: Sequence[Any]) -> Any:
            arguments = [*constants, *rows]
            for k, value in zip(moving, moved, strict=True):
                arguments[k] = value
            return _evaluate(fn, arguments[: fn.num_constants], arguments[fn.num_constants :])

        block_cts = jax.tree.map(lambda ct: where_valid(summed, _row(fn, block, side, ct), 0), cts)
        _, pullback = jax.vjp(of_moving, [[*constants, *rows][k] for k in moving])
        (parts,) = pullback(block_cts)
        return [
            _accumulate(fn, block, k, *pair) for k, pair in zip(moving, zip(totals, parts, strict=True), strict=True)
        ]

    zeros = [zeros_after(after, _total_shape(fn, k, values[k]), accumulator_dtype(values[k].dtype)) for k in moving]
    totals = fold_blocks(fn, body, zeros)
    return {k: t.astype(values[k].dtype).reshape(values[k].shape) for k, t in zip(moving, totals, strict=True)}


def _total_shape(fn: EdgeFunction, k: int, value: Any) -> tuple[int, ...]:
    return value.shape if k < fn.num_constants else jax.eval_shape(_flat, value).shape


def _accumulate(fn: EdgeFunction, block: Block, k: int, total: Any, part: Any) -> Any:
    part = part.astype(total.dtype)
    if k < fn.num_constants:
        return total + part
    part, side = _flat(part), fn.sides[k - fn.num_constants]
    # An edge that does not count may have an infinite derivative (a distance of zero, say).
    if side == "edge":
        part = where_valid(block.valid, part, 0) + jax.lax.dynamic_slice_in_dim(total, block.start, fn.block)
        return jax.lax.dynamic_update_slice_in_dim(total, part, block.start, 0)
    return add_at(total, block.ids[side], part, block.valid)


def tangent_of(fn: EdgeFunction, kind: Kind, edges: EdgeIndex, values: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The linear part of map or sum at `values`; `tangents` may hold `SymbolicZero`."""
    moving = [k for k, t in enumerate(tangents) if not isinstance(t, SymbolicZero)]
    if not moving:
        return jax.tree.map(lambda z, s: z.astype(s.dtype), _out_zeros(fn, kind), fn.out)

    def apply(residuals: Any, moved: Any) -> Any:
        edges, values = residuals

        def of_moving(*primals: Any) -> Any:
            arguments = [*values]
            for k, value in zip(moving, primals, strict=True):
                arguments[k] = value
            return _forward(fn._replace(edges=edges), kind, arguments)

        return jax.jvp(of_moving, [values[k] for k in moving], list(moved))[1]

    def transpose(residuals: Any, cts: Any) -> Any:
        edges, values = residuals
        return _backward(fn._replace(edges=edges), kind, values, cts, moving)

    return linear_call(apply, transpose, (edges, list(values)), [tangents[k] for k in moving])


def _run(fn: EdgeFunction, kind: Kind) -> Any:
    if fn.edges.num_edges == 0:
        return jax.tree.map(lambda z, s: z.astype(s.dtype), _out_zeros(fn, kind), fn.out)
    bare = fn._replace(values=[])

    @jax.custom_jvp
    def run(edges: EdgeIndex, values: list[Any]) -> Any:
        return _forward(bare._replace(edges=edges), kind, values)

    def rule(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        return run(*primals), tangent_of(bare._replace(edges=primals[0]), kind, primals[0], primals[1], tangents[1])

    run.defjvp(rule, symbolic_zeros=True)
    return run(fn.edges, fn.values)


def map_edges(fn: EdgeFunction) -> Any:
    """The outputs of every edge, `(num_edges, ...)` in layout order, computed block by block."""
    return _run(fn, "map")


def sum_edges(fn: EdgeFunction) -> Any:
    """The outputs summed at every receiver, `(num_receivers, ...)`."""
    return _run(fn, "sum")
