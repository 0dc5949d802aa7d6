"""What the primitives compute: compressed products and loops over blocks of edges, plain functions of arrays."""

import functools as ft
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


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
        rows = rows_at(self.cols, self.order)
        return Layout(self.t_cols, rows, self.t_ptr, self.inverse, self.cols, self.ptr, self.order)


_CSR_TYPES = ("float32", "float64", "complex64", "complex128")
# The compressed kernels take no 16-bit floats; sums of them are kept in float32 anyway.
_ACCUMULATOR = {"bfloat16": jnp.float32, "float16": jnp.float32}
# Numbers in flight in a loop over edges; the arrays in it are reused, so they stay in the cache of a core.
_BLOCK = 2**19
# More heads than this are products in a loop, so that a program does not grow with them.
_UNROLLED_HEADS = 8
# Edges of one row that are summed in one expression, where a row has twice as many on average.
_GROUP = 8


def accumulator_dtype(dtype: Any) -> Any:
    """The dtype in which many values of `dtype` are added."""
    return _ACCUMULATOR.get(jnp.dtype(dtype).name, dtype)


def rows_at(x: Any, ids: Any) -> Any:
    """`x[ids]` for ids known to be in range."""
    return x.at[ids].get(mode="promise_in_bounds", wrap_negative_indices=False)


def add_at(x: Any, ids: Any, rows: Any, valid: Any = None) -> Any:
    """`x` with `rows` added at ids known to be in range; those that are not `valid` are added nowhere.

    An id out of range drops a row, whatever it holds: an infinite one times zero is not zero.
    """
    if valid is None:
        return x.at[ids].add(rows, mode="promise_in_bounds", wrap_negative_indices=False)
    return x.at[jnp.where(valid, ids, x.shape[0])].add(rows, mode="drop", wrap_negative_indices=False)


