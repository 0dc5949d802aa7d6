"""Running a cell over time: plain, in chunks, with bounded memory."""

import abc
import functools as ft
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Key, PRNGKeyArray

from ._cell import AbstractCell, Cell, State
from ._chunks import near_divisor, scan_chunks


class AbstractScannable(AbstractCell[State]):
    """A cell that knows a faster way through a whole sequence than one step at a time; `scan` asks for it by type."""

    @abc.abstractmethod
    def scan_over(
        self, xs: Any, state: State, *, key: Key[Array, " time"] | None, unroll: int, reverse: bool
    ) -> tuple[Any, State]:
        """Outputs stacked along axis 0 and the final state: the numbers of the step loop, to rounding.

        `key` is the array of the keys that the steps of the loop would get.
        """


def scan(
    cell: Cell,
    xs: Any,
    state: State,
    *,
    key: PRNGKeyArray | None = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | None = None,
    chunk: int | None = None,
    checkpoint: bool = False,
    meter: Callable[[int, int], None] | None = None,
) -> tuple[Any, State]:
    """Run `cell` over the leading (time) axis of `xs`.

    $(y_t, s_t) = \\mathrm{cell}(x_t, s_{t-1})$ for $t = 1 \\dots T$.

    **Arguments:**

    - `cell`: `(x, state, *, key) -> (out, state)`.
    - `xs`: arrays with time first, or None (then give `length`).
    - `state`: the state before the first step; structure, shapes and dtypes are kept. Leaves that are no arrays
      (functions, Python numbers) are handed to each step as they are and must come back unchanged; a Python number
      that the cell turns into an array is an array from the start.
    - `key`: split into one key per step; None for deterministic cells.
    - `length`: number of steps; needed only when `xs` has no arrays.
    - `reverse`: run from the last time step to the first.
    - `unroll`: steps per compiled loop iteration; default 1 on CPU and 8 on accelerators.
    - `chunk`: run so many steps at a time (the last chunk may be shorter): the unit of `checkpoint` and of `meter`.
      An `AbstractScannable` goes through each chunk by its own route.
    - `checkpoint`: keep only the states between chunks for the gradient and compute the rest again, chunk by chunk, for
      one more forward pass. Of more than 64 chunks (without `meter`) only the states between groups of about
      $\\sqrt{T / \\mathrm{chunk}}$ chunks are kept, for one more forward pass still. Beside what one chunk needs,
      memory is then that of about 64 states at most up to 1024 chunks, and grows with $\\sqrt T$ beyond. Outputs are
      stacked all the same: `Summed` adds them up instead. Without `chunk`, chunks of about $\\sqrt T$ steps.
    - `meter`: called on the host as `meter(steps_done, num_steps)` after every chunk; once for a whole `vmap`.

    **Returns:** the outputs stacked in time order, and the state after the last step. The same numbers for every
    `chunk` and `checkpoint`, to rounding.

    **Raises:** `ValueError` if the leading sizes of `xs` differ, no length is known, `chunk` is not positive, or
    `meter` comes without `chunk`; `TypeError` if a non-array leaf of the state changes.

    !!! note "Keys"
        Step $t$ gets `jr.split(key, num_steps)[t]`, by whatever route, in chunks or not, forwards or in reverse. (Two
        calls for the halves of a sequence draw other numbers than one call, whatever their keys.)
    """
    num_steps = num_steps_of(xs, length)
    if chunk is not None and chunk < 1:
        raise ValueError(f"`chunk` must be a positive number of steps; got {chunk}.")
    if meter is not None and chunk is None:
        raise ValueError("`meter` reports after every chunk: give `chunk`, the number of steps between two reports.")
    if checkpoint and chunk is None:
        chunk = near_divisor(num_steps, math.isqrt(max(num_steps - 1, 0)) + 1)
    state, static = _split_state(cell, xs, state, key)
    inputs = (xs, None if key is None else jr.split(key, num_steps))
    run = ft.partial(_run, cell, static, unroll=_default_unroll() if unroll is None else unroll, reverse=reverse)
    if chunk is None or num_steps == 0:
        state, ys = run(state, inputs, num_steps)
    else:
        state, ys = _run_chunks(run, state, inputs, num_steps, reverse, chunk, checkpoint, meter)
    return ys, eqx.combine(state, static)


