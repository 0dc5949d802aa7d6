"""A picture of the training curves."""

from typing import Any

import numpy as np

from .._extras import need


def plot_history(history: dict[str, np.ndarray], *, x_label: str = "epoch", log: bool = False, columns: int = 3) -> Any:
    """Training curves: one panel per quantity, `loss` and `val_loss` together in one.

    **Arguments:**

    - `history`: from `fit`.
    - `x_label`: what its entries count.
    - `log`: logarithmic vertical axes.
    - `columns`: panels in a row.

    **Returns:** a `matplotlib` figure; call its `savefig`.

    **Raises:** `ValueError` for an empty history; `ImportError` naming the extra `plot`.
    """
    if not history:
        raise ValueError("`history` must hold at least one metric; got an empty one.")
    figure_module = need("matplotlib.figure", extra="plot", user="plot_history")
    panels: dict[str, list[str]] = {}
    for name in history:
        owner = next((other for other in history if other != name and name.endswith("_" + other)), name)
        panels.setdefault(owner, []).append(name)
    width = min(columns, len(panels))
    rows = -(-len(panels) // width)
    figure = figure_module.Figure(figsize=(4 * width, 3 * rows), layout="constrained")
    axes = figure.subplots(rows, width, squeeze=False).ravel()
    for axis, (panel, names) in zip(axes, panels.items(), strict=False):
        for name in names:
            values = np.asarray(history[name])
            known = np.isfinite(values)
            axis.plot(1 + np.flatnonzero(known), values[known], label=name, marker="." if known.sum() < 30 else None)
        axis.set(xlabel=x_label, ylabel=panel, yscale="log" if log else "linear")
        if len(names) > 1:
            axis.legend()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return figure