def head_sums(x: Any, heads: int) -> Any:
    """Sums over the channels of every head of flat rows: a product with a block of ones, which a CPU does fastest."""
    ones = jnp.kron(jnp.eye(heads, dtype=x.dtype), jnp.ones((x.shape[-1] // heads, 1), x.dtype))
    return jnp.dot(x, ones, precision="highest")


def axes_of(*args: Any) -> frozenset:
    """The axes of a `shard_map` over which any of these arrays varies."""
    return frozenset().union(*(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(args)))


def vary(tree: Any, axes: frozenset) -> Any:
    """Arrays said to vary over these axes of a `shard_map`, besides those over which they do."""

    def cast(leaf: Any) -> Any:
        missing = axes - axes_of(leaf)
        return jax.lax.pcast(leaf, tuple(missing), to="varying") if missing else leaf

    return jax.tree.map(cast, tree) if axes else tree


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, compiled by itself: whoever compares two such results finds them equal to the last bit.

    Left to itself XLA computes a cheap expression again in every loop that reads it, here with fused multiply-adds and
    there without, and a maximum may differ from all the numbers it was taken of. A branch that only a random number
    could tell is always taken stays apart (an optimisation barrier is gone before a CPU's loops are fused).
    """
    always = jax.lax.rng_uniform(jnp.float32(0), jnp.float32(1), shape=()) < 2
    shapes, axes = jax.eval_shape(function, *args), axes_of(*args)

    def never(*_: Any) -> Any:
        return vary(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), axes)

    return jax.lax.cond(always, lambda *args: vary(function(*args), axes), never, *args)


def once(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, one array for all who read it; to be called where derivatives have rules of their own.

    On a CPU XLA makes a cheap array anew in every shape in which it is read (rows, rows of heads), each as large as the
    nodes' features and kept for the backward pass.
    """
    return jax.lax.platform_dependent(*args, cpu=ft.partial(alone, function), default=function)


def zeros_after(x: Any, shape: Sequence[int], dtype: Any) -> Any:
    """Zeros that cannot be made before `x` is: XLA would make constant ones at the start of a program and keep them."""
    if x.size == 0:
        return jnp.zeros(shape, dtype)
    first = x.reshape(-1)[0]
    return jnp.broadcast_to(((first == first) & (first != first)).astype(dtype), tuple(shape))


def loop_over_blocks(num_edges: int, block: int, body: Callable[[Any, Any, Any], Any], init: Any) -> Any:
    """Folds `body(start, fresh, carry)` over blocks of positions; `fresh` is False where the last block overlaps."""
    if num_edges <= block:
        return body(0, None, init)

    def step(k: Any, carry: Any) -> Any:
        start = jnp.minimum(k * block, num_edges - block)
        return body(start, start + jnp.arange(block) >= k * block, carry)

    return jax.lax.fori_loop(0, -(-num_edges // block), step, init)


def block_size(num_edges: int, width: int, platform: str) -> int:
    """Edges taken together where each takes `width` numbers: all of them, but on a CPU what stays in the cache."""
    return min(num_edges, max(256, _BLOCK // width)) if platform == "cpu" else num_edges


# --- sparse products --------------------------------------------------------------------------------------------------


_CPU_PRODUCT = "eqx_graph_csr_product"


@ft.cache
def _register_cpu_product() -> bool:
    """Gives jaxlib's compressed product a name of ours; False if a jaxlib has none where we know it.

    `jax.experimental.sparse` calls the same kernel, but imports SciPy's sparse matrices: 18 MB and 0.1 s.
    """
    try:
        from jaxlib import cpu_sparse

        kernels = {name: kernel for name, kernel, _ in cpu_sparse.registrations()["cpu"]}
        jax.ffi.register_ffi_target(_CPU_PRODUCT, kernels["cpu_csr_sparse_dense_ffi"], platform="cpu", api_version=1)
    except (ImportError, AttributeError, KeyError, ValueError):
        return False
    return True


def _csr_product(weight: Any, x: Any, cols: Any, ptr: Any, num_rows: int, platform: str) -> Any:
    if platform == "cpu" and _register_cpu_product():
        out = jax.ShapeDtypeStruct((num_rows, x.shape[1]), x.dtype)
        return jax.ffi.ffi_call(_CPU_PRODUCT, out)(weight, ptr, cols, x)
    from jax.experimental import sparse

    shape = num_rows, x.shape[0]
    if platform == "cpu":
        matrix = sparse.BCSR((weight, cols, ptr), shape=shape)
        return sparse.bcsr_dot_general(matrix, x, dimension_numbers=(((1,), (0,)), ((), ())))
    return sparse.CSR((weight, cols, ptr), shape=shape) @ x


def _spmm_csr(weight: Any, x: Any, layout: Layout, num_rows: int, crossed: bool, platform: str) -> Any:
    def product(w, x):
        return _csr_product(w, x, layout.cols, layout.ptr, num_rows, platform)

    heads, num_edges = x.shape[1], layout.cols.shape[0]
    if weight is None:
        out = product(jnp.ones(num_edges, x.dtype), x.reshape(x.shape[0], -1))
        return out.reshape(num_rows, *x.shape[1:])
    if crossed:
        weight = rows_at(weight, layout.inverse)
    if heads == 1:
        return product(weight[:, 0], x[:, 0])[:, None]
    if heads <= _UNROLLED_HEADS:
        return jnp.stack([product(weight[:, h], x[:, h]) for h in range(heads)], axis=1)
    out = jax.lax.map(lambda wx: product(*wx), (weight.T, jnp.moveaxis(x, 1, 0)))
    return jnp.moveaxis(out, 0, 1)


def _spmm_segment(weight: Any, x: Any, layout: Layout, num_rows: int, crossed: bool, platform: str) -> Any:
    num_edges, width = layout.cols.shape[0], math.prod(x.shape[1:])
    block, flat = block_size(num_edges, width, platform), x.reshape(x.shape[0], width)

    def body(start: Any, fresh: Any, out: Any) -> Any:
        def cut(a):
            return jax.lax.dynamic_slice_in_dim(a, start, block)

        messages = rows_at(flat, cut(layout.cols)).reshape(block, *x.shape[1:])
        factor = None if fresh is None else fresh[:, None].astype(x.dtype)
        if weight is not None:
            here = rows_at(weight, cut(layout.inverse)) if crossed else cut(weight)
            factor = here if fresh is None else jnp.where(fresh[:, None], here, 0)
        if factor is not None:
            messages = messages * factor[..., None]
        return add_at(out, cut(layout.rows), messages.reshape(block, width))

    zeros = zeros_after(x, (), x.dtype) + layout.ptr[0].astype(x.dtype)  # the first pointer is 0, which XLA cannot know
    out = loop_over_blocks(num_edges, block, body, jnp.broadcast_to(zeros, (num_rows, width)))
    return out.reshape(num_rows, *x.shape[1:])


class _Groups(NamedTuple):
    """The edges of a compressed order in groups of `_GROUP`; each row's last group is filled up with its last edge."""

    rows: Any  # `(groups,)`, ascending; the number of rows for what is left over at the end
    edges: Any  # `(groups, _GROUP)` positions
    valid: Any  # which of them are no repetition
    count: Any  # how many groups there are


def _groups(ptr: Any, num_edges: int) -> _Groups:
    num_rows = ptr.shape[0] - 1
    counts = -(-jnp.diff(ptr) // _GROUP)
    ends = jnp.cumsum(counts, dtype=ptr.dtype)
    size = (num_edges + (_GROUP - 1) * num_rows) // _GROUP  # no graph of these sizes has more
    rows = jnp.cumsum(jnp.zeros(size, ptr.dtype).at[ends].add(1, mode="drop"), dtype=ptr.dtype)
    known = jnp.minimum(rows, num_rows - 1)
    first = rows_at(ptr[:-1] - _GROUP * (ends - counts), known) + _GROUP * jnp.arange(size, dtype=ptr.dtype)
    edges = first[:, None] + jnp.arange(_GROUP, dtype=ptr.dtype)[None]
    last = rows_at(ptr[1:], known)[:, None] - 1
    return _Groups(rows, jnp.clip(jnp.minimum(edges, last), 0), edges <= last, ends[-1])


def _spmm_groups(weight: Any, x: Any, layout: Layout, num_rows: int, crossed: bool, platform: str, waiting: Any) -> Any:
    """Sums some edges of a row in one expression; the scatter, which takes one core, has as many rows fewer."""
    heads, width = x.shape[1], math.prod(x.shape[1:])
    flat, groups = x.reshape(x.shape[0], width), _groups(layout.ptr, layout.cols.shape[0])
    senders = rows_at(layout.cols, groups.edges)
    positions = rows_at(layout.inverse, groups.edges) if crossed else groups.edges
    weights = jnp.where(groups.valid[..., None], rows_at(weight, positions + waiting), 0)
    size = groups.rows.shape[0]
    block, head = block_size(size, width, platform), jnp.arange(width) // (width // heads)

    def body(k: Any, out: Any) -> Any:
        start = jnp.minimum(k * block, size - block)

        def cut(a):
            return jax.lax.dynamic_slice_in_dim(a, start, block)

        fresh = start + jnp.arange(block, dtype=k.dtype) >= k * block
        senders_here, weights_here, total = cut(senders), cut(weights), 0
        for member in range(_GROUP):
            # Chosen by head instead of repeated for each channel: only so does a CPU take several numbers at once.
            factor = weights_here[:, member, :1]
            for h in range(1, heads):
                factor = jnp.where(head[None] == h, weights_here[:, member, h : h + 1], factor)
            total = total + rows_at(flat, senders_here[:, member]) * factor
        return add_at(out, cut(groups.rows), total, fresh)

    zeros = jnp.broadcast_to(zeros_after(x, (), x.dtype) + waiting.astype(x.dtype), (num_rows, width))
    return jax.lax.fori_loop(0, -(-groups.count // block), body, zeros).reshape(num_rows, *x.shape[1:])


def _use_csr(kernel: str, dtype: Any, platform: str) -> bool:
    supported = jnp.dtype(dtype).name in _CSR_TYPES and platform in ("cpu", "cuda", "rocm")
    return supported and kernel != "segment"


def spmm(*args: Any, weighted: bool, num_rows: int, kernel: str, crossed: bool, platform: str) -> Any:
    weight, x, after, *layout = args if weighted else (None, *args)
    layout, dtype = Layout(*layout), x.dtype
    shape, num_edges, heads = (num_rows, *x.shape[1:]), layout.cols.shape[0], x.shape[1]
    if num_edges == 0 or math.prod(shape) == 0 or x.shape[0] == 0:
        return jnp.zeros(shape, dtype)
    x = x.astype(accumulator_dtype(dtype))
    weight = weight if weight is None else weight.astype(x.dtype)
    waiting = zeros_after(after, (), layout.ptr.dtype)  # what reads it waits for `after`
    # Measured: with several heads, one pass over blocks beats a compressed product a head (which cuts and joins).
    blocked = kernel == "auto" and platform == "cpu" and weight is not None and heads > 1
    if blocked and heads <= _UNROLLED_HEADS and num_edges >= 2 * _GROUP * num_rows:
        return _spmm_groups(weight, x, layout, num_rows, crossed, platform, waiting).astype(dtype)
    layout = layout._replace(ptr=layout.ptr + waiting)
    route = _spmm_csr if _use_csr(kernel, x.dtype, platform) and not blocked else _spmm_segment
    return route(weight, x, layout, num_rows, crossed, platform).astype(dtype)


def sddmm(a: Any, b: Any, *layout: Any, kernel: str, platform: str) -> Any:
    del kernel  # that of its derivatives
    layout, dtype = Layout(*layout), a.dtype
    num_edges, (heads, channels) = layout.cols.shape[0], a.shape[1:]
    wide = accumulator_dtype(dtype)
    if num_edges == 0 or heads * channels == 0:
        return jnp.zeros((num_edges, heads), dtype)
    if platform != "cpu":
        return (rows_at(a, layout.cols).astype(wide) * rows_at(b, layout.rows).astype(wide)).sum(-1).astype(dtype)
    # On a CPU in blocks that stay in the cache.
    block = block_size(num_edges, heads * channels, platform)
    a, b = (v.astype(wide).reshape(v.shape[0], -1) for v in (a, b))

    def body(start: Any, fresh: Any, out: Any) -> Any:
        del fresh  # a position written twice gets the same value

        def cut(ids):
            return jax.lax.dynamic_slice_in_dim(ids, start, block)

        dots = _dots_of(rows_at(a, cut(layout.cols)) * rows_at(b, cut(layout.rows)), heads).astype(dtype)
        return jax.lax.dynamic_update_slice_in_dim(out, dots, start, 0)

    return loop_over_blocks(num_edges, block, body, zeros_after(b, (num_edges, heads), dtype))


def _dots_of(products: Any, heads: int) -> Any:
    """`head_sums`, where a number that is not finite stays in its head (in the product it is multiplied by zeros)."""
    dots = head_sums(products, heads)
    if heads == 1:
        return dots
    apart = lambda p, _: p.reshape(p.shape[0], heads, -1).sum(-1)  # noqa: E731
    return jax.lax.cond(jnp.isfinite(dots).all(), lambda _, d: d, apart, products, dots)


def take_rows(x: Any, ids: Any, *rest: Any, kernel: str, platform: str) -> Any:
    del rest, kernel, platform
    return rows_at(x, ids) if x.shape[0] else jnp.zeros((ids.shape[0], *x.shape[1:]), x.dtype)


def sum_rows(y: Any, ids: Any, order: Any, ptr: Any, *, kernel: str, platform: str) -> Any:
    num_rows, num_edges, dtype = ptr.shape[0] - 1, y.shape[0], y.dtype
    y = y.astype(accumulator_dtype(dtype))
    width = math.prod(y.shape[1:])
    # Measured: one scattered pass wins on a CPU while a row is narrow; elsewhere pointers avoid atomic additions.
    compressed = _use_csr(kernel, y.dtype, platform) and (platform != "cpu" or width >= 16)
    if not compressed or num_edges == 0 or width == 0:
        out = add_at(jnp.zeros((num_rows, *y.shape[1:]), y.dtype), ids, y)
        return out.astype(dtype)
    out = _csr_product(jnp.ones(num_edges, y.dtype), y.reshape(num_edges, width), order, ptr, num_rows, platform)
    return out.reshape(num_rows, *y.shape[1:]).astype(dtype)


def permute(x: Any, permutation: Any, inverse: Any, *, platform: str) -> Any:
    del inverse, platform
    return rows_at(x, permutation)
