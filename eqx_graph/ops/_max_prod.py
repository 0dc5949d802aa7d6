"""Maximum and product of the outputs of an edge function, block by block: autodiff never sees a running maximum.

Both are differentiated through sums over the edges, so their backward passes are those of `sum_edges`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from .._kernels import accumulator_dtype, add_at, alone, rows_at
from .._ruled import ruled
from ..data._edge_index import EdgeIndex
from ._blocks import Block, block_messages, fold_blocks, sum_edges, tangent_of, where_valid
from ._edge_function import EdgeFunction, extend
from ._segment import with_zero_factors


def _linear_part(fn: EdgeFunction, tangents: Sequence[Any], transform: Callable[..., Any], *at_receiver: Any) -> Any:
    """Sum at every receiver of the tangent of `transform(output, *rows)`, given those of the values of `fn`."""
    extended = extend(fn, transform, at_receiver)
    split = fn.num_constants
    still = [SymbolicZero(jax.typeof(v)) for v in extended.values]
    num_extra = extended.num_constants - split
    last = split + num_extra + len(fn.sides)
    moved = [*tangents[:split], *still[split : split + num_extra], *tangents[split:], *still[last:]]
    return tangent_of(extended._replace(values=[]), "sum", fn.edges, extended.values, moved)


def _running_max(fn: EdgeFunction) -> tuple[Any, Any]:
    """Maximum at every receiver (-inf where none), and how many edges attain it."""
    shape, dtype = (fn.edges.num_receivers, *fn.out.shape), fn.out.dtype
    nothing = jnp.full(fn.out.shape, -jnp.inf, dtype)

    def body(block: Block, carry: Any) -> Any:
        # Receivers are sorted, so only one receiver, of the last edge before this block, can have been met before.
        # Its maximum travels beside `top`: were the old `top` read here, XLA would copy all of it once a block.
        top, count, (last, last_top) = carry
        messages, ids = block_messages(fn, block, fn.values, -jnp.inf), block.ids["receiver"]
        start = 0 if block.valid is None else jnp.argmax(block.valid)
        end = fn.block - 1 if block.valid is None else fn.block - 1 - jnp.argmax(block.valid[::-1])
        top = top.at[ids].max(messages, mode="promise_in_bounds", wrap_negative_indices=False)
        before = jnp.where(ids[start] == last, last_top, nothing)
        count = count.at[ids[start]].multiply((top[ids[start]] == before).astype(count.dtype))
        attained = (messages == rows_at(top, ids)).astype(count.dtype)
        count = add_at(count, ids, where_valid(block.valid, attained, 0))
        any_valid = block.valid is None or jnp.any(block.valid)
        last = jnp.where(any_valid, ids[end], last)
        return top, count, (last, top[last])

    at_first = jnp.asarray(0, jnp.int32), nothing
    return fold_blocks(
        fn, body, (jnp.full(shape, -jnp.inf, dtype), jnp.zeros(shape, accumulator_dtype(dtype)), at_first)
    )[:2]


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

    def top_and_count(edges: EdgeIndex, values: list[Any]) -> Any:
        return _running_max(bare._replace(function=compared, edges=edges, values=values))

    def rule(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        top, count = run(*primals)
        here = bare._replace(function=with_compared, out=(fn.out, fn.out), edges=primals[0], values=primals[1])
        fixed, share = jax.lax.stop_gradient((top, (1 / jnp.maximum(count, 1)).astype(top.dtype)))
        moved = _linear_part(here, tangents[1], lambda m, t, s: jnp.where(m[1] == t, m[0], 0) * s, fixed, share)
        return (top, count), (moved, jnp.zeros_like(count))

    run = ruled(top_and_count, rule)
    return run(fn.edges, fn.values)[0]


def _nonzero_product(fn: EdgeFunction) -> Any:
    """Product of the outputs that are not zero, at every receiver."""
    bare = fn._replace(values=[])

    def product(edges: EdgeIndex, values: list[Any]) -> Any:
        here = bare._replace(edges=edges, values=values)

        def body(block: Block, total: Any) -> Any:
            messages = block_messages(here, block, values, 1)
            messages = jnp.where(messages == 0, 1, messages)
            return total.at[block.ids["receiver"]].multiply(messages, mode="promise_in_bounds")

        return fold_blocks(here, body, jnp.ones((edges.num_receivers, *fn.out.shape), fn.out.dtype))

    def rule(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
        out = run(*primals)
        here = bare._replace(edges=primals[0], values=primals[1])
        return out, out * _linear_part(here, tangents[1], lambda m: jnp.log(jnp.abs(jnp.where(m == 0, 1, m))))

    run = ruled(product, rule)
    return run(fn.edges, fn.values)


# The second argument, with the derivative of the first.
_with_value = ruled(lambda m, value: value, lambda primals, tangents: (_with_value(*primals), tangents[0]))


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
