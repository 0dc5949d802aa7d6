"""What may watch a run, and stop it, between dispatches."""

import abc
import dataclasses
import functools as ft
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from ._state import TrainState


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run means to do; None for what an iterable does not tell.

    - `first_step`: of the run, where this `fit` begins.
    - `num_steps`, `num_epochs`, `steps_per_epoch`: how far it goes.
    - `evaluated`: names of the metrics of `evaluate`.
    """

    first_step: int
    num_steps: int | None
    num_epochs: int | None
    steps_per_epoch: int | None
    evaluated: tuple[str, ...] = ()


class Report:
    """What a callback sees after each dispatch; nothing in it has been waited for until `values` is read.

    - `plan`: what the run means to do.
    - `step`: steps of the run so far, this dispatch included.
    - `num_steps`: steps in this dispatch.
    - `entry`: number of the history entry, from 1: the epoch, or the dispatch if `fit` counts steps.
    - `ends_entry`, `is_last`: whether this dispatch completes that entry, and the run.
    - `metrics`: means over the steps of this entry so far, and the evaluation if there was one; still on the device.
    - `iterator`: the iterator in use, just behind the batches trained on; None for data in memory.
    """

    def __init__(self, plan: Plan, step: int, dispatch: Any, metrics: dict[str, Array], runner: Any):
        self.plan, self.step, self.metrics = plan, step, metrics
        self.num_steps, self.entry, self.ends_entry = dispatch.num_steps, dispatch.entry, dispatch.ends_entry
        self.is_last, self.iterator = dispatch.is_last, dispatch.iterator
        self._runner = runner

    @ft.cached_property
    def state(self) -> TrainState:
        """The state after this dispatch. The next dispatch reuses its buffers: copy what you keep."""
        return self._runner.state

    @ft.cached_property
    def values(self) -> dict[str, float]:
        """The metrics as floats; the first read waits for the device, later ones cost nothing."""
        return {name: float(value) for name, value in to_host(self.metrics).items()}


@dataclasses.dataclass(frozen=True)
class Stop:
    """A callback's wish to end the run, and why."""

    reason: str


class AbstractCallback(eqx.Module):
    """A cell over reports: `(report, memory) -> (verdict, memory)`.

    Configuration lives in fields, whatever changes lives in `memory`: `init(plan)` makes it before the first step, a
    call takes and returns it, `close(memory, state)` releases what it holds. Read `report.values` only when reporting:
    that is what waits for the device.
    """

    @abc.abstractmethod
    def init(self, plan: Plan) -> Any:
        """The memory before the first report."""

    @abc.abstractmethod
    def __call__(self, report: Report, memory: Any) -> tuple[Stop | None, Any]:
        """React to a report; return a `Stop` to end the run."""

    @abc.abstractmethod
    def close(self, memory: Any, state: TrainState | None) -> TrainState | None:
        """Release what `memory` holds; called once, with None for the state if the run ended in an error.

        Returns the state that `fit` should return in place of `state`, or None to leave it.
        """


def to_host(tree: Any) -> Any:
    """The one place where a run waits for the device to read metrics."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
