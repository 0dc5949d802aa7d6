r"""The engine's own JAX primitives; this file, `_linear_call.py` and `_ruled.py` alone touch `jax.extend`.

Five operations, each linear in every differentiable argument, and closed under transposition, so forward mode, reverse
mode, any order, `vmap`, `scan` and `checkpoint` follow from a page of rules:

| primitive | meaning | transposes to |
|---|---|---|
| `spmm` | $y_{ihc} = \sum_{e: r(e)=i} w_{eh}\, x_{s(e)hc}$ | `spmm` on the flipped layout (in x), `sddmm` (in w) |
| `sddmm` | $w_{eh} = \sum_c a_{s(e)hc}\, b_{r(e)hc}$ | `spmm` on the flipped layout (in a), `spmm` (in b) |
| `take_rows` | $y_e = x_{id(e)}$ | `sum_rows` |
| `sum_rows` | $x_i = \sum_{e: id(e)=i} y_e$ | `take_rows` |
| `permute` | $y_e = x_{\pi(e)}$ | `permute` by $\pi^{-1}$ |

The weights of `spmm` are in the order of its layout or, `crossed`, in that of the flipped one: a transposed product
reads them where they are. Its operand `after` only has to be there first. Both factors of a product are differentiated
one after the other: XLA runs what does not depend on each other side by side, and two passes over the edges that share
the threads of a CPU take longer than one after the other.
"""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from . import _kernels as kernels
from ._kernels import Layout
from ._linear_call import batch_size, linear_call, zero_tangent


_NUM_LAYOUT = len(Layout._fields)
NOTHING = np.zeros(0, np.float32)  # what an operation that waits for nothing comes after


# --- registration -----------------------------------------------------------------------------------------------------


class _Primitive(Primitive):
    """One whose operands vary over the same axes of a `shard_map`, as its result then does."""

    def bind(self, *args: Any, **params: Any) -> Any:
        return super().bind(*kernels.vary(args, kernels.axes_of(*args)), **params)


def _like_operands(out: ShapedArray, avals: Sequence[ShapedArray]) -> ShapedArray:
    kind = avals[0].manual_axis_type
    if not kind.varying:
        return out
    sharding = avals[0].sharding.update(spec=jax.sharding.PartitionSpec(*[None] * len(out.shape)))
    return out.update(sharding=sharding, manual_axis_type=kind)


def _define(name: str, impl: Callable, out_shape: Callable, static: Sequence[str]) -> Primitive:
    primitive = _Primitive(name)
    compiled = jax.jit(primitive.bind, static_argnames=tuple(static))

    def evaluate(*args: Any, **params: Any) -> Any:
        with jax.disable_jit(False):  # under `jax.disable_jit()` too, where `compiled` would come back here for ever
            return compiled(*args, **params)

    primitive.def_impl(evaluate)
    primitive.def_abstract_eval(lambda *avals, **params: _like_operands(out_shape(*avals, **params), avals))
    for platform in ("cpu", "cuda", "rocm"):
        rule = mlir.lower_fun(ft.partial(impl, platform=platform), multiple_results=False)
        mlir.register_lowering(primitive, rule, platform=platform)
    mlir.register_lowering(primitive, mlir.lower_fun(ft.partial(impl, platform="other"), multiple_results=False))
    return primitive


spmm_p = _define(
    "eqx_graph_spmm",
    kernels.spmm,
    lambda *a, weighted, num_rows, kernel, crossed: ShapedArray((num_rows, *a[weighted].shape[1:]), a[weighted].dtype),
    ("weighted", "num_rows", "kernel", "crossed"),
)
sddmm_p = _define(
    "eqx_graph_sddmm",
    kernels.sddmm,
    lambda a, b, cols, *_, kernel: ShapedArray((cols.shape[0], a.shape[1]), a.dtype),
    ("kernel",),
)
take_rows_p = _define(
    "eqx_graph_take_rows",
    kernels.take_rows,
    lambda x, ids, order, ptr, kernel: ShapedArray((ids.shape[0], *x.shape[1:]), x.dtype),
    ("kernel",),
)
sum_rows_p = _define(
    "eqx_graph_sum_rows",
    kernels.sum_rows,
    lambda y, ids, order, ptr, kernel: ShapedArray((ptr.shape[0] - 1, *y.shape[1:]), y.dtype),
    ("kernel",),
)
permute_p = _define("eqx_graph_permute", kernels.permute, lambda x, *_: x, ())


