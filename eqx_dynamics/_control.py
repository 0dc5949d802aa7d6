"""Loops that stop by a condition, and still have gradients, a bound, and a word on why they stopped."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Int, Key, PRNGKeyArray

from ._cell import Cell, State
from ._internal import unvmap_all, while_loop
from ._scan import AbstractScannable, num_steps_of, scan


class RESULTS(eqx.Enumeration):
    """Why a loop ended. `result == RESULTS.completed` is a traced bool; `RESULTS[result]` the message."""

    completed = "The loop ran to its end."
    stopped = "The stopping condition held before the last step."
    max_steps_reached = "The step limit was reached before the condition of the loop turned false."
    non_finite = "The state became NaN or infinite."


class Loop(eqx.Module):
    """What `bounded_while` returns."""

    value: Any
    num_steps: Int[Array, ""]
    result: RESULTS


class StoppedScan(eqx.Module):
    """What `scan_until` returns: outputs (zero after the stop), last good state, steps taken, and why it ended."""

    outputs: Any
    state: Any
    num_steps: Int[Array, ""]
    result: RESULTS


def bounded_while(
    condition: Callable[[Any], Bool[Array, ""] | bool],
    body: Callable[[Any], Any],
    init: Any,
    *,
    max_steps: int,
    checkpoints: int | None = None,
    throw: bool = True,
) -> Loop:
    """`while condition(value): value = body(value)`, at most `max_steps` times, with gradients.

    **Arguments:**

    - `condition`: value to a scalar bool.
    - `body`: value to a value of the same structure, shapes and dtypes.
    - `init`: first value; its arrays are carried, everything else in it is constant.
    - `max_steps`: static bound on the steps, the reason why no `vmap` member can hang the others.
    - `checkpoints`: by default forward and reverse mode work and memory grows with `max_steps`. With a number,
      only so many values are kept and the rest is computed again: reverse mode only, memory by `checkpoints`.
    - `throw`: raise at run time unless the loop completed; with False, look at `result`.

    **Returns:** `Loop(value, num_steps, result)`. Under `vmap` the loop runs until every member is done; a member that
    is done keeps its value, and has its own `num_steps` and `result`.

    **Raises:** `ValueError` if a size is not positive, `condition` gives no scalar bool, or `body` changes the value's
    structure; at run time, with `throw`, if the bound is reached or the value is not finite.

    !!! note
        `jax.lax.while_loop` has no reverse mode and no bound. A condition that sees NaN is false, so a diverged value
        would look converged there; here it is `RESULTS.non_finite`.

    ??? cite "Reference"
        Online checkpointing: Stumm & Walther, New Algorithms for Optimal Online Checkpointing, 2010 (in Equinox).
    """
    for name, size in (("max_steps", max_steps), ("checkpoints", 1 if checkpoints is None else checkpoints)):
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1; got {size}.")
    arrays, static = eqx.partition(jtu.tree_map(_number_to_array, init), eqx.is_array)
    _check_loop(condition, body, arrays, static)

    def step(carry: tuple[Any, Array]) -> tuple[Any, Array]:
        value, num_steps = carry
        new = eqx.filter(body(eqx.combine(value, static)), eqx.is_array_like)
        return jtu.tree_map(lambda old, array: jnp.asarray(array, old.dtype), value, new), num_steps + 1

    arrays, num_steps = while_loop(
        lambda carry: condition(eqx.combine(carry[0], static)),
        step,
        (arrays, jnp.zeros((), jnp.int32)),
        max_steps=max_steps,
        kind="bounded" if checkpoints is None else "checkpointed",
        checkpoints=checkpoints,
    )
    going = jnp.asarray(condition(eqx.combine(arrays, static)))
    result = RESULTS.where(going, RESULTS.max_steps_reached, RESULTS.completed)
    result = RESULTS.where(_all_finite(arrays), result, RESULTS.non_finite)
    if throw:
        arrays, num_steps = result.error_if((arrays, num_steps), result != RESULTS.completed)
    return Loop(eqx.combine(arrays, static), num_steps, result)


def scan_until(
    cell: Cell,
    xs: Any,
    state: State,
    stop: Callable[[Any, State], Bool[Array, ""]],
    *,
    key: PRNGKeyArray | None = None,
    length: int | None = None,
    unroll: int | None = None,
    chunk: int = 16,
    meter: Callable[[int, int], None] | None = None,
) -> StoppedScan:
    """As `scan`, but no step is taken once `stop(out, state)` has held or the state is no longer finite.

    **Arguments:**

    - `cell`, `xs`, `state`, `key`, `length`, `unroll`, `meter`: as for `scan`. The cell is run step by step.
    - `stop`: the output and state after a step to a scalar bool. A cell that batches in leading axes stops as a whole
      (`jnp.all`); to stop member by member use `eqx.filter_vmap`.
    - `chunk`: remaining steps are skipped in chunks of so many, and the gradient keeps only the states between chunks:
      memory in proportion to $T / \\mathrm{chunk} + \\mathrm{chunk}$, for one more forward pass.

    **Returns:** `StoppedScan`. `outputs` has the full length, zero from the step after the stop on;
    `num_steps` counts the steps taken, the one at which `stop` held included. After a step that gave NaN or infinity
    `state` is the one before it, and that step is not counted.

    **Raises:** `ValueError` as `scan`, and if `stop` does not return a scalar bool.

    !!! note "Cost, `vmap`, gradients"
        Remaining chunks are skipped, not computed, once every `vmap` member has stopped: the predicate of the skip is
        taken over the whole batch, so it stays a real branch. A member that stopped earlier is frozen, and fed the
        first state so that nothing overflows in what is thrown away. Forward and reverse mode work; for the gradient
        of a member that diverges to be finite, let `stop` catch it before it overflows.
    """
    result = scan(
        _Until(cell, stop, state),
        (xs, jnp.arange(num_steps_of(xs, length))),  # With the number of the step, there always is an input.
        (state, jnp.zeros((), jnp.int32), RESULTS.completed),
        key=key,
        unroll=unroll,
        chunk=chunk,
        meter=meter,
    )
    outputs, (state, num_steps, reason) = result
    return StoppedScan(outputs, state, num_steps, reason)


class _Until(AbstractScannable):
    """A cell that freezes once it has stopped, and is skipped, part by part, once all have stopped."""

    cell: Cell
    stop: Callable
    first: Any

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> Any:
        raise NotImplementedError("`scan_until` makes the state.")

    def scan_over(
        self, xs: Any, state: Any, *, key: Key[Array, " time"] | None, unroll: int, reverse: bool
    ) -> tuple[Any, Any]:
        arrays, static = eqx.partition(state, eqx.is_array)

        def run(xs_and_keys: Any, arrays: Any) -> tuple[Any, Any]:
            def step(arrays: Any, x_and_key: Any) -> tuple[Any, Any]:
                (x, _), step_key = x_and_key
                out, new = self(x, eqx.combine(arrays, static), key=step_key)
                return eqx.filter(new, eqx.is_array), out

            arrays, outs = jax.lax.scan(step, arrays, xs_and_keys, unroll=unroll)
            return outs, arrays

        def skip(xs_and_keys: Any, arrays: Any) -> tuple[Any, Any]:
            shapes, _ = jax.eval_shape(run, xs_and_keys, arrays)
            return jtu.tree_map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), arrays

        # The branches of a `cond` save whatever their gradient needs, weights included, every time; a checkpoint around
        # it saves only what goes in, of which the weights are the same for all parts.
        branch = jax.checkpoint(lambda done, *args: jax.lax.cond(done, skip, run, *args), prevent_cse=False)
        outs, arrays = branch(unvmap_all(state[2] != RESULTS.completed), (xs, key), arrays)
        return outs, eqx.combine(arrays, static)

    def __call__(self, x: Any, state: Any, *, key: PRNGKeyArray | None = None) -> tuple[Any, Any]:
        old, num_steps, reason = state
        done = reason != RESULTS.completed
        out, new = self.cell(x, _where(done, self.first, old), key=key)
        hit = self.stop(out, new)
        if jnp.shape(hit) != () or jnp.result_type(hit) != jnp.bool_:
            raise ValueError(
                f"`stop` must return one scalar bool; got {jnp.result_type(hit)}{list(jnp.shape(hit))}. Reduce it "
                "(`jnp.all`, `jnp.any`), or `eqx.filter_vmap` the whole `scan_until`."
            )
        finite = _all_finite(new)
        taken = ~done & finite
        now = RESULTS.where(finite, RESULTS.where(hit, RESULTS.stopped, RESULTS.completed), RESULTS.non_finite)
        reason = RESULTS.where(done, reason, now)
        out = jtu.tree_map(lambda leaf: jnp.where(taken, leaf, jnp.zeros_like(leaf)), out)
        return out, (_where(taken, new, old), num_steps + taken.astype(jnp.int32), reason)


def _where(pred: Array, on_true: Any, on_false: Any) -> Any:
    return jtu.tree_map(lambda a, b: jnp.where(pred, a, b) if eqx.is_array(a) else a, on_true, on_false)


def _all_finite(tree: Any) -> Array:
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jtu.tree_leaves(tree) if eqx.is_inexact_array(leaf)]
    return jnp.all(jnp.stack(finite)) if finite else jnp.array(True)


def _number_to_array(leaf: Any) -> Any:
    return jnp.asarray(leaf) if eqx.is_array_like(leaf) else leaf


def _check_loop(condition: Callable, body: Callable, arrays: Any, static: Any) -> None:
    value = eqx.combine(arrays, static)
    going = eqx.filter_eval_shape(condition, value)
    if jnp.shape(going) != () or not (isinstance(going, bool) or jnp.result_type(going) == jnp.bool_):
        raise ValueError(f"`condition` must return one scalar bool; got {eqx.tree_pformat(going)}. Reduce it first.")
    new = eqx.filter(eqx.filter_eval_shape(body, value), lambda leaf: not callable(leaf))
    shapes = [
        [(jtu.keystr(path), jnp.shape(leaf)) for path, leaf in jtu.tree_flatten_with_path(tree)[0]]
        for tree in (eqx.filter(value, lambda leaf: not callable(leaf)), new)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`body` must return a value of the structure and shapes it was given; "
            f"got {eqx.tree_pformat(new)} for {eqx.tree_pformat(value)}."
        )
