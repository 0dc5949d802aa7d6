"""Training is a scan of the step cell, some steps at a time."""

import itertools as it
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from .._scan import scan
from ._callbacks import AbstractCallback, Plan, Report, to_host
from ._data import AbstractBatches, ArrayData, EpochPart, stack
from ._state import TrainState
from ._step import TrainStep


class _OverBatches(eqx.Module):
    """The step as a cell over the arrays of its state."""

    step: TrainStep
    make_batch: Callable
    static: PyTree

    def __call__(self, x: Any, state: Any, *, key: PRNGKeyArray | None = None) -> tuple[Any, Any]:
        metrics, new = self.step(self.make_batch(x), eqx.combine(state, self.static))
        return metrics, eqx.filter(new, eqx.is_array)


def _run(step_and_batches: tuple[TrainStep, AbstractBatches], state: TrainState) -> tuple[dict[str, Array], TrainState]:
    step, batches = step_and_batches
    xs, make_batch = batches.unpack(state.key, state.step)
    arrays, static = eqx.partition(state, eqx.is_array)
    metrics, arrays = scan(_OverBatches(step, make_batch, static), xs, arrays, unroll=1)
    return jtu.tree_map(lambda m: m.mean(0), metrics), eqx.combine(arrays, static)


_run_keeping = eqx.filter_jit(_run)
_run_donating = eqx.filter_jit(_run, donate="all-except-first")


def fit(
    state: TrainState,
    step: TrainStep,
    data: ArrayData | Iterable,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_dispatch: int | None = None,
    callbacks: Sequence[AbstractCallback] = (),
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Train: scan `step` over `data`, many steps per dispatch to the device.

    **Arguments:**

    - `state`: where to start, from `step.init(model, key=key)` or from a checkpoint.
    - `step`: from `make_step`.
    - `data`: `ArrayData`, or an iterable of batches.
    - `epochs`, `steps`: how long; give one of the two.
    - `steps_per_dispatch`: steps compiled into one call; default a whole epoch in memory, 32 for iterators.
    - `callbacks`: called after every dispatch.

    **Returns:** the state after the last step, and the history: metric name to one value per epoch, or per dispatch if
    `steps` was given.
    """
    if (epochs is None) == (steps is None):
        raise ValueError(f"Give one of `epochs` and `steps`; got epochs={epochs}, steps={steps}.")
    run = _run_donating if step.donate else _run_keeping
    if step.donate:
        state = jtu.tree_map(lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, state)
    first = int(state.step)
    if isinstance(data, ArrayData):
        per_epoch = data.num_batches
        total = steps if epochs is None else epochs * per_epoch
        dispatches = _epoch_parts(data, first, total, steps_per_dispatch or per_epoch)
    else:
        per_epoch, total = None, steps
        dispatches = _stacks(data, epochs, steps, steps_per_dispatch or 32)
    plan = Plan(first, total, epochs, per_epoch)
    memories = [callback.init(plan) for callback in callbacks]
    reports, done, epoch, metrics = [], 0, 0, {}
    try:
        for batches, num_steps, ends_epoch, iterator in dispatches:
            if batches is not None:
                metrics, state = run((step, batches), state)
            done, epoch = done + num_steps, epoch + ends_epoch
            reports.append((metrics, num_steps, epoch - ends_epoch))
            report = Report(plan, first + done, epoch, ends_epoch, num_steps, metrics, state, iterator)
            verdicts = []
            for n, callback in enumerate(callbacks):
                verdict, memories[n] = callback(report, memories[n])
                verdicts.append(verdict)
            if any(verdict is not None for verdict in verdicts):
                break
    finally:
        for callback, memory in zip(callbacks, memories, strict=True):
            state = callback.close(memory, state)
    return state, _history(reports, per_epoch=steps is None)


def _epoch_parts(data: ArrayData, first: int, total: int, per_dispatch: int) -> Iterator[tuple]:
    done = 0
    while done < total:
        position = done % data.num_batches
        num_steps = min(per_dispatch, data.num_batches - position, total - done)
        done += num_steps
        ends = position + num_steps == data.num_batches
        yield EpochPart(data, np.int32(first + done - num_steps - position), num_steps), num_steps, ends, None


def _stacks(data: Iterable, epochs: int | None, steps: int | None, per_dispatch: int) -> Iterator[tuple]:
    done, epoch = 0, 0
    while epoch != epochs and done != steps:
        iterator, before, ended = iter(data), done, False
        while not ended and done != steps:
            wanted = per_dispatch if steps is None else min(per_dispatch, steps - done)
            group = list(it.islice(iterator, wanted))
            done, ended = done + len(group), len(group) < wanted
            if done == before:
                raise ValueError(f"`data` gave no batch (after {done} steps); pass what can be iterated again.")
            # A full last group cannot know that it is the last: the pass is then closed by a report of no steps.
            yield stack(group) if group else None, len(group), ended, iterator
        epoch += 1


def _history(reports: list, *, per_epoch: bool) -> dict[str, np.ndarray]:
    if not reports:
        return {}
    metrics, weights, epochs = zip(*to_host(reports), strict=True)
    weights, epochs = np.asarray(weights), np.asarray(epochs)
    groups = [epochs == epoch for epoch in np.unique(epochs)] if per_epoch else list(np.eye(len(weights), dtype=bool))
    columns = {name: np.asarray([m[name] for m in metrics]) for name in metrics[0]}
    return {n: np.asarray([np.average(c[g], weights=weights[g]) for g in groups]) for n, c in columns.items()}
