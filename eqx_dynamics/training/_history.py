"""What `fit` remembers of a run."""

import numpy as np
from jaxtyping import Array

from ._callbacks import to_host
from ._runner import Outcome


def as_history(rows: list[tuple[int, Outcome | None, dict[str, Array]]]) -> dict[str, np.ndarray]:
    """One value per entry, from rows of (entry, outcome of a dispatch, evaluation after it).

    Training metrics are means over the applied steps of the entry; evaluation metrics are NaN where nothing was
    evaluated.
    """
    history: dict[str, dict[int, tuple[float, int]]] = {}
    for entry, outcome, evaluation in to_host(rows):
        count = 0 if outcome is None else int(outcome.num_applied)
        for name, value in ({} if outcome is None else outcome.metrics).items():
            total, before = history.setdefault(name, {}).get(int(entry), (0.0, 0))
            history[name][int(entry)] = (total + float(value) * count if count else total, before + count)
        for name, value in evaluation.items():
            history.setdefault(name, {})[int(entry)] = (float(value), 1)
    entries = sorted({int(entry) for entry, _, _ in rows})
    nothing = (np.nan, 1)
    return {
        name: np.asarray([total / n if n else np.nan for total, n in (values.get(e, nothing) for e in entries)])
        for name, values in history.items()
    }
