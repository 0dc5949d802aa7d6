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
    """What a run means to do: `num_steps` steps from `first_step`, either may be unknown for an iterator."""

    first_step: int
    num_steps: int | None
    num_epochs: int | None
    steps_per_epoch: int | None


@dataclasses.dataclass(frozen=True)
class Report:
    """What a callback sees after each dispatch; nothing in it has been waited for until `values` is read.

    - `step`: steps of the run so far, this dispatch included.
    - `epoch`: finished passes over the data in this `fit`, counted from 1 once the first is complete.
    - `ends_epoch`: whether this dispatch was the last of a pass over the data.
    - `num_steps`: steps in this dispatch.
    - `metrics`: means over the steps of this dispatch, on the device.
    - `state`: the state after this dispatch. Its buffers are reused by the next dispatch: copy what you keep.
    - `data`: the iterator in use, or None for data in memory.
    """

    plan: Plan
    step: int
    epoch: int
    ends_epoch: bool
    num_steps: int
    metrics: dict[str, Array]
    state: TrainState
    data: Any = None

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

    Configuration lives in fields, whatever changes lives in `memory`. Read `report.values` only when reporting: that is
    what waits for the device.
    """

    @abc.abstractmethod
    def init(self, plan: Plan) -> Any:
        """The memory before the first report."""

    @abc.abstractmethod
    def __call__(self, report: Report, memory: Any) -> tuple[Stop | None, Any]:
        """React to a report; return a `Stop` to end the run."""

    @abc.abstractmethod
    def close(self, memory: Any, state: TrainState) -> TrainState:
        """Release what `memory` holds; called once, also after an error. Returns the state `fit` should return."""


def to_host(tree: Any) -> Any:
    """The one place where a run waits for the device to read metrics."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