def _bind_spmm(
    weight: Any, x: Any, layout: Layout, num_rows: int, kernel: str, crossed: bool, after: Any = NOTHING
) -> Any:
    operands = (x, after, *layout) if weight is None else (weight, x, after, *layout)
    return spmm_p.bind(*operands, weighted=weight is not None, num_rows=num_rows, kernel=kernel, crossed=crossed)


def spmm(weight: Any, x: Any, layout: Layout, num_rows: int, kernel: str) -> Any:
    """Sum over the edges of each row of `weight (e, h)` (or 1) times the sender's row of `x (n, h, c)`."""
    return _bind_spmm(weight, x, Layout(*map(jnp.asarray, layout)), num_rows, kernel, crossed=False)


def sddmm(a: Any, b: Any, layout: Layout, kernel: str) -> Any:
    """Dot product over the last axis of the sender's row of `a (n, h, c)` and the receiver's of `b (m, h, c)`."""
    return sddmm_p.bind(a, b, *map(jnp.asarray, layout), kernel=kernel)


def take_rows(x: Any, ids: Any, order: Any, ptr: Any, kernel: str) -> Any:
    """Row `ids[e]` of `x` for every `e`; `order`, `ptr` list the `e` of each row, for the transpose."""
    return take_rows_p.bind(jnp.asarray(x), *map(jnp.asarray, (ids, order, ptr)), kernel=kernel)


def sum_rows(y: Any, ids: Any, order: Any, ptr: Any, kernel: str) -> Any:
    """Sum of the rows `e` of `y` with `ids[e] == i`, for every `i`."""
    return sum_rows_p.bind(jnp.asarray(y), *map(jnp.asarray, (ids, order, ptr)), kernel=kernel)


def permute(x: Any, permutation: Any, inverse: Any) -> Any:
    """Rows of `x` in the order `permutation`; differentiates into the gather by `inverse`, never a scatter."""
    return permute_p.bind(jnp.asarray(x), jnp.asarray(permutation), jnp.asarray(inverse))


# --- derivatives ------------------------------------------------------------------------------------------------------


def _jvp_of_linear_arguments(
    primitive: Primitive, linear: Callable[..., Sequence[int]], both: Callable[..., Any] | None = None
) -> None:
    """A product is differentiated in one factor at a time, and only in factors whose tangent is not zero.

    `both(primals, tangents, **params)` is the tangent where that of neither factor is zero.
    """

    def rule(primals: Sequence, tangents: Sequence, **params: Any) -> tuple:
        out = primitive.bind(*primals, **params)
        moving = [k for k in linear(**params) if type(tangents[k]) is not ad.Zero]
        if both is not None and len(moving) == 2:
            return out, both(primals, tangents, **params)
        total = zero_tangent(out)
        for k in moving:
            terms = [*primals]
            terms[k] = tangents[k]
            total = ad.add_tangents(total, primitive.bind(*terms, **params))
        return out, total

    ad.primitive_jvps[primitive] = rule


def _spmm_tangent(primals: Sequence, tangents: Sequence, **params: Any) -> Any:
    weight, x, _, *layout = primals

    def product(weight: Any, x: Any, layout: Sequence) -> Any:
        return _bind_spmm(weight, x, Layout(*layout), params["num_rows"], params["kernel"], params["crossed"])

    def apply(residuals: tuple, moved: tuple) -> Any:
        weight, x, layout = residuals
        return product(moved[0], x, layout) + product(weight, moved[1], layout)

    def transpose(residuals: tuple, ct: Any) -> tuple:
        weight, x, layout = residuals
        ct_weight = _weight_cotangent(ct, x, Layout(*layout), **params)
        return ct_weight, _x_cotangent(ct, weight, x.shape[0], Layout(*layout), after=ct_weight, **params)

    return linear_call(apply, transpose, (weight, x, tuple(layout)), tuple(tangents[:2]))


