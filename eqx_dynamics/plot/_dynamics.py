"""Latents, mixtures, regimes and reconstructions over time."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int

from ._spikes import axes_or_new


AnyArray: TypeAlias = np.ndarray | Array


def plot_latents(
    latents: Float[AnyArray, "time latents"],
    *,
    truth: Float[AnyArray, "time latents"] | None = None,
    names: Sequence[str] | None = None,
    time_step: float | int = 1.0,
    unit: str = "steps",
    ax: Any = None,
) -> Any:
    """One trace a latent, one above the other, each in units of its own spread.

    **Arguments:**

    - `truth`: what the latents should be, in black behind them and scaled alike; align them first
      (`eqx_dynamics.analysis.align`).
    - `names`: of the latents; 1, 2, ... by default.
    - `time_step`, `unit`: duration of a step, and its unit.
    - `ax`: matplotlib `Axes` to draw on; None makes a figure.

    **Returns:** the `Axes`.

    **Raises:** `ValueError` for a wrong number of names; `ImportError` naming the extra `plot`.
    """
    values = np.asarray(latents)
    center, spread = values.mean(0), np.maximum(values.std(0), np.finfo(float).tiny)
    ax = axes_or_new(ax, "plot_latents")
    rows = _names(names, values.shape[1])
    pairs = [(values, "tab:orange", 1.0, "inferred")]
    if truth is not None:
        true = np.asarray(truth)
        center, spread = true.mean(0), np.maximum(true.std(0), np.finfo(float).tiny)
        pairs.insert(0, (true, "black", 2.0, "true"))
    for series, color, width, label in pairs:
        _stack(ax, (series - center) / spread, time_step, color=color, linewidth=width, label=label)
    _label_rows(ax, rows, "latent (in standard deviations, offset)", unit)
    if truth is not None:
        _legend_above(ax)
    return ax


def plot_reconstruction(
    observed: Float[AnyArray, "time channels"],
    reconstructed: Float[AnyArray, "time channels"],
    *,
    names: Sequence[str] | None = None,
    time_step: float | int = 1.0,
    unit: str = "steps",
    ax: Any = None,
) -> Any:
    """Observed channels, the model's version over each, and how much of its variance that explains.

    **Arguments:**

    - `observed`: a few channels; NaN where missing. `reconstructed`: the same channels.
    - `names`: of the channels; 1, 2, ... by default.
    - `time_step`, `unit`, `ax`: as in `plot_latents`.

    **Returns:** the `Axes`.

    **Raises:** `ValueError` for a wrong number of names; `ImportError` naming the extra `plot`.
    """
    truth, guess = np.asarray(observed, np.float64), np.asarray(reconstructed, np.float64)
    center, spread = np.nanmean(truth, 0), np.nanstd(truth, 0)
    varies = spread > 0  # a constant channel has no share of variance to explain, and keeps its unit
    spread = np.where(varies, spread, 1.0)
    r2 = np.where(varies, 1 - np.nanmean((truth - guess) ** 2, 0) / spread**2, np.nan)
    rows = [f"{name}\n$R^2$ {score:.2f}" for name, score in zip(_names(names, truth.shape[1]), r2, strict=True)]
    ax = axes_or_new(ax, "plot_reconstruction")
    _stack(ax, (truth - center) / spread, time_step, color="black", linewidth=2.0, label="observed")
    _stack(ax, (guess - center) / spread, time_step, color="tab:orange", linewidth=1.0, label="reconstructed")
    _label_rows(ax, rows, "channel (in standard deviations, offset)", unit)
    _legend_above(ax)
    return ax


def plot_mixture(
    weights: Float[AnyArray, "time components"], *, time_step: float | int = 1.0, unit: str = "steps", ax: Any = None
) -> Any:
    """Mixture weights as a map: time across, components up, strongest bright; signed weights in red and blue.

    **Arguments:** `time_step`, `unit`, `ax`: as in `plot_latents`.

    **Returns:** the `Axes`; the colour bar is on axes of its own.

    **Raises:** `ImportError` naming the extra `plot`.
    """
    values = np.asarray(weights)
    ax = axes_or_new(ax, "plot_mixture")
    is_signed, top = bool(values.min() < 0), float(np.abs(values).max()) or 1.0
    image = ax.imshow(
        values.T,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(0, len(values) * time_step, 0.5, values.shape[1] + 0.5),
        cmap="RdBu_r" if is_signed else "viridis",
        vmin=-top if is_signed else 0.0,
        vmax=top,
    )
    ax.set(xlabel=f"time ({unit})", ylabel="component")
    ax.figure.colorbar(image, ax=ax, label="mixture weight")
    return ax


def plot_regimes(
    regimes: Int[AnyArray, "time rows"],
    *,
    names: Sequence[str] | None = None,
    regime_names: Sequence[str] | None = None,
    time_step: float | int = 1.0,
    unit: str = "steps",
    ax: Any = None,
) -> Any:
    """Which regime holds when: one bar a row, coloured by regime; put true and decoded regimes in rows of one picture.

    **Arguments:**

    - `regimes`: ids from 0; negative ones (no regime) stay white.
    - `names`: of the rows; `regime_names`: of the regimes, for the legend.
    - `time_step`, `unit`, `ax`: as in `plot_latents`.

    **Returns:** the `Axes`.

    **Raises:** `ValueError` for a wrong number of names; `ImportError` naming the extra `plot`.
    """
    values = np.asarray(regimes)
    num_regimes = max(int(values.max()) + 1, 1)
    ax = axes_or_new(ax, "plot_regimes")
    labels = _names(regime_names, num_regimes, kind="regime")
    for row, series in enumerate(values.T):
        edges = np.r_[0, np.flatnonzero(np.diff(series)) + 1, len(series)]
        for regime in range(num_regimes):
            held = np.flatnonzero(series[edges[:-1]] == regime)
            spans = [(edges[n] * time_step, (edges[n + 1] - edges[n]) * time_step) for n in held]
            ax.broken_barh(spans, (row - 0.4, 0.8), color=f"C{regime}", label=labels[regime] if row == 0 else None)
    ax.set(xlim=(0, len(values) * time_step), ylim=(values.shape[1] - 0.5, -0.5), xlabel=f"time ({unit})")
    ax.set_yticks(range(values.shape[1]), _names(names, values.shape[1], kind="row"))
    ax.set_ylabel("regimes")
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=min(num_regimes, 6), fontsize="small", frameon=False)
    return ax


def _names(names: Sequence[str] | None, count: int, *, kind: str = "") -> list[str]:
    if names is None:
        return [f"{kind} {n + 1}".strip() for n in range(count)]
    if len(names) != count:
        raise ValueError(f"There must be one name for each of {count} rows or regimes; got {len(names)}.")
    return list(names)


def _stack(ax: Any, values: np.ndarray, time_step: float | int, *, label: str, **style: Any) -> None:
    """Traces one above the other, the first on top, five standard deviations apart."""
    time = np.arange(len(values)) * time_step
    for n, series in enumerate(values.T):
        ax.plot(time, series - 5 * n, label=label if n == 0 else None, **style)


def _label_rows(ax: Any, rows: list[str], what: str, unit: str) -> None:
    ax.set_yticks([-5 * n for n in range(len(rows))], rows)
    ax.set(xlabel=f"time ({unit})", ylabel=what)
    ax.margins(x=0)


def _legend_above(ax: Any) -> None:
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize="small", frameon=False)
