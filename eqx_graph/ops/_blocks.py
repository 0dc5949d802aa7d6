"""The general route: a function of one edge, run over blocks of edges, so that no array holds every message.

An `EdgeFunction` is a function of one edge with the arrays its arguments are rows of. `map_edges` and `sum_edges` run
it over blocks under a derivative rule of their own: the backward pass recomputes a block's outputs, and adds its part
of the gradient of a node array row by row (autodiff would pass over the whole array once a block). `max_edges`
and `prod_edges` are built on `sum_edges`: autodiff never sees a running maximum.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from .._kernels import accumulator_dtype, add_at, alone, loop_over_blocks, rows_at, zeros_after
from .._primitives import linear_call
from ..data._edges import EdgeIndex
from ._segment import with_zero_factors


Side = Literal["sender", "receiver", "edge", "caller"]
Kind = Literal["map", "sum"]

# Bytes of arguments and outputs of one block. On a CPU they should stay in the cache; an accelerator wants long blocks.
_CPU_BUDGET = 8 * 2**20
_ACCELERATOR_BUDGET = 512 * 2**20


class EdgeFunction(NamedTuple):
    """`function(constants, *slices)` of one edge; `values = [*constants, *operands]` are all its arrays."""

    function: Callable[..., Any]
    num_constants: int
    sides: tuple[Side, ...]  # which row of its operand a slice is: the sender's, the receiver's, the edge's
    out: Any  # shapes of one edge's outputs
    block: int
    values: list[Any]
    edges: EdgeIndex


def default_block_size(num_edges: int, edge_bytes: int, block_bytes: int | None = None) -> int:
    """Edges in a block: as many as keep `edge_bytes` for each within `block_bytes` (a default for the backend)."""
    if block_bytes is None:
        block_bytes = _CPU_BUDGET if jax.default_backend() == "cpu" else _ACCELERATOR_BUDGET
    return max(1, min(num_edges, max(256, block_bytes // max(edge_bytes, 1))))


def _num_bytes(shapes: Any) -> int:
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

    out = eqx.filter_eval_shape(closed, *rows)
    if block_size is None:
        block_size = default_block_size(edges.num_edges, _num_bytes((rows, out)))
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


# --- one block --------------------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """Positions of one block: index arrays by side, where it starts, and which of its edges count."""

    start: Any
    ids: dict[str, Any]
    mask: Any  # edges that the layout counts; None if all
    valid: Any  # of these, the ones that no block before has had; None if all


def _block_at(fn: EdgeFunction, start: Any, fresh: Any) -> _Block:
    def cut(a: Any) -> Any:
        return jax.lax.dynamic_slice_in_dim(jnp.asarray(a), start, fn.block)

    edges = fn.edges
    ids = {"sender": cut(edges.senders), "receiver": cut(edges.receivers), "caller": cut(edges.permutation)}
    mask = None if edges.edge_mask is None else cut(edges.edge_mask)
    valid = mask if fresh is None else fresh if mask is None else mask & fresh
    return _Block(start, ids, mask, valid)


def _flat(a: Any) -> Any:
    """`a` with rows of one axis at most: XLA on a CPU copies rows of more axes a small piece at a time."""
    return a.reshape(a.shape[0], -1) if a.ndim > 2 and a.size else a


def _rows(fn: EdgeFunction, block: _Block, values: Sequence[Any]) -> list[Any]:
    """The block's rows of every operand."""
    out = []
    for side, operand in zip(fn.sides, values[fn.num_constants :], strict=True):
        if side == "edge":
            out.append(jax.lax.dynamic_slice_in_dim(operand, block.start, fn.block))
        else:
            rows = rows_at(_flat(operand), block.ids[side])
            out.append(rows.reshape(fn.block, *operand.shape[1:]))
    return out


def _evaluate(fn: EdgeFunction, constants: Sequence[Any], rows: Sequence[Any]) -> Any:
    in_axes = (None, *[0] * len(rows))
    return jax.vmap(fn.function, in_axes=in_axes, axis_size=fn.block)(constants, *rows)


def _where(valid: Any, a: Any, other: Any) -> Any:
    if valid is None:
        return a
    return jnp.where(valid.reshape(-1, *[1] * (a.ndim - 1)), a, jnp.asarray(other, a.dtype))


def _messages(fn: EdgeFunction, block: _Block, values: Sequence[Any], other: Any) -> Any:
    """The block's outputs, with `other` for edges that do not count."""
    out = _evaluate(fn, values[: fn.num_constants], _rows(fn, block, values))
    return jax.tree.map(lambda a: _where(block.valid, a, other), out)