def _sddmm_tangent(primals: Sequence, tangents: Sequence, kernel: str) -> Any:
    a, b, *layout = primals

    def apply(residuals: tuple, moved: tuple) -> Any:
        a, b, layout = residuals
        return sddmm_p.bind(moved[0], b, *layout, kernel=kernel) + sddmm_p.bind(a, moved[1], *layout, kernel=kernel)

    def transpose(residuals: tuple, ct: Any) -> tuple:
        a, b, layout = residuals
        ct_a = _a_cotangent(ct, b, a.shape[0], Layout(*layout), kernel)
        return ct_a, _b_cotangent(ct, a, b.shape[0], Layout(*layout), kernel, after=ct_a)

    return linear_call(apply, transpose, (a, b, tuple(layout)), tuple(tangents[:2]))


_jvp_of_linear_arguments(spmm_p, lambda weighted, **_: (0, 1) if weighted else (0,), _spmm_tangent)
_jvp_of_linear_arguments(sddmm_p, lambda kernel: (0, 1), _sddmm_tangent)
_jvp_of_linear_arguments(take_rows_p, lambda kernel: (0,))
_jvp_of_linear_arguments(sum_rows_p, lambda kernel: (0,))
_jvp_of_linear_arguments(permute_p, lambda: (0,))


def _x_cotangent(
    ct: Any, weight: Any, count: int, layout: Layout, *, crossed: bool, kernel: str, after: Any = NOTHING, **_: Any
) -> Any:
    return _bind_spmm(weight, ct, layout.flip(), count, kernel, not crossed, after)


def _weight_cotangent(ct: Any, x: Any, layout: Layout, *, crossed: bool, kernel: str, **_: Any) -> Any:
    if crossed:
        return sddmm_p.bind(ct, x, *layout.flip(), kernel=kernel)
    return sddmm_p.bind(x, ct, *layout, kernel=kernel)


def _a_cotangent(ct: Any, b: Any, num_rows: int, layout: Layout, kernel: str) -> Any:
    return _bind_spmm(ct, b, layout.flip(), num_rows, kernel, crossed=True)


def _b_cotangent(ct: Any, a: Any, num_rows: int, layout: Layout, kernel: str, after: Any = NOTHING) -> Any:
    return _bind_spmm(ct, a, layout, num_rows, kernel, crossed=False, after=after)


def _spmm_transpose(ct: Any, *args: Any, weighted: bool, **params: Any) -> tuple:
    weight, x, after, *layout = args if weighted else (None, *args)
    del after
    cts = [None] * len(args)
    if type(ct) is ad.Zero:
        return tuple(cts)
    if ad.is_undefined_primal(x):
        cts[weighted] = _x_cotangent(ct, weight, x.aval.shape[0], Layout(*layout), **params)
    else:
        cts[0] = _weight_cotangent(ct, x, Layout(*layout), **params)
    return tuple(cts)


def _sddmm_transpose(ct: Any, a: Any, b: Any, *layout: Any, kernel: str) -> tuple:
    nothing = (None,) * _NUM_LAYOUT
    if type(ct) is ad.Zero:
        return (None, None, *nothing)
    if ad.is_undefined_primal(a):
        return (_a_cotangent(ct, b, a.aval.shape[0], Layout(*layout), kernel), None, *nothing)
    return (None, _b_cotangent(ct, a, b.aval.shape[0], Layout(*layout), kernel), *nothing)


