"""Running a long sequence in chunks that keep only what their gradient cannot cheaply work out again."""

import abc
import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Key, PyTree

from ._cell import AbstractCell, Cell, State
from ._derivative import with_tangent


MEMBRANE = "eqx_dynamics.membrane"
"""The name (`jax.ad_checkpoint.checkpoint_name`) of what a spiking cell keeps of a step for its gradient."""


class AbstractMembraneCell(AbstractCell[State]):
    """A cell that names a value of each step `MEMBRANE`, and can say whether that is all that is worth keeping.

    If it is also an `AbstractScannable`, its `scan_over` takes one key, or one key a step.
    """

    @property
    @abc.abstractmethod
    def keeps_membranes(self) -> bool:
        """Whether the rest of a step (spikes, slopes, other variables) is cheap to work out again for the gradient."""


def in_chunks(
    run: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], xs: PyTree, state: PyTree, chunk: int, *, reverse: bool
) -> tuple[PyTree, PyTree]:
    """`run(state, part) -> (state, ys)` over parts of `chunk` steps, the last one shorter if need be.

    For the gradient each part keeps its initial state, the values named `MEMBRANE`, and of matrix products those that
    do not follow from these.
    """
    policies = jax.checkpoint_policies
    keep = policies.save_from_both_policies(policies.save_only_these_names(MEMBRANE), policies.dots_saveable)
    num_steps = jtu.tree_leaves(xs)[0].shape[0]
    state, ys = scan_chunks(
        lambda state, part, _: run(state, part), state, xs, num_steps, chunk, reverse=reverse, keep=keep
    )
    return ys, state


def scan_chunks(
    run: Callable[[PyTree, PyTree, int], tuple[PyTree, PyTree]],
    state: PyTree,
    inputs: PyTree,
    num_steps: int,
    chunk: int,
    *,
    reverse: bool,
    keep: Callable[..., Any] | None = None,
    group: int | None = None,
    after: Callable[[Array], None] | None = None,
) -> tuple[PyTree, PyTree]:
    """A scan of `run(state, part, num_steps_of_part) -> (state, ys)` over parts of `chunk` steps.

    The part at the end of time is shorter if need be. The state comes first, as in `jax.lax.scan`.

    - `keep`: what a part keeps for its gradient beside its initial state (a policy of `jax.checkpoint`); None for all.
    - `group`: so many steps (whole chunks) are a part made of parts: of the states between its chunks nothing is kept.
    - `after`: called after each chunk with the number of steps done, an array.
    """
    # Parts are cut out of the whole sequence where they are used, so that no loop carries a copy of a longer stretch.
    inputs = jtu.tree_map(jnp.asarray, inputs)
    constants = jtu.tree_map(jax.lax.stop_gradient, inputs)

    def over(state: PyTree, start: Any, tangents: PyTree, total: int, sizes: tuple[int, ...]) -> tuple[PyTree, PyTree]:
        size, finer = sizes[0], sizes[1:]
        whole, rest = divmod(total, size)
        parts = [(0, whole, size)] * bool(whole) + [(whole * size, 1, rest)] * bool(rest)  # First, parts, steps each.
        outs = []
        for first, count, steps in parts[::-1] if reverse else parts:

            def part(state: PyTree, begin: Array, tangents: PyTree, steps: int = steps) -> tuple[PyTree, PyTree]:
                if finer and steps > finer[0]:
                    return over(state, begin, tangents, steps, finer)
                return run(state, jtu.tree_map(ft.partial(_take, begin, steps), constants, tangents), steps)

            # Without barriers against common subexpressions: a scan is compiled apart from its gradient anyway.
            kept = part if keep is None else jax.checkpoint(part, policy=keep, prevent_cse=False)

            def body(state: PyTree, where: tuple[Array, PyTree], kept: Any = kept, steps: int = steps) -> Any:
                state, ys = kept(state, *where)
                if after is not None:
                    after(num_steps - where[0] if reverse else where[0] + steps)
                return state, ys

            begins = start + first + steps * jnp.arange(count, dtype=jnp.int32)
            cut = jtu.tree_map(lambda t, a=first, n=count, k=steps: _cut(t, a, n, k), tangents)
            state, ys = jax.lax.scan(body, state, (begins, cut), reverse=reverse)
            outs.append(jtu.tree_map(lambda y, n=count * steps: jnp.reshape(y, (n, *y.shape[2:])), ys))
        ordered = outs[::-1] if reverse else outs
        return state, ordered[0] if len(ordered) == 1 else jtu.tree_map(lambda *ys: jnp.concatenate(ys), *ordered)

    sizes = (chunk,) if group is None else (group, chunk)
    return over(state, 0, jtu.tree_map(_tangent_input, inputs), num_steps, sizes)


def near_divisor(whole: int, target: int) -> int:
    """The divisor of `whole` nearest to `target`, or `target` if none is within a factor of two."""
    near = [size for size in range(max(target // 2, 1), 2 * target) if whole % size == 0]
    return min(near, key=lambda size: abs(size - target), default=target)


def step_by_step(
    cell: Cell, xs: PyTree, state: PyTree, *, key: Key[Array, "..."] | None, unroll: int, reverse: bool
) -> tuple[PyTree, PyTree]:
    """The plain loop, for cells whose faster route does not always apply; `key` is one key or one a step."""
    num_steps = jtu.tree_leaves(xs)[0].shape[0]
    keys = jr.split(key, num_steps) if key is not None and key.ndim == 0 else key

    def step(carry: PyTree, x_and_key: tuple[PyTree, Any]) -> tuple[PyTree, PyTree]:
        out, carry = cell(x_and_key[0], carry, key=x_and_key[1])
        return carry, out

    state, ys = jax.lax.scan(step, state, (xs, keys), reverse=reverse, unroll=unroll)
    return ys, state


# A part of the inputs is two things: its values, cut out of the whole, and zeros that carry its derivatives as an input
# of the scan, whose cotangents are then stacked part by part (the gradient of a cut alone would add up arrays as long
# as the whole). The zeros are never read: nothing is left of them in a compiled program.


def _tangent_input(x: Array) -> Array:
    return with_tangent(jnp.zeros_like(x), x) if eqx.is_inexact_array(x) else jnp.zeros((x.shape[0], 0))


def _take(start: Array, size: int, whole: Array, tangent: Array) -> Array:
    part = jax.lax.dynamic_slice_in_dim(whole, start, size)
    return with_tangent(part, tangent) if eqx.is_inexact_array(whole) else part


def _cut(x: Array, start: int, count: int, size: int) -> Array:
    part = jax.lax.slice_in_dim(x, start, start + count * size)
    return jnp.reshape(part, (count, size, *x.shape[1:]))