def _run_chunks(
    run: Callable,
    state: Any,
    inputs: tuple[Any, Any],
    num_steps: int,
    reverse: bool,
    chunk: int,
    checkpoint: bool,
    meter: Callable[[int, int], None] | None,
) -> tuple[Any, Any]:
    """`run` on chunk after chunk, reporting to `meter`."""
    keep = jax.checkpoint_policies.nothing_saveable if checkpoint else None
    num_chunks = num_steps // chunk
    grouped = checkpoint and num_chunks > _MAX_STATES and meter is None
    group = chunk * near_divisor(num_chunks, math.isqrt(num_chunks)) if grouped else None
    after = None if meter is None else lambda done: jax.debug.callback(ft.partial(_report, meter, num_steps), done)
    state, ys = scan_chunks(run, state, inputs, num_steps, chunk, reverse=reverse, keep=keep, group=group, after=after)
    return state, ys


_MAX_STATES = 64


def _run(
    cell: Cell, static: Any, state: Any, inputs: tuple[Any, Any], num_steps: int, *, unroll: int, reverse: bool
) -> tuple[Any, Any]:
    """Steps without chunks: by the cell's own route if it has one, otherwise `lax.scan` (carry first, as there)."""
    xs, keys = inputs
    if isinstance(cell, AbstractScannable) and jtu.tree_leaves(xs):
        xs = jtu.tree_map(lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x, xs)
        ys, new_state = cell.scan_over(xs, eqx.combine(state, static), key=keys, unroll=unroll, reverse=reverse)
        return _arrays(new_state, static), ys

    def step(carry: Any, x_and_key: tuple[Any, PRNGKeyArray | None]) -> tuple[Any, Any]:
        x, step_key = x_and_key
        out, new_state = cell(x, eqx.combine(carry, static), key=step_key)
        return _arrays(new_state, static), out

    return jax.lax.scan(step, state, (xs, keys), length=num_steps, reverse=reverse, unroll=unroll)


def _split_state(cell: Cell, xs: Any, state: Any, key: PRNGKeyArray | None) -> tuple[Any, Any]:
    """The arrays of a state, which are carried, and the rest, which is not; numbers that become arrays are arrays."""
    leaves, treedef = jtu.tree_flatten(state)
    if any(isinstance(leaf, (bool, int, float, complex)) for leaf in leaves):
        first = jtu.tree_map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], x.dtype), xs)  # there may be no step
        after = jtu.tree_leaves(eqx.filter_eval_shape(lambda x, s, k: cell(x, s, key=k)[1], first, state, key))
        if len(after) == len(leaves):  # Otherwise the mismatch is reported when the steps are traced.
            state = jtu.tree_unflatten(treedef, [_promote(*pair) for pair in zip(leaves, after, strict=True)])
    return eqx.partition(state, eqx.is_array)


def _arrays(state: Any, static: Any) -> Any:
    arrays, new_static = eqx.partition(state, eqx.is_array)
    if jtu.tree_leaves(static) != jtu.tree_leaves(new_static):
        raise TypeError(
            "`cell` must return the non-array leaves of `state` unchanged; got "
            f"{jtu.tree_leaves(new_static)} for {jtu.tree_leaves(static)}. Make what changes over time an array."
        )
    return arrays


def _promote(before: Any, after: Any) -> Any:
    if isinstance(before, (bool, int, float, complex)):
        if isinstance(after, jax.ShapeDtypeStruct):
            return jnp.full(after.shape, before, after.dtype)
        if before != after:
            return jnp.asarray(before)
    return before


def _report(meter: Callable[[int, int], None], num_steps: int, done: Any) -> None:
    meter(int(done), num_steps)


def num_steps_of(xs: Any, length: int | None) -> int:
    """The one leading size of `xs`, or `length`."""
    lengths = {jnp.shape(x)[0] if jnp.ndim(x) else None for x in jtu.tree_leaves(xs)} | ({length} - {None})
    if len(lengths) != 1 or None in lengths:
        raise ValueError(f"`xs` must have one leading (time) size; got {lengths or 'no arrays and no `length`'}.")
    return next(size for size in lengths if size is not None)


def _default_unroll() -> int:
    return 1 if jax.default_backend() == "cpu" else 8


def merge_time(x: jax.Array, feature_ndim: int = 1) -> tuple[jax.Array, tuple[int, ...]]:
    """All leading axes as one, so that an affine layer over a sequence is ONE matrix product; and how to undo it."""
    leading = x.shape[: x.ndim - feature_ndim]
    return jnp.reshape(x, (-1, *x.shape[x.ndim - feature_ndim :])), leading
