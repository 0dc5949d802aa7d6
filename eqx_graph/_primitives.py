r"""The engine's own JAX primitives: the only file that touches `jax.extend` and `jax.interpreters`.

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
reads them where they are.

And `linear_call`: any linear function given together with its transpose (JAX's own has no batching rule).
"""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from . import _kernels as kernels
from ._kernels import Layout


_NUM_LAYOUT = len(Layout._fields)


# --- registration -----------------------------------------------------------------------------------------------------


def _define(name: str, impl: Callable, out_shape: Callable, static: Sequence[str]) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=tuple(static)))
    primitive.def_abstract_eval(lambda *avals, **params: out_shape(*avals, **params))
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
    "eqx_graph_sddmm", kernels.sddmm, lambda a, b, cols, *_: ShapedArray((cols.shape[0], a.shape[1]), a.dtype), ()
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


def _bind_spmm(weight: Any, x: Any, layout: Layout, num_rows: int, kernel: str, crossed: bool) -> Any:
    operands = (x, *layout) if weight is None else (weight, x, *layout)
    return spmm_p.bind(*operands, weighted=weight is not None, num_rows=num_rows, kernel=kernel, crossed=crossed)


def spmm(weight: Any, x: Any, layout: Layout, num_rows: int, kernel: str) -> Any:
    """Sum over the edges of each row of `weight (e, h)` (or 1) times the sender's row of `x (n, h, c)`."""
    return _bind_spmm(weight, x, Layout(*map(jnp.asarray, layout)), num_rows, kernel, crossed=False)


def sddmm(a: Any, b: Any, layout: Layout) -> Any:
    """Dot product over the last axis of the sender's row of `a (n, h, c)` and the receiver's of `b (m, h, c)`."""
    return sddmm_p.bind(a, b, *map(jnp.asarray, layout))


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


def _zero(x: Any) -> Any:
    return ad.Zero(jax.typeof(x).to_tangent_aval())


def _jvp_of_linear_arguments(primitive: Primitive, linear: Callable[..., Sequence[int]]) -> None:
    """A product is differentiated in one factor at a time, and only in factors whose tangent is not zero."""

    def rule(primals: Sequence, tangents: Sequence, **params: Any) -> tuple:
        out = primitive.bind(*primals, **params)
        total = _zero(out)
        for k in linear(**params):
            if type(tangents[k]) is not ad.Zero:
                terms = [*primals]
                terms[k] = tangents[k]
                total = ad.add_tangents(total, primitive.bind(*terms, **params))
        return out, total

    ad.primitive_jvps[primitive] = rule


_jvp_of_linear_arguments(spmm_p, lambda weighted, **_: (0, 1) if weighted else (0,))
_jvp_of_linear_arguments(sddmm_p, lambda: (0, 1))
_jvp_of_linear_arguments(take_rows_p, lambda kernel: (0,))
_jvp_of_linear_arguments(sum_rows_p, lambda kernel: (0,))
_jvp_of_linear_arguments(permute_p, lambda: (0,))


def _spmm_transpose(ct: Any, *args: Any, weighted: bool, num_rows: int, kernel: str, crossed: bool) -> tuple:
    weight, x, *layout = args if weighted else (None, *args)
    layout, nothing = Layout(*layout), (None,) * _NUM_LAYOUT
    if type(ct) is ad.Zero:
        return (None,) * len(args)
    if ad.is_undefined_primal(x):
        ct_x = _bind_spmm(weight, ct, layout.flip(), x.aval.shape[0], kernel, not crossed)
        return (None, ct_x, *nothing) if weighted else (ct_x, *nothing)
    dots = sddmm_p.bind(ct, x, *layout.flip()) if crossed else sddmm_p.bind(x, ct, *layout)
    return (dots, None, *nothing)


def _sddmm_transpose(ct: Any, a: Any, b: Any, *layout: Any) -> tuple:
    nothing = (None,) * _NUM_LAYOUT
    if type(ct) is ad.Zero:
        return (None, None, *nothing)
    forward = Layout(*layout)
    if ad.is_undefined_primal(a):
        return (_bind_spmm(ct, b, forward.flip(), a.aval.shape[0], "auto", crossed=True), None, *nothing)
    return (None, _bind_spmm(ct, a, forward, b.aval.shape[0], "auto", crossed=False), *nothing)


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


def _size(args: Sequence, dims: Sequence) -> int:
    return next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)


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
    return moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :])


def _spmm_batch(args: Sequence, dims: Sequence, **params: Any) -> tuple:
    k = int(params["weighted"])
    if any(d is not None for d in dims[k + 1 :]):
        return _batched_indices(spmm_p, args, dims, params)
    size, x, layout = _size(args, dims), args[k], args[k + 1 :]
    heads, channels = (x.shape[i + (dims[k] is not None and dims[k] <= i)] for i in (1, 2))
    if k and dims[0] is not None:  # other weights for every batch entry: more heads
        operands = (_fold(args[0], dims[0], 1, size), _fold(x, dims[1], 1, size))
        out = spmm_p.bind(*operands, *layout, **params)
        return out.reshape(params["num_rows"], size, heads, channels), 1
    out = spmm_p.bind(*args[:k], _fold(x, dims[k], 2, size), *layout, **params)  # more channels
    return out.reshape(params["num_rows"], heads, size, channels), 2


