"""A progress bar that looks at the device only when it redraws."""

import abc
import sys
import time
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax

from .._extras import need
from ._callbacks import AbstractCallback, Plan, Report
from ._state import TrainState


class AbstractMeter(eqx.Module):
    """What draws the bar."""

    @abc.abstractmethod
    def open(self, total: int | None, stream: Any) -> Any:
        """Start a bar of `total` steps (None if unknown)."""

    @abc.abstractmethod
    def advance(self, bar: Any, num_steps: int, text: str) -> None:
        """Move on and redraw."""

    @abc.abstractmethod
    def close(self, bar: Any) -> None:
        """Leave the bar as it is."""


class TqdmMeter(AbstractMeter):
    """`tqdm`, in a terminal or in a notebook."""

    def open(self, total: int | None, stream: Any) -> Any:
        tqdm = need("tqdm.auto" if in_notebook() else "tqdm", extra="train", user="ProgressBar").tqdm
        # The bar redraws exactly when told to.
        return tqdm(total=total, unit="step", file=None if in_notebook() else stream, mininterval=0, miniters=1)

    def advance(self, bar: Any, num_steps: int, text: str) -> None:
        bar.set_postfix_str(text, refresh=False)
        bar.update(num_steps)

    def close(self, bar: Any) -> None:
        bar.close()


class RichMeter(AbstractMeter):
    """`rich`, for those who have it installed; the rate is that of the last half minute."""

    def open(self, total: int | None, stream: Any) -> Any:
        console, progress = (need(f"rich.{part}", extra=None, user="RichMeter") for part in ("console", "progress"))
        columns = (
            *progress.Progress.get_default_columns(),
            progress.TextColumn("{task.completed:.0f} steps, {task.fields[rate]:.3g} step/s {task.fields[text]}"),
        )
        bar = progress.Progress(*columns, console=console.Console(file=stream), auto_refresh=False)
        bar.start()
        return bar, bar.add_task("train", total=total, rate=0.0, text="")

    def advance(self, bar: Any, num_steps: int, text: str) -> None:
        progress, task = bar
        progress.update(task, advance=num_steps)
        progress.update(task, rate=progress.tasks[task].speed or 0.0, text=text, refresh=True)

    def close(self, bar: Any) -> None:
        bar[0].stop()


class ProgressBar(AbstractCallback):
    """Steps done, steps per second, time left and chosen metrics; silent when nobody watches.

    Nobody watches if the stream is neither a terminal nor a notebook, or this is not the first process. Metrics are
    read, which waits for the device, once per redraw.
    """

    metrics: tuple[str, ...] | None = eqx.field(static=True)
    interval: float | int = eqx.field(static=True)
    meter: AbstractMeter
    stream: Any = eqx.field(static=True)

    def __init__(
        self,
        metrics: Sequence[str] | None = None,
        *,
        interval: float | int = 0.2,
        meter: AbstractMeter = TqdmMeter(),
        stream: Any = None,
    ):
        """**Arguments:**

        - `metrics`: names to show, where reported; None shows all.
        - `interval`: least time between redraws, seconds.
        - `meter`: `TqdmMeter()` or `RichMeter()`.
        - `stream`: a text stream, default standard error.
        """
        self.metrics = None if metrics is None else tuple(metrics)
        self.interval, self.meter, self.stream = interval, meter, stream

    def init(self, plan: Plan) -> Any:
        stream = sys.stderr if self.stream is None else self.stream
        if jax.process_index() != 0 or not (stream.isatty() or in_notebook()):
            return None
        return self.meter.open(plan.num_steps, stream), 0, time.perf_counter(), {}

    def __call__(self, report: Report, memory: Any) -> tuple[None, Any]:
        if memory is None:
            return None, None
        bar, pending, drawn, shown = memory
        pending += report.num_steps
        if time.perf_counter() - drawn < self.interval and not report.is_last:
            return None, (bar, pending, drawn, shown)
        # Metrics of an evaluation stay until the next one.
        shown = shown | {k: v for k, v in report.values.items() if self.metrics is None or k in self.metrics}
        self.meter.advance(bar, pending, ", ".join(f"{name}={value:.4g}" for name, value in shown.items()))
        return None, (bar, 0, time.perf_counter(), shown)

    def close(self, memory: Any, state: TrainState | None) -> None:
        if memory is not None:
            self.meter.close(memory[0])


def in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
