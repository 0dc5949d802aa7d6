"""Metrics to files and services."""

import abc
import csv
import json
import math
import os
from typing import Any

import equinox as eqx
import jax

from ._callbacks import AbstractCallback, Plan, Report
from ._state import TrainState


class AbstractSink(eqx.Module):
    """Where a `Logger` writes."""

    @abc.abstractmethod
    def open(self, names: tuple[str, ...]) -> Any:
        """Begin; `names` are the columns of all rows to come."""

    @abc.abstractmethod
    def write(self, handle: Any, step: int, row: dict[str, float | int]) -> None:
        """One row; metrics that are not known at this step are left out of `row`."""

    @abc.abstractmethod
    def close(self, handle: Any) -> None:
        """End."""


class CSVFile(AbstractSink):
    """A table with one column per metric; empty where a metric was not evaluated.

    With `append` a resumed run writes behind the rows of the one before; of two rows of one step the later one counts.
    """

    path: str | os.PathLike = eqx.field(static=True)
    append: bool = eqx.field(static=True, default=False)

    def open(self, names: tuple[str, ...]) -> Any:
        columns = ["step", "entry", *(name for name in names if name != "entry")]
        continues = self.append and os.path.exists(self.path) and os.path.getsize(self.path) > 0
        if continues:
            with open(self.path, newline="") as old:
                header = next(csv.reader(old))
            if header != columns:
                raise ValueError(f"`path` {os.fspath(self.path)!r} has the columns {header}, this run {columns}.")
        file = open(self.path, "a" if self.append else "w", newline="")  # noqa: SIM115  (closed by `close`)
        writer = csv.DictWriter(file, columns, restval="")
        if not continues:
            writer.writeheader()
        return file, writer

    def write(self, handle: Any, step: int, row: dict[str, float | int]) -> None:
        file, writer = handle
        writer.writerow({"step": step, **row})
        file.flush()

    def close(self, handle: Any) -> None:
        handle[0].close()


class JSONLines(AbstractSink):
    """One JSON object a line: `{"step": 12, "entry": 3, "loss": 0.5}`; null for values that are not finite."""

    path: str | os.PathLike = eqx.field(static=True)
    append: bool = eqx.field(static=True, default=False)

    def open(self, names: tuple[str, ...]) -> Any:
        return open(self.path, "a" if self.append else "w")

    def write(self, handle: Any, step: int, row: dict[str, float | int]) -> None:
        known = {name: value if math.isfinite(value) else None for name, value in row.items()}  # JSON has no NaN
        handle.write(json.dumps({"step": step, **known}) + "\n")
        handle.flush()

    def close(self, handle: Any) -> None:
        handle.close()


class TensorBoard(AbstractSink):
    """A `SummaryWriter` that you made: that of `tensorboardX`, `torch.utils.tensorboard` or `flax`."""

    writer: Any = eqx.field(static=True)

    def open(self, names: tuple[str, ...]) -> Any:
        return self.writer

    def write(self, handle: Any, step: int, row: dict[str, float | int]) -> None:
        for name, value in row.items():
            handle.add_scalar(name, value, step)

    def close(self, handle: Any) -> None:
        handle.flush()


class WandB(AbstractSink):
    """A run that you made with `wandb.init(...)`; you also finish it."""

    run: Any = eqx.field(static=True)

    def open(self, names: tuple[str, ...]) -> Any:
        return self.run

    def write(self, handle: Any, step: int, row: dict[str, float | int]) -> None:
        handle.log(row, step=step)

    def close(self, handle: Any) -> None:
        return None


class Logger(AbstractCallback):
    """Writes the metrics of every so many epochs (or dispatches, if `fit` counts steps) to a sink.

    With several processes the first one writes.
    """

    sink: AbstractSink
    every: int = eqx.field(static=True)

    def __init__(self, sink: AbstractSink, *, every: int = 1):
        """**Arguments:** `sink`: `CSVFile`, `JSONLines`, `TensorBoard`, `WandB`; `every`: entries between rows.

        **Raises:** `ValueError` if `every` is not positive.
        """
        if every < 1:
            raise ValueError(f"`every` must be at least 1; got {every}.")
        self.sink, self.every = sink, every

    def init(self, plan: Plan) -> Any:
        return plan, None  # opened with the first row, when the metrics' names are known

    def __call__(self, report: Report, memory: Any) -> tuple[None, Any]:
        plan, handle = memory
        if jax.process_index() != 0 or not report.ends_entry or (report.entry % self.every and not report.is_last):
            return None, memory
        if handle is None:
            handle = self.sink.open(tuple(dict.fromkeys([*report.metrics, *plan.evaluated])))
        self.sink.write(handle, report.step, {"entry": report.entry, **report.values})
        return None, (plan, handle)

    def close(self, memory: Any, state: TrainState | None) -> None:
        if memory[1] is not None:
            self.sink.close(memory[1])