def _sddmm_batch(args: Sequence, dims: Sequence) -> tuple:
    if any(d is not None for d in dims[2:]):
        return _batched_indices(sddmm_p, args, dims, {})
    size = _size(args, dims)
    a, b = (_fold(v, d, 1, size) for v, d in zip(args[:2], dims[:2], strict=True))
    out = sddmm_p.bind(a, b, *args[2:])
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


# --- a linear function with its transpose -----------------------------------------------------------------------------

linear_call_p = Primitive("eqx_graph_linear_call")
linear_call_p.multiple_results = True


def linear_call(
    apply: Callable[[Any, Any], Any], transpose: Callable[[Any, Any], Any], residuals: Any, operand: Any
) -> Any:
    """`apply(residuals, operand)`, linear in `operand`, whose transpose is `transpose(residuals, cotangent)`.

    Both functions must take every array as an argument. Forward mode differentiates `apply`; reverse mode calls
    `transpose`, whose own derivatives are those of the operations in it.
    """
    closed, out_shape = jax.make_jaxpr(apply, return_shape=True)(residuals, operand)
    flat_residuals, residual_tree = jax.tree.flatten(residuals)
    flat_operand, operand_tree = jax.tree.flatten(operand)
    out_tree = jax.tree.structure(out_shape)

    def flat_transpose(flat_residuals: Sequence, flat_cts: Sequence) -> list:
        residuals = jax.tree.unflatten(residual_tree, flat_residuals)
        cts = transpose(residuals, jax.tree.unflatten(out_tree, flat_cts))
        return operand_tree.flatten_up_to(cts)

    out = linear_call_p.bind(
        *flat_residuals, *flat_operand, jaxpr=closed, transpose=flat_transpose, num_residuals=len(flat_residuals)
    )
    return jax.tree.unflatten(out_tree, out)


def _linear_impl(*args: Any, jaxpr: ClosedJaxpr, transpose: Callable, num_residuals: int) -> Any:
    del transpose, num_residuals
    return jaxpr_as_fun(jaxpr)(*args)


def _linear_jvp(primals: Sequence, tangents: Sequence, *, jaxpr: ClosedJaxpr, **params: Any) -> tuple:
    out = linear_call_p.bind(*primals, jaxpr=jaxpr, **params)
    num_residuals = params["num_residuals"]
    total = [_zero(o) for o in out]
    operand_tangents = tangents[num_residuals:]
    if any(type(t) is not ad.Zero for t in operand_tangents):
        moved = map(ad.instantiate_zeros, operand_tangents)
        total = linear_call_p.bind(*primals[:num_residuals], *moved, jaxpr=jaxpr, **params)
    moving = [k for k in range(num_residuals) if type(tangents[k]) is not ad.Zero]
    if moving:

        def of_residuals(*moved: Any) -> list:
            args = [*primals]
            for k, value in zip(moving, moved, strict=True):
                args[k] = value
            return jaxpr_as_fun(jaxpr)(*args)

        _, extra = jax.jvp(of_residuals, [primals[k] for k in moving], [tangents[k] for k in moving])
        total = [ad.add_tangents(t, e) for t, e in zip(total, extra, strict=True)]
    return out, total


def _linear_transpose(cts: Sequence, *args: Any, transpose: Callable, num_residuals: int, **_: Any) -> list:
    nothing = [None] * num_residuals
    if all(type(ct) is ad.Zero for ct in cts):
        return nothing + [None] * (len(args) - num_residuals)
    operand_cts = transpose(tuple(args[:num_residuals]), [ad.instantiate_zeros(ct) for ct in cts])
    return nothing + list(operand_cts)


def _linear_batch(
    args: Sequence, dims: Sequence, *, jaxpr: ClosedJaxpr, transpose: Callable, num_residuals: int
) -> tuple:
    size = _size(args, dims)
    residuals = [a if d is None else jnp.moveaxis(a, d, 0) for a, d in zip(args, dims, strict=True)][:num_residuals]
    axes = tuple(None if d is None else 0 for d in dims[:num_residuals])
    operand = [
        jnp.broadcast_to(a, (size, *a.shape)) if d is None else jnp.moveaxis(a, d, 0)
        for a, d in zip(args[num_residuals:], dims[num_residuals:], strict=True)
    ]

    def split(function):
        return lambda res, lin: function(*res, *lin)

    apply = jax.vmap(split(jaxpr_as_fun(jaxpr)), in_axes=(axes, 0))
    batched = jax.make_jaxpr(apply)(tuple(residuals), operand)
    out = linear_call_p.bind(
        *residuals,
        *operand,
        jaxpr=batched,
        transpose=jax.vmap(lambda res, cts: list(transpose(res, cts)), in_axes=(axes, 0)),
        num_residuals=num_residuals,
    )
    return out, [0] * len(out)


linear_call_p.def_impl(_linear_impl)
linear_call_p.def_abstract_eval(lambda *_, jaxpr, **__: jaxpr.out_avals)
mlir.register_lowering(linear_call_p, mlir.lower_fun(_linear_impl, multiple_results=True))
ad.primitive_jvps[linear_call_p] = _linear_jvp
ad.primitive_transposes[linear_call_p] = _linear_transpose
batching.primitive_batchers[linear_call_p] = _linear_batch
