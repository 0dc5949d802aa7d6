"""A progress bar that reads metrics only when it redraws."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx

from ._callbacks import AbstractCallback, Plan, Report, Stop
from ._state import TrainState


class ProgressBar(AbstractCallback):
    """Steps done, throughput, time left and chosen metrics; silent when nobody watches (output is not a terminal)."""

    metrics: tuple[str, ...] | None = eqx.field(static=True)
    interval: float = eqx.field(static=True)

    def __init__(self, metrics: Sequence[str] | None = None, *, interval: float = 0.2):
        """**Arguments:**

        - `metrics`: names to show; None shows all.
        - `interval`: seconds between redraws, each of which waits once for the device.
        """
        self.metrics = None if metrics is None else tuple(metrics)
        self.interval = interval

    def init(self, plan: Plan) -> Any:
        if not sys.stderr.isatty():
            return None
        import tqdm.auto

        return tqdm.auto.tqdm(total=plan.num_steps, unit="step"), 0, time.perf_counter()

    def __call__(self, report: Report, memory: Any) -> tuple[Stop | None, Any]:
        if memory is None:
            return None, None
        bar, pending, last = memory
        pending += report.num_steps
        if time.perf_counter() - last < self.interval:
            return None, (bar, pending, last)
        names = report.values if self.metrics is None else self.metrics
        bar.set_postfix({name: f"{report.values[name]:.4g}" for name in names}, refresh=False)
        bar.update(pending)
        return None, (bar, 0, time.perf_counter())

    def close(self, memory: Any, state: TrainState) -> TrainState:
        if memory is not None:
            bar, pending, _ = memory
            bar.update(pending)
            bar.close()
        return state
