"""Running a long sequence in chunks that keep only what their gradient cannot cheaply work out again."""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Key, PyTree

from ._cell import AbstractCell, Cell, State


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
    # Without barriers against common subexpressions: the body of a scan is compiled apart from its gradient anyway.
    kept = jax.checkpoint(run, policy=keep, prevent_cse=False)
    num_steps = jtu.tree_leaves(xs)[0].shape[0]
    state, ys = scan_chunks(lambda state, part, _: kept(state, part), state, xs, num_steps, chunk, reverse=reverse)
    return ys, state


def scan_chunks(
    run: Callable[[PyTree, PyTree, int], tuple[PyTree, PyTree]],
    state: PyTree,
    inputs: PyTree,
    num_steps: int,
    chunk: int,
    *,
    reverse: bool,
) -> tuple[PyTree, PyTree]:
    """A scan of `run(state, part, num_steps_of_part) -> (state, ys)` over parts of `chunk` steps.

    The part at the end of time is shorter if need be. The state comes first, as in `jax.lax.scan`.
    """
    whole, rest = divmod(num_steps, chunk)
    parts = [(0, whole, chunk)] + ([(whole * chunk, 1, rest)] if rest else [])  # First step, parts, steps in each.
    outs = []
    for start, count, size in reversed(parts) if reverse else parts:
        part = jtu.tree_map(lambda x, a=start, n=count, k=size: _cut(x, a, n, k), inputs)
        body = lambda state, part, k=size: run(state, part, k)  # noqa: E731
        state, ys = jax.lax.scan(body, state, part, length=count, reverse=reverse)
        outs.append(jtu.tree_map(lambda y, n=count * size: jnp.reshape(y, (n, *y.shape[2:])), ys))
    ordered = outs[::-1] if reverse else outs
    return state, ordered[0] if len(ordered) == 1 else jtu.tree_map(lambda *ys: jnp.concatenate(ys), *ordered)


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


def _cut(x: Array, start: int, count: int, size: int) -> Array:
    part = jax.lax.slice_in_dim(x, start, start + count * size)
    return jnp.reshape(part, (count, size, *x.shape[1:]))
