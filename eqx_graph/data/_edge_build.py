"""Sorting edges into the compressed layout: NumPy on the host, one stable sort under jit."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


class Compressed(NamedTuple):
    """Both compressed orders of one edge list, and the permutations between them (see `EdgeIndex`)."""

    senders: Any
    receivers: Any
    receiver_ptr: Any
    sender_ptr: Any
    permutation: Any
    inverse_permutation: Any
    by_sender: Any
    by_receiver: Any
    receivers_by_sender: Any


def is_concrete(*arrays: Any) -> bool:
    """Whether every array has values that can be read on the host now."""
    return not any(isinstance(a, Tracer) for a in arrays)


def _in_place(size: int) -> np.ndarray:
    """Room for int32 at an address from which JAX on a CPU reads in place: `jax.device_put` makes no second copy."""
    alignment = 64
    room = np.empty(4 * size + alignment, np.uint8)
    start = -room.ctypes.data % alignment
    return room[start : start + 4 * size].view(np.int32)


def _host_take(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.take(values, order, out=_in_place(len(order)), mode="clip")  # "raise" would fill a buffer first


def _host_sort(ids: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Stable order of `ids`, and pointers."""
    ptr = _in_place(size + 1)
    ptr[0] = 0
    np.cumsum(np.bincount(ids, minlength=size), out=ptr[1:])
    # Sorting an id and a position in one word is stable, and several times faster than `argsort`.
    keys = ids.astype(np.int64)
    keys <<= 32
    keys |= np.arange(len(ids), dtype=np.int64)
    keys.sort()
    order = _in_place(len(ids))
    np.copyto(order, keys, casting="unsafe")  # the low word
    return order, ptr


def _host_invert(order: np.ndarray) -> np.ndarray:
    inverse = _in_place(len(order))
    inverse[order] = np.arange(len(order), dtype=order.dtype)
    return inverse


def _traced_take(values: Any, order: Any) -> Any:
    return values[order]


def _traced_sort(ids: Any, size: int) -> tuple[Any, Any]:
    order = jnp.argsort(ids, stable=True).astype(jnp.int32)
    counts = jnp.zeros(size, jnp.int32).at[ids].add(1)
    return order, jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(counts, dtype=jnp.int32)])


def _traced_invert(order: Any) -> Any:
    positions = jnp.arange(order.shape[0], dtype=order.dtype)
    return jnp.zeros_like(order).at[order].set(positions, unique_indices=True)


def compress(senders: Any, receivers: Any, num_senders: int, num_receivers: int) -> Compressed:
    """Sorts by receiver and, within it, keeps the caller's order; NumPy in, NumPy out, otherwise traced operations."""
    on_host = isinstance(senders, np.ndarray)
    host, traced = (_host_sort, _host_invert, _host_take), (_traced_sort, _traced_invert, _traced_take)
    sort, invert, take = host if on_host else traced
    permutation, receiver_ptr = sort(receivers, num_receivers)
    senders, receivers = take(senders, permutation), take(receivers, permutation)
    by_sender, sender_ptr = sort(senders, num_senders)
    return Compressed(
        senders=senders,
        receivers=receivers,
        receiver_ptr=receiver_ptr,
        sender_ptr=sender_ptr,
        permutation=permutation,
        inverse_permutation=invert(permutation),
        by_sender=by_sender,
        by_receiver=invert(by_sender),
        receivers_by_sender=take(receivers, by_sender),
    )


def split_rows(edge_index: Any) -> tuple[Any, Any]:
    """Rows 0 and 1 of a `(2, num_edges)` integer array, as int32; anything else is an error that names it."""
    if edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise ValueError(
            f"`edge_index` must have shape (2, num_edges): row 0 senders, row 1 receivers; got {edge_index.shape}. "
            "Transpose an edge list of shape (num_edges, 2)."
        )
    if not np.issubdtype(edge_index.dtype, np.integer):
        raise TypeError(
            f"`edge_index` must hold integers; got dtype {edge_index.dtype}. Cast it with `.astype(int32)`."
        )
    if edge_index.shape[1] >= 2**31:
        raise ValueError(f"`edge_index` has {edge_index.shape[1]} edges; positions are int32, so partition the graph.")
    return edge_index[0], edge_index[1]


def check_host_range(ids: np.ndarray, size: int, row: int, size_name: str) -> None:
    """Raises `ValueError` naming the first id outside `[0, size)`, or a negative size."""
    if size < 0:
        raise ValueError(f"`{size_name}` must not be negative; got {size}.")
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        column = int(np.argmax((ids < 0) | (ids >= size)))
        raise ValueError(
            f"`edge_index[{row}, {column}]` is {int(ids[column])}, outside [0, {size}): "
            f"{size_name}={size}. Raise `{size_name}` or fix the edge list."
        )


def is_outside(ids: Any, size: int) -> Any:
    """Where integers are not in `[0, size)`, whatever their width: `size` need not fit theirs, nor they 32 bits."""
    ids = ids if ids.dtype.itemsize > 4 else ids.astype(jnp.int32)
    return (ids < 0) | (ids >= size)


def in_range(name: str, ids: Any, bound: int, bound_name: str) -> Any:
    """`ids` if all are in `[0, bound)`: checked now, or at run time when traced."""
    if not is_concrete(ids):
        message = f"`{name}` must hold ids in [0, {bound_name}={bound})."
        return eqx.error_if(ids, jnp.any(is_outside(ids, bound)), message)
    host = np.asarray(ids)
    if host.size and (host.min() < 0 or host.max() >= bound):
        position = np.argwhere((host < 0) | (host >= bound))[0]
        raise ValueError(
            f"`{name}` must hold ids in [0, {bound}) ({bound_name}={bound}); got {host[tuple(position)]} at position "
            f"{tuple(int(p) for p in position)}. Ids count from 0; raise {bound_name} or drop the entry."
        )
    return ids


def rows_in_range(edge_index: Any, num_senders: int, num_receivers: int, *, check: bool) -> tuple[Any, Any]:
    """The int32 rows of an edge list: ids checked now if they are known, else at run time (`check`, `eqx.error_if`).

    Sizes left open for an export are not checked: a check is a call into Python, which no exported program can make.
    """
    if is_concrete(edge_index):  # before taking rows: under jit even a constant's rows are traced
        senders, receivers = split_rows(np.asarray(edge_index))
        check_host_range(senders, num_senders, 0, "num_senders")
        check_host_range(receivers, num_receivers, 1, "num_receivers")
    rows = split_rows(jnp.asarray(edge_index))
    senders, receivers = (row.astype(jnp.int32) for row in rows)
    closed = all(isinstance(size, int) for size in (num_senders, num_receivers, senders.shape[0]))
    if is_concrete(edge_index) or not check or not closed:
        return senders, receivers
    outside = [is_outside(ids, size) for ids, size in zip(rows, (num_senders, num_receivers), strict=True)]
    message = f"`edge_index` holds a node outside [0, {num_senders}) senders or [0, {num_receivers}) receivers."
    return eqx.error_if((senders, receivers), jnp.any(outside[0] | outside[1]), message)
