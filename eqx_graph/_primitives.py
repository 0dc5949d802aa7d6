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

and `linear_call`: any linear function given together with its transpose (JAX's own has no batching rule).
"""

import functools as ft
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.experimental import sparse as jsparse
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


class Layout(NamedTuple):
    """Index operands of `spmm` and `sddmm`: one compressed order, and what is needed to flip to the other."""

    cols: Any  # sender of each edge, receiver-sorted
    rows: Any  # receiver of each edge, receiver-sorted
    ptr: Any  # row pointers
    order: Any  # position in the other order -> position in this one
    t_cols: Any  # receiver of each edge, sender-sorted
    t_ptr: Any  # column pointers
    inverse: Any  # position in this order -> position in the other one

    def flip(self) -> "Layout":
        rows = self.cols.at[self.order].get(mode="promise_in_bounds")
        return Layout(self.t_cols, rows, self.t_ptr, self.inverse, self.cols, self.ptr, self.order)


_NUM_LAYOUT = len(Layout._fields)
_CSR_TYPES = ("float32", "float64", "complex64", "complex128")
# The compressed kernels take no 16-bit floats; sums of them are kept in float32 anyway.
_ACCUMULATOR = {"bfloat16": jnp.float32, "float16": jnp.float32}
# Edges in flight in a loop over edges; the arrays in it are reused, so they stay in the cache.
_BLOCK = 4096
# More heads than this are products in a loop, so that a program does not grow with them.
_UNROLLED_HEADS = 8


def accumulator_dtype(dtype: Any) -> Any:
    """The dtype in which many values of `dtype` are added."""
    return _ACCUMULATOR.get(jnp.dtype(dtype).name, dtype)


def _rows_at(x: Any, ids: Any) -> Any:
    return x.at[ids].get(mode="promise_in_bounds")


# --- kernels ----------------------------------------------------------------------------------------------------------


def _csr_product(weight: Any, x: Any, cols: Any, ptr: Any, num_rows: int, platform: str) -> Any:
    if platform == "cpu":
        matrix = jsparse.BCSR((weight, cols, ptr), shape=(num_rows, x.shape[0]))
        return jsparse.bcsr_dot_general(matrix, x, dimension_numbers=(((1,), (0,)), ((), ())))
    return jsparse.CSR((weight, cols, ptr), shape=(num_rows, x.shape[0])) @ x


def _spmm_csr(weight: Any, x: Any, layout: Layout, num_rows: int, platform: str) -> Any:
    def product(w, x):
        return _csr_product(w, x, layout.cols, layout.ptr, num_rows, platform)

    heads, num_edges = x.shape[1], layout.cols.shape[0]
    if weight is None:
        out = product(jnp.ones(num_edges, x.dtype), x.reshape(x.shape[0], -1))
        return out.reshape(num_rows, *x.shape[1:])
    if heads == 1:
        return product(weight[:, 0], x[:, 0])[:, None]
    if heads <= _UNROLLED_HEADS:
        return jnp.stack([product(weight[:, h], x[:, h]) for h in range(heads)], axis=1)
    out = jax.lax.map(lambda wx: product(*wx), (weight.T, jnp.moveaxis(x, 1, 0)))
    return jnp.moveaxis(out, 0, 1)


def loop_over_blocks(num_edges: int, block: int, body: Callable[[Any, Any, Any], Any], init: Any) -> Any:
    """Folds `body(start, fresh, carry)` over blocks of positions; `fresh` is False where the last block overlaps."""
    if num_edges <= block:
        return body(0, None, init)

    def step(k: Any, carry: Any) -> Any:
        start = jnp.minimum(k * block, num_edges - block)
        return body(start, start + jnp.arange(block) >= k * block, carry)

    return jax.lax.fori_loop(0, -(-num_edges // block), step, init)


def _spmm_segment(weight: Any, x: Any, layout: Layout, num_rows: int, platform: str) -> Any:
    num_edges = layout.cols.shape[0]
    block = min(_BLOCK, num_edges) if platform == "cpu" else num_edges

    def body(start: Any, fresh: Any, out: Any) -> Any:
        def cut(a):
            return jax.lax.dynamic_slice_in_dim(a, start, block)

        messages = _rows_at(x, cut(layout.cols))
        if weight is not None:
            messages = messages * cut(weight)[..., None]
        if fresh is not None:
            messages = jnp.where(fresh[:, None, None], messages, 0)
        return out.at[cut(layout.rows)].add(messages, mode="promise_in_bounds")

    return loop_over_blocks(num_edges, block, body, jnp.zeros((num_rows, *x.shape[1:]), x.dtype))


def _use_csr(kernel: str, dtype: Any, platform: str) -> bool:
    supported = jnp.dtype(dtype).name in _CSR_TYPES and platform in ("cpu", "cuda", "rocm")
    return supported and kernel != "segment"


def _spmm_impl(*args: Any, weighted: bool, num_rows: int, kernel: str, platform: str) -> Any:
    weight, x, *layout = args if weighted else (None, *args)
    layout, dtype = Layout(*layout), x.dtype
    shape = (num_rows, *x.shape[1:])
    if layout.cols.shape[0] == 0 or math.prod(shape) == 0 or x.shape[0] == 0:
        return jnp.zeros(shape, dtype)
    x = x.astype(accumulator_dtype(dtype))
    weight = weight if weight is None else weight.astype(x.dtype)
    route = _spmm_csr if _use_csr(kernel, x.dtype, platform) else _spmm_segment
    return route(weight, x, layout, num_rows, platform).astype(dtype)


def _sddmm_impl(a: Any, b: Any, *layout: Any, platform: str) -> Any:
    layout, dtype = Layout(*layout), a.dtype
    num_edges, (heads, channels) = layout.cols.shape[0], a.shape[1:]
    wide = accumulator_dtype(dtype)
    if num_edges == 0 or heads * channels == 0:
        return jnp.zeros((num_edges, heads), dtype)
    if platform != "cpu":
        return (_rows_at(a, layout.cols).astype(wide) * _rows_at(b, layout.rows).astype(wide)).sum(-1).astype(dtype)
    # On a CPU the sum over channels is fastest as a product with a block of ones, in blocks that stay in the cache.
    block = min(4 * _BLOCK, num_edges)
    a, b = (v.astype(wide).reshape(v.shape[0], -1) for v in (a, b))
    ones = jnp.kron(jnp.eye(heads, dtype=wide), jnp.ones((channels, 1), wide))

    def body(start: Any, fresh: Any, out: Any) -> Any:
        del fresh  # a position written twice gets the same value

        def cut(ids):
            return jax.lax.dynamic_slice_in_dim(ids, start, block)

        products = _rows_at(a, cut(layout.cols)) * _rows_at(b, cut(layout.rows))
        dots = jnp.dot(products, ones, precision="highest").astype(dtype)
        return jax.lax.dynamic_update_slice_in_dim(out, dots, start, 0)

    return loop_over_blocks(num_edges, block, body, jax.lax.empty((num_edges, heads), dtype))


def _take_rows_impl(x: Any, ids: Any, *rest: Any, kernel: str, platform: str) -> Any:
    del rest, kernel, platform
    return _rows_at(x, ids) if x.shape[0] else jnp.zeros((ids.shape[0], *x.shape[1:]), x.dtype)


def _sum_rows_impl(y: Any, ids: Any, order: Any, ptr: Any, *, kernel: str, platform: str) -> Any:
    num_rows, num_edges, dtype = ptr.shape[0] - 1, y.shape[0], y.dtype
    y = y.astype(accumulator_dtype(dtype))
    width = math.prod(y.shape[1:])
    # Measured: one scattered pass wins on a CPU while a row is narrow; elsewhere pointers avoid atomic additions.
    compressed = _use_csr(kernel, y.dtype, platform) and (platform != "cpu" or width >= 16)
    if not compressed or num_edges == 0 or width == 0:
        out = jnp.zeros((num_rows, *y.shape[1:]), y.dtype).at[ids].add(y, mode="promise_in_bounds")
        return out.astype(dtype)
    out = _csr_product(jnp.ones(num_edges, y.dtype), y.reshape(num_edges, width), order, ptr, num_rows, platform)
    return out.reshape(num_rows, *y.shape[1:]).astype(dtype)


def _permute_impl(x: Any, permutation: Any, inverse: Any, *, platform: str) -> Any:
    del inverse, platform
    return _rows_at(x, permutation)


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
    _spmm_impl,
    lambda *a, weighted, num_rows, kernel: ShapedArray((num_rows, *a[weighted].shape[1:]), a[weighted].dtype),
    ("weighted", "num_rows", "kernel"),
)
sddmm_p = _define(
    "eqx_graph_sddmm", _sddmm_impl, lambda a, b, cols, *_: ShapedArray((cols.shape[0], a.shape[1]), a.dtype), ()
)
take_rows_p = _define(
    "eqx_graph_take_rows",
    _take_rows_impl,
    lambda x, ids, order, ptr, kernel: ShapedArray((ids.shape[0], *x.shape[1:]), x.dtype),
    ("kernel",),
)
sum_rows_p = _define(
    "eqx_graph_sum_rows",
    _sum_rows_impl,
    lambda y, ids, order, ptr, kernel: ShapedArray((ptr.shape[0] - 1, *y.shape[1:]), y.dtype),
    ("kernel",),
)
permute_p = _define("eqx_graph_permute", _permute_impl, lambda x, *_: x, ())


def _bind_spmm(weight: Any, x: Any, layout: Layout, num_rows: int, kernel: str) -> Any:
    operands = (x, *layout) if weight is None else (weight, x, *layout)
    return spmm_p.bind(*operands, weighted=weight is not None, num_rows=num_rows, kernel=kernel)


def spmm(weight: Any, x: Any, layout: Layout, num_rows: int, kernel: str) -> Any:
    """Sum over the edges of each row of `weight (e, h)` (or 1) times the sender's row of `x (n, h, c)`."""
    return _bind_spmm(weight, x, Layout(*map(jnp.asarray, layout)), num_rows, kernel)


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


def _permuted_weight(weight: Any, order: Any) -> Any:
    """Rows of `weight` in another order, a column at a time: the product that follows reads columns (30 % faster)."""
    num_edges, heads = weight.shape
    if not 1 < heads <= _UNROLLED_HEADS or num_edges * heads >= 2**31:
        return _rows_at(weight, order)
    flat = weight.reshape(-1)
    return jnp.stack([_rows_at(flat, order * heads + h) for h in range(heads)], axis=1)


def _spmm_transpose(ct: Any, *args: Any, weighted: bool, num_rows: int, kernel: str) -> tuple:
    weight, x, *layout = args if weighted else (None, *args)
    layout, nothing = Layout(*layout), (None,) * _NUM_LAYOUT
    if type(ct) is ad.Zero:
        return (None,) * len(args)
    if ad.is_undefined_primal(x):
        if weight is not None:
            weight = _permuted_weight(weight, layout.order)
        ct_x = _bind_spmm(weight, ct, layout.flip(), x.aval.shape[0], kernel)
        return (None, ct_x, *nothing) if weighted else (ct_x, *nothing)
    return (sddmm_p.bind(x, ct, *layout), None, *nothing)


def _sddmm_transpose(ct: Any, a: Any, b: Any, *layout: Any) -> tuple:
    nothing = (None,) * _NUM_LAYOUT
    if type(ct) is ad.Zero:
        return (None, None, *nothing)
    forward = Layout(*layout)
    if ad.is_undefined_primal(a):
        ct = _permuted_weight(ct, forward.order)
        return (_bind_spmm(ct, b, forward.flip(), a.aval.shape[0], "auto"), None, *nothing)
    return (None, _bind_spmm(ct, a, forward, b.aval.shape[0], "auto"), *nothing)


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
