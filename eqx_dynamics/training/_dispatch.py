"""Cutting a run into dispatches: some steps, compiled as one scan, sent to the device in one call."""

import dataclasses
import itertools as it
import math
from collections.abc import Iterable, Iterator
from typing import Any, no_type_check

import jax
import jax.tree_util as jtu
import numpy as np

from ._callbacks import Plan
from ._data import AbstractBatches, ArrayData, NextBatches, stack
from ._state import TrainState


@no_type_check  # between two dispatches a check would cost more than the call
@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Some batches, and their place in the run.

    `entry` numbers the history entry they belong to, from 1: the pass over the data where epochs are counted, else the
    dispatch; `ends_entry` says whether they complete it.
    """

    batches: AbstractBatches | None
    num_steps: int
    entry: int
    ends_entry: bool
    is_last: bool
    iterator: Any = None


def plan_run(
    data: ArrayData | Iterable[Any], state: TrainState, epochs: int | None, steps: int | None, per_dispatch: int | None
) -> tuple[Plan, Iterator[Dispatch]]:
    """What the arguments of `fit` mean for these data and this state."""
    numbers = {"epochs": epochs, "steps": steps, "steps_per_dispatch": per_dispatch}
    if (epochs is None) == (steps is None):
        raise ValueError(f"Give one of `epochs` and `steps`; got epochs={epochs}, steps={steps}.")
    for name, number in numbers.items():
        if number is not None and number < (name == "steps_per_dispatch"):
            raise ValueError(f"`{name}` must be at least {int(name == 'steps_per_dispatch')}; got {number}.")
    first, epoch_start = map(int, jax.device_get((state.step, state.epoch_start)))
    if state.health is not None and state.health.halted:
        raise ValueError(
            f"`state` was halted at step {first} by values that are not finite. Change what made them, then continue "
            "with `step.recover(state)`."
        )
    if not isinstance(data, ArrayData):
        return Plan(first, steps, epochs, None), _over_iterable(data, epochs, steps, per_dispatch or 32)
    per_epoch = data.num_batches
    position = (first - epoch_start) % per_epoch if first - epoch_start < per_epoch else 0
    total = steps if epochs is None else max(epochs * per_epoch - position, 0)
    assert total is not None
    parts = _over_arrays(data, position, total, per_dispatch or per_epoch, by_epoch=steps is None)
    return Plan(first, total, epochs, per_epoch), parts


def _over_arrays(
    data: ArrayData, position: int, num_steps: int, per_dispatch: int, *, by_epoch: bool
) -> Iterator[Dispatch]:
    # Where steps are counted a dispatch may begin at `gcd`, 2 `gcd`, ... in an epoch. The most epochs it can reach into
    # are shuffled each time, so that all dispatches of one size are one program.
    per_epoch, gcd = data.num_batches, math.gcd(data.num_batches, position, per_dispatch)
    done = 0
    for index in it.count(1):
        if done == num_steps:
            return
        epoch, at = divmod(position + done, per_epoch)
        size = min(per_dispatch, num_steps - done)
        if by_epoch:
            size = min(size, per_epoch - at)
        num_epochs = 1 if by_epoch else -(-(per_epoch - gcd + size) // per_epoch)
        done += size
        ends = at + size == per_epoch
        batches = NextBatches(data, size, num_epochs)
        yield Dispatch(batches, size, epoch + 1 if by_epoch else index, ends or not by_epoch, done == num_steps)


@no_type_check  # between two dispatches a check would cost more than the call
def _over_iterable(data: Iterable[Any], epochs: int | None, steps: int | None, per_dispatch: int) -> Iterator[Dispatch]:
    # Read no further than what is trained on, so that the iterator's own state can be saved with the model's. The
    # price: a pass that ends with a full group is known to be over only at the next read, and then closed by a dispatch
    # of no steps.
    done, epoch, index = 0, 0, 0
    while epoch != epochs and done != steps:
        iterator, before, ended, epoch = iter(data), done, False, epoch + 1
        while not ended and done != steps:
            wanted = per_dispatch if steps is None else min(per_dispatch, steps - done)
            group = [batch if wanted == 1 else _own(batch) for batch in it.islice(iterator, wanted)]
            done, index, ended = done + len(group), index + 1, len(group) < wanted
            if done == before:
                wish = f"{epochs} epochs" if steps is None else f"{steps} steps"
                raise ValueError(
                    f"`data` gave no batch in pass {epoch}, after {done} steps, but {wish} were asked for; pass an "
                    "iterable that starts anew at each `iter(data)`, or one that is long enough."
                )
            batches = stack(group) if group else None
            if steps is None:
                yield Dispatch(batches, len(group), epoch, ended, ended and epoch == epochs, iterator)
            elif group:
                yield Dispatch(batches, len(group), index, True, done == steps, iterator)


@no_type_check  # between two dispatches a check would cost more than the call
def _own(batch: Any) -> Any:
    """The batch in memory of its own: a loader may fill the same arrays again before the dispatch is complete."""
    return jtu.tree_map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, batch)