def _indexed_transpose(other: Callable[[], Primitive], swap: bool) -> Callable:
    def rule(ct: Any, x: Any, *indices: Any, **params: Any) -> tuple:
        nothing = (None,) * len(indices)
        if type(ct) is ad.Zero:
            return (None, *nothing)
        return (other().bind(ct, *(indices[::-1] if swap else indices), **params), *nothing)

    return rule


ad.primitive_transposes[spmm_p] = _spmm_transpose
ad.primitive_transposes[sddmm_p] = _sddmm_transpose
ad.primitive_transposes[take_rows_p] = _indexed_transpose(lambda: sum_rows_p, swap=False)
ad.primitive_transposes[sum_rows_p] = _indexed_transpose(lambda: take_rows_p, swap=False)
ad.primitive_transposes[permute_p] = _indexed_transpose(lambda: permute_p, swap=True)


# --- batching ---------------------------------------------------------------------------------------------------------


def _batched_indices(primitive: Primitive, args: Sequence, dims: Sequence, params: dict) -> tuple:
    """A batch of different graphs: one after the other."""
    fixed = [None if d is not None else a for a, d in zip(args, dims, strict=True)]
    mapped = [jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True) if d is not None]

    def one(slices: Sequence) -> Any:
        rest = iter(slices)
        return primitive.bind(*(next(rest) if a is None else a for a in fixed), **params)

    return jax.lax.map(one, mapped), 0


def _fold(a: Any, d: Any, axis: int, size: int) -> Any:
    """The batch axis `d` of `a` (repeated if there is none) merged into `axis` of its unbatched form."""
    batched = jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
    moved = jnp.moveaxis(batched, 0, axis)
    return moved.reshape(*moved.shape[:axis], size * moved.shape[axis + 1], *moved.shape[axis + 2 :])


def _spmm_batch(args: Sequence, dims: Sequence, **params: Any) -> tuple:
    k = int(params["weighted"])
    if any(d is not None for d in dims[k + 2 :]):
        return _batched_indices(spmm_p, args, dims, params)
    if all(d is None for d in dims[: k + 1]):  # only what it comes after is a batch
        return spmm_p.bind(*args, **params), None
    size, x, layout = batch_size(args, dims), args[k], args[k + 1 :]
    heads, channels = (x.shape[i + (dims[k] is not None and dims[k] <= i)] for i in (1, 2))
    if k and dims[0] is not None:  # other weights for every batch entry: more heads
        operands = (_fold(args[0], dims[0], 1, size), _fold(x, dims[1], 1, size))
        out = spmm_p.bind(*operands, *layout, **params)
        return out.reshape(params["num_rows"], size, heads, channels), 1
    out = spmm_p.bind(*args[:k], _fold(x, dims[k], 2, size), *layout, **params)  # more channels
    return out.reshape(params["num_rows"], heads, size, channels), 2


def _sddmm_batch(args: Sequence, dims: Sequence, kernel: str) -> tuple:
    if any(d is not None for d in dims[2:]):
        return _batched_indices(sddmm_p, args, dims, {"kernel": kernel})
    size = batch_size(args, dims)
    a, b = (_fold(v, d, 1, size) for v, d in zip(args[:2], dims[:2], strict=True))
    out = sddmm_p.bind(a, b, *args[2:], kernel=kernel)
    return out.reshape(out.shape[0], size, out.shape[1] // size), 1


def _indexed_batch(primitive: Primitive) -> Callable:
    def rule(args: Sequence, dims: Sequence, **params: Any) -> tuple:
        if any(d is not None for d in dims[1:]):
            return _batched_indices(primitive, args, dims, params)
        return primitive.bind(jnp.moveaxis(args[0], dims[0], 1), *args[1:], **params), 1

    return rule


batching.primitive_batchers[spmm_p] = _spmm_batch
batching.primitive_batchers[sddmm_p] = _sddmm_batch
for _primitive in (take_rows_p, sum_rows_p, permute_p):
    batching.primitive_batchers[_primitive] = _indexed_batch(_primitive)