def _loop(fn: EdgeFunction, body: Callable[[_Block, Any], Any], init: Any) -> Any:
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
    if kind == "map" and _num_bytes(rows) <= 2 * _num_bytes(fn.out):
        # What an edge needs is about as large as what it yields, so blocks would save no memory: one fused pass.
        fn = fn._replace(block=fn.edges.num_edges)

    def body(block: _Block, out: Any) -> Any:
        if kind == "map":
            values_here = _evaluate(fn, values[: fn.num_constants], _rows(fn, block, values))
            return jax.tree.map(
                lambda o, v: jax.lax.dynamic_update_slice_in_dim(o, _where(block.mask, v, 0), block.start, 0),
                out,
                values_here,
            )
        messages = _messages(fn, block, values, 0)
        ids = block.ids["receiver"]
        return jax.tree.map(lambda o, m: add_at(o, ids, m.astype(o.dtype)), out, messages)

    out = _loop(fn, body, _out_zeros(fn._replace(values=list(values)), kind))
    return jax.tree.map(lambda o, s: o.astype(s.dtype), out, fn.out)


def _backward(fn: EdgeFunction, kind: Kind, values: Sequence[Any], cts: Any, moving: Sequence[int]) -> list[Any]:
    """Cotangents of `values[k]` for the `moving` k, given those of the result."""

    def body(block: _Block, totals: list[Any]) -> list[Any]:
        constants, rows = values[: fn.num_constants], _rows(fn, block, values)

        def of_moving(moved: Sequence[Any]) -> Any:
            arguments = [*constants, *rows]
            for k, value in zip(moving, moved, strict=True):
                arguments[k] = value
            return _evaluate(fn, arguments[: fn.num_constants], arguments[fn.num_constants :])

        def cut(ct: Any) -> Any:
            if kind == "map":
                return jax.lax.dynamic_slice_in_dim(ct, block.start, fn.block)
            return rows_at(ct, block.ids["receiver"])

        block_cts = jax.tree.map(lambda ct: _where(block.valid, cut(ct), 0), cts)
        _, pullback = jax.vjp(of_moving, [[*constants, *rows][k] for k in moving])
        (parts,) = pullback(block_cts)
        return [
            _accumulate(fn, block, k, *pair) for k, pair in zip(moving, zip(totals, parts, strict=True), strict=True)
        ]

    after = jax.tree.leaves(cts)[0]
    zeros = [zeros_after(after, _total_shape(fn, k, values[k]), accumulator_dtype(values[k].dtype)) for k in moving]
    totals = _loop(fn, body, zeros)
    return [total.astype(values[k].dtype).reshape(values[k].shape) for k, total in zip(moving, totals, strict=True)]


def _total_shape(fn: EdgeFunction, k: int, value: Any) -> tuple[int, ...]:
    return value.shape if k < fn.num_constants else jax.eval_shape(_flat, value).shape


def _accumulate(fn: EdgeFunction, block: _Block, k: int, total: Any, part: Any) -> Any:
    part = part.astype(total.dtype)
    if k < fn.num_constants:
        return total + part
    # An edge that does not count may have an infinite derivative (a distance of zero, say): times zero is not zero.
    part = _where(block.valid, _flat(part), 0)
    side = fn.sides[k - fn.num_constants]
    if side == "edge":
        part = part + jax.lax.dynamic_slice_in_dim(total, block.start, fn.block)
        return jax.lax.dynamic_update_slice_in_dim(total, part, block.start, 0)
    return add_at(total, block.ids[side], part)


def _tangent(fn: EdgeFunction, kind: Kind, edges: EdgeIndex, values: Sequence[Any], tangents: Sequence[Any]) -> Any:
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
        return run(*primals), _tangent(bare._replace(edges=primals[0]), kind, primals[0], primals[1], tangents[1])

    run.defjvp(rule, symbolic_zeros=True)
    return run(fn.edges, fn.values)


def map_edges(fn: EdgeFunction) -> Any:
    """The outputs of every edge, `(num_edges, ...)` in layout order, computed block by block."""
    return _run(fn, "map")


def sum_edges(fn: EdgeFunction) -> Any:
    """The outputs summed at every receiver, `(num_receivers, ...)`."""
    return _run(fn, "sum")


# --- maximum and product ----------------------------------------------------------------------------------------------


def _linear_part(fn: EdgeFunction, tangents: Sequence[Any], transform: Callable[..., Any], *at_receiver: Any) -> Any:
    """Sum at every receiver of the tangent of `transform(output, *rows)`, given those of the values of `fn`."""
    extended = extend(fn, transform, at_receiver)
    split = fn.num_constants
    still = [SymbolicZero(jax.typeof(v)) for v in extended.values]
    num_extra = extended.num_constants - split
    last = split + num_extra + len(fn.sides)
    moved = [*tangents[:split], *still[split : split + num_extra], *tangents[split:], *still[last:]]
    return _tangent(extended._replace(values=[]), "sum", fn.edges, extended.values, moved)


