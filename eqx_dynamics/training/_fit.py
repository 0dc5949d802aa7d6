"""Training is a scan of the step cell, some steps at a time."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ._callbacks import AbstractCallback
from ._data import ArrayData
from ._dispatch import plan_run
from ._errors import errors_named, state_left
from ._evaluate import Evaluate, Evaluation
from ._history import as_history
from ._runner import Runner
from ._state import TrainState
from ._step import TrainStep
from ._watch import Watch


def fit(
    state: TrainState,
    step: TrainStep,
    data: ArrayData | Iterable[Any],
    *,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_dispatch: int | None = None,
    evaluate: Callable | Evaluate | None = None,
    callbacks: Sequence[AbstractCallback] = (),
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Train: scan `step` over `data`, many steps in one call to the device.

    **Arguments:**

    - `state`: where to start, from `step.init(model, key=key)` or from a checkpoint.
    - `step`: from `make_step`.
    - `data`: `ArrayData`, shuffled and gathered on the device; or an iterable of batches, stacked on the host. All
      batches of one dispatch must have the same shapes.
    - `epochs`, `steps`: how long; give one of the two. A run that starts in the middle of an in-memory epoch (after a
      checkpoint, say) finishes it as its first.
    - `steps_per_dispatch`: steps compiled into one scan; default a whole epoch in memory, 32 for iterables. Where
      epochs are counted (and in an iterable) a dispatch ends with the epoch; where steps are, one over data in memory
      goes on into the next epochs.
    - `evaluate`: `model -> dict of scalars`, called after every epoch (or dispatch, if `steps` are counted), with
      `state.averaged_model` in inference mode; `Evaluate` to call it less often, `OverData` for means over a data set.
    - `callbacks`: called after every dispatch, in order; see `AbstractCallback`.

    **Returns:** the state after the last step (or what a callback such as `KeepBest` put in its place), and the
    history: metric name to one value per epoch, or per dispatch if `steps` were counted.

    **Raises:** `ValueError` for bad arguments or data, before anything is computed; `NonFiniteError` as the step's
    `nan_policy` wants it; `eqx.EquinoxRuntimeError` for what an `eqx.error_if` in the loss finds, a few dispatches
    later. Whatever else ends a run (the data, a callback, an interrupt) has the state after the last dispatch as its
    `state`.
    """
    runner, evaluation = Runner(step, state), Evaluation(evaluate, state)
    plan, dispatches = plan_run(runner.place(data), state, epochs, steps, steps_per_dispatch)
    rows, halts = [], deque()
    watching = Watch(callbacks, dataclasses.replace(plan, evaluated=evaluation.names), runner)
    with errors_named(), state_left(lambda: runner.state), watching as watch:
        for dispatch in dispatches:
            outcome = None
            if dispatch.batches is not None:
                outcome = runner(dispatch.batches)
                halts.append(outcome.halted)
                if not rows:
                    evaluation.check_names(outcome.metrics)
            evaluated = evaluation(runner.state) if evaluation.is_due(dispatch) else {}
            rows.append((dispatch.entry, outcome, evaluated))
            wants_stop = watch(dispatch, outcome, evaluated)
            # Two dispatches late the flag is already there: looking at it does not hold the device up.
            if wants_stop or (len(halts) > 2 and halts.popleft()):
                break
        replacement, history = watch.finish(), as_history(rows)
    step.check(runner.state)
    return runner.state if replacement is None else replacement, history
