"""Running a cell over time."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import PRNGKeyArray

from ._cell import AbstractCell, Cell, State


class AbstractScannable(AbstractCell[State]):
    """A cell that knows a faster way through a whole sequence than one step at a time; `scan` asks for it by type."""

    @abc.abstractmethod
    def scan_over(
        self, xs: Any, state: State, *, key: PRNGKeyArray | None, unroll: int, reverse: bool
    ) -> tuple[Any, State]:
        """Outputs stacked along axis 0 and the final state: the numbers of the step loop, to rounding."""


def scan(
    cell: Cell,
    xs: Any,
    state: State,
    *,
    key: PRNGKeyArray | None = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | None = None,
) -> tuple[Any, State]:
    """Run `cell` over the leading (time) axis of `xs`.

    $(y_t, s_t) = \\mathrm{cell}(x_t, s_{t-1})$ for $t = 1 \\dots T$.

    **Arguments:**

    - `cell`: `(x, state, *, key) -> (out, state)`.
    - `xs`: arrays with time first, or None (then give `length`).
    - `state`: the state before the first step; its structure, shapes and dtypes are kept.
    - `key`: split into one key per step; None for deterministic cells.
    - `length`: number of steps; needed only when `xs` has no arrays.
    - `reverse`: run from the last time step to the first.
    - `unroll`: steps per compiled loop iteration; default 1 on CPU and 8 on accelerators.

    **Returns:** the outputs stacked in time order, and the state after the last step.

    **Raises:** `ValueError` if the leading sizes of `xs` differ or no length is known.
    """
    lengths = {leaf.shape[0] if leaf.ndim else None for leaf in jtu.tree_leaves(xs)} | ({length} - {None})
    if len(lengths) != 1 or None in lengths:
        raise ValueError(f"`xs` must have one leading (time) size; got {lengths or 'no arrays and no `length`'}.")
    (num_steps,) = lengths
    unroll = _default_unroll() if unroll is None else unroll
    if isinstance(cell, AbstractScannable) and jtu.tree_leaves(xs):
        return cell.scan_over(xs, state, key=key, unroll=unroll, reverse=reverse)
    keys = None if key is None else jr.split(key, num_steps)

    def step(carry: State, x_and_key: tuple[Any, PRNGKeyArray | None]) -> tuple[State, Any]:
        x, step_key = x_and_key
        out, carry = cell(x, carry, key=step_key)
        return carry, out

    state, ys = jax.lax.scan(step, state, (xs, keys), length=num_steps, reverse=reverse, unroll=unroll)
    return ys, state


def _default_unroll() -> int:
    return 1 if jax.default_backend() == "cpu" else 8


def merge_time(x: jax.Array, feature_ndim: int = 1) -> tuple[jax.Array, tuple[int, ...]]:
    """All leading axes as one, so that an affine layer over a sequence is ONE matrix product; and how to undo it."""
    leading = x.shape[: x.ndim - feature_ndim]
    return jnp.reshape(x, (-1, *x.shape[x.ndim - feature_ndim :])), leading
