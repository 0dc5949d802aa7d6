"""Callbacks that decide: when to stop, which weights to keep."""

import math
from typing import Any, Literal

import equinox as eqx
import jax.tree_util as jtu

from ._callbacks import AbstractCallback, Plan, Report, Stop
from ._state import TrainState


class EarlyStopping(AbstractCallback):
    """Ends the run when a metric has not improved for a while. Reads the metric whenever it is new."""

    metric: str = eqx.field(static=True)
    patience: int = eqx.field(static=True)
    mode: Literal["min", "max"] = eqx.field(static=True)
    min_change: float | int = eqx.field(static=True)

    def __init__(
        self, metric: str, patience: int, *, mode: Literal["min", "max"] = "min", min_change: float | int = 0.0
    ):
        """**Arguments:**

        - `metric`: name of a metric of the training step or of `evaluate`.
        - `patience`: values without improvement after which to stop.
        - `mode`: whether smaller or larger is better.
        - `min_change`: smallest change that counts as an improvement, at least 0.

        **Raises:** `ValueError` for a patience below 1 or a negative change.
        """
        if patience < 1 or min_change < 0:
            raise ValueError(f"`patience` must be positive, `min_change` not negative; got {patience}, {min_change}.")
        self.metric, self.patience, self.mode, self.min_change = metric, patience, mode, min_change

    def init(self, plan: Plan) -> tuple[float | None, int]:
        return None, 0

    def __call__(self, report: Report, memory: tuple[float | None, int]) -> tuple[Stop | None, Any]:
        best, waited = memory
        if not is_new(report, self.metric):
            return None, memory
        value = report.values[self.metric]
        if better(value, best, self.mode, self.min_change):
            return None, (value, 0)
        if waited + 1 < self.patience:
            return None, (best, waited + 1)
        return Stop(f"`{self.metric}` has not improved on {best} for {self.patience} values"), (best, waited + 1)

    def close(self, memory: Any, state: TrainState | None) -> None:
        return None


class KeepBest(AbstractCallback):
    """Makes `fit` return the state with the best value of a metric instead of the last one.

    Keeps one copy of the state on the device. Reads the metric whenever it is new.
    """

    metric: str = eqx.field(static=True)
    mode: Literal["min", "max"] = eqx.field(static=True)

    def __init__(self, metric: str, *, mode: Literal["min", "max"] = "min"):
        """**Arguments:** `metric`: of the training step or of `evaluate`; `mode`: whether smaller or larger is best."""
        self.metric, self.mode = metric, mode

    def init(self, plan: Plan) -> tuple[float | None, TrainState | None]:
        return None, None

    def __call__(self, report: Report, memory: Any) -> tuple[None, Any]:
        best, _ = memory
        if not is_new(report, self.metric):
            return None, memory
        value = report.values[self.metric]
        if better(value, best, self.mode):
            return None, (value, copied(report.state))
        return None, memory

    def close(self, memory: Any, state: TrainState | None) -> TrainState | None:
        return memory[1]


def is_new(report: Report, metric: str) -> bool:
    """Whether this report completes a value of `metric`.

    **Raises:** `ValueError` if there is no such metric.
    """
    known = {*report.metrics, *report.plan.evaluated}
    if metric not in known:
        raise ValueError(f"`metric` must be one of those reported, {sorted(known)}; got {metric!r}.")
    return report.ends_entry and metric in report.metrics


def better(value: float, best: float | None, mode: Literal["min", "max"], min_change: float | int = 0.0) -> bool:
    """Whether `value` improves on `best`; NaN never does, and any number improves on None."""
    if best is None:
        return not math.isnan(value)
    return value < best - min_change if mode == "min" else value > best + min_change


def copied(state: TrainState) -> TrainState:
    """A state whose buffers are its own."""
    return jtu.tree_map(lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, state)