def _running_max(fn: EdgeFunction) -> tuple[Any, Any]:
    """Maximum at every receiver (-inf where none), and how many edges attain it."""
    shape, dtype = (fn.edges.num_receivers, *fn.out.shape), fn.out.dtype
    nothing = jnp.full(fn.out.shape, -jnp.inf, dtype)

    def body(block: _Block, carry: Any) -> Any:
        # Receivers are sorted, so only one receiver, of the last edge before this block, can have been met before.
        # Its maximum travels beside `top`: were the old `top` read here, XLA would copy all of it once a block.
        top, count, (last, last_top) = carry
        messages, ids = _messages(fn, block, fn.values, -jnp.inf), block.ids["receiver"]
        start = 0 if block.valid is None else jnp.argmax(block.valid)
        end = fn.block - 1 if block.valid is None else fn.block - 1 - jnp.argmax(block.valid[::-1])
        top = top.at[ids].max(messages, mode="promise_in_bounds", wrap_negative_indices=False)
        before = jnp.where(ids[start] == last, last_top, nothing)
        count = count.at[ids[start]].multiply((top[ids[start]] == before).astype(dtype))
        attained = (messages == rows_at(top, ids)).astype(dtype)
        count = add_at(count, ids, _where(block.valid, attained, 0))
        any_valid = block.valid is None or jnp.any(block.valid)
        last = jnp.where(any_valid, ids[end], last)
        return top, count, (last, top[last])

    at_first = jnp.asarray(0, jnp.int32), nothing
    return _loop(fn, body, (jnp.full(shape, -jnp.inf, dtype), jnp.zeros(shape, dtype), at_first))[:2]


def _compared(function: Callable[..., Any], constants: Sequence[Any], slices: Sequence[Any]) -> Any:
    """The output, the same to the last bit in every pass, and without a derivative."""
    return alone(function, *jax.lax.stop_gradient((list(constants), *slices)))


def max_edges(fn: EdgeFunction) -> Any:
    r"""Largest output at every receiver, $-\infty$ where no edge counts; ties share the gradient evenly."""
    if fn.edges.num_edges == 0:
        return jnp.full((fn.edges.num_receivers, *fn.out.shape), -jnp.inf, fn.out.dtype)
    bare = fn._replace(values=[])

    def compared(constants: Sequence[Any], *slices: Any) -> Any:
        return _compared(fn.function, constants, slices)

    def with_compared(constants: Sequence[Any], *slices: Any) -> Any:
        return fn.function(constants, *slices), compared(constants, *slices)

    @jax.custom_jvp
    def run(edges: EdgeIndex, values: list[Any]) -> Any:
        return _running_max(bare._replace(function=compared, edges=edges, values=values))

    def rule(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        top, count = run(*primals)
        here = bare._replace(function=with_compared, out=(fn.out, fn.out), edges=primals[0], values=primals[1])
        fixed, share = jax.lax.stop_gradient((top, 1 / jnp.maximum(count, 1)))
        moved = _linear_part(here, tangents[1], lambda m, t, s: jnp.where(m[1] == t, m[0], 0) * s, fixed, share)
        return (top, count), (moved, jnp.zeros_like(count))

    run.defjvp(rule, symbolic_zeros=True)
    return run(fn.edges, fn.values)[0]


def _nonzero_product(fn: EdgeFunction) -> Any:
    """Product of the outputs that are not zero, at every receiver."""
    bare = fn._replace(values=[])

    @jax.custom_jvp
    def run(edges: EdgeIndex, values: list[Any]) -> Any:
        here = bare._replace(edges=edges, values=values)

        def body(block: _Block, total: Any) -> Any:
            messages = _messages(here, block, values, 1)
            messages = jnp.where(messages == 0, 1, messages)
            return total.at[block.ids["receiver"]].multiply(messages, mode="promise_in_bounds")

        return _loop(here, body, jnp.ones((edges.num_receivers, *fn.out.shape), fn.out.dtype))

    def rule(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        out = run(*primals)
        here = bare._replace(edges=primals[0], values=primals[1])
        return out, out * _linear_part(here, tangents[1], lambda m: jnp.log(jnp.abs(jnp.where(m == 0, 1, m))))

    run.defjvp(rule, symbolic_zeros=True)
    return run(fn.edges, fn.values)


@jax.custom_jvp
def _with_value(m: Any, value: Any) -> Any:
    """`value`, with the derivative of `m`."""
    return value


@_with_value.defjvp
def _with_value_jvp(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    return _with_value(*primals), tangents[0]


def prod_edges(fn: EdgeFunction) -> Any:
    """Product of the outputs at every receiver, 1 where no edge counts; exact gradients at zeros too."""
    if fn.edges.num_edges == 0:
        return jnp.ones((fn.edges.num_receivers, *fn.out.shape), fn.out.dtype)
    bare = fn.function

    def same_everywhere(constants: Sequence[Any], *slices: Any) -> Any:
        """The output, the same to the last bit wherever it is compared with zero."""
        return _with_value(bare(constants, *slices), _compared(bare, constants, slices))

    fn = fn._replace(function=same_everywhere)
    product = _nonzero_product(fn)

    def zero_terms(m: Any) -> tuple[Any, Any, Any]:
        zero = jnp.where(m == 0, m, 0)
        return (m == 0).astype(m.dtype), zero, zero**2

    count, total, squares = sum_edges(extend(fn, zero_terms))
    return with_zero_factors(product, count, total, squares)
