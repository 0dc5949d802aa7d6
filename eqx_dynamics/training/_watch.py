"""Calling the callbacks of a run."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._callbacks import AbstractCallback, Plan, Report
from ._dispatch import Dispatch
from ._runner import Outcome, Runner
from ._state import TrainState


class Watch:
    """The callbacks of one run with their memories; closes each of them exactly once, whatever happens."""

    def __init__(self, callbacks: Sequence[AbstractCallback], plan: Plan, runner: Runner):
        for callback in callbacks:
            if not isinstance(callback, AbstractCallback):
                raise TypeError(f"`callbacks` must be `AbstractCallback`s; got {type(callback).__name__}.")
        self._callbacks, self._plan, self._runner = callbacks, plan, runner
        self._step = plan.first_step
        self._memories: list[Any] = []
        self._entry, self._so_far = 0, None

    def __enter__(self) -> "Watch":
        try:
            for callback in self._callbacks:
                self._memories.append(callback.init(self._plan))
        except BaseException:
            self._close(None)
            raise
        return self

    @no_type_check  # between two dispatches a check would cost more than the call
    def __call__(self, dispatch: Dispatch, outcome: Outcome | None, evaluated: dict[str, Array]) -> bool:
        """Report a dispatch to every callback; whether one of them wants to stop."""
        self._step += dispatch.num_steps
        if not self._callbacks:
            return False
        if self._so_far is None or dispatch.entry != self._entry:
            self._entry, self._so_far = dispatch.entry, outcome
        elif outcome is not None:
            self._so_far = _together(self._so_far, outcome)
        trained = {} if self._so_far is None else self._so_far.metrics
        report = Report(self._plan, self._step, dispatch, trained | evaluated, self._runner)
        verdicts = []
        for n, callback in enumerate(self._callbacks):
            verdict, self._memories[n] = callback(report, self._memories[n])
            verdicts.append(verdict)
        return any(verdict is not None for verdict in verdicts)

    def finish(self) -> TrainState | None:
        """Close every callback; returns what the last of them gives in place of the state, or None."""
        return self._close(self._runner.state)

    def _close(self, state: TrainState | None) -> TrainState | None:
        memories, self._memories = self._memories, []
        replacement = None
        for callback, memory in zip(self._callbacks, memories, strict=False):
            wanted = callback.close(memory, state)
            replacement = replacement if wanted is None else wanted
        return replacement

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: TracebackType | None) -> None:
        self._close(None)


@jax.jit
def _together(first: Outcome, second: Outcome) -> Outcome:
    """Two outcomes as one: means over the applied steps of both."""
    counts = first.num_applied, second.num_applied
    total = counts[0] + counts[1]

    def mean(a: Array, b: Array) -> Array:
        a, b = (jnp.where(n > 0, m, 0) * n.astype(m.dtype) for m, n in zip((a, b), counts, strict=True))
        return (a + b) / total.astype(a.dtype)

    return Outcome(jax.tree.map(mean, first.metrics, second.metrics), total, first.halted | second.halted)
