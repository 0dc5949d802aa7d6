"""Spectra, timescales and forecasts."""

from typing import Any

import numpy as np
from jaxtyping import Complex, Float

from ..analysis import ForecastComparison, Matching
from ._dynamics import AnyArray
from ._spikes import axes_or_new


def plot_spectrum(
    eigenvalues: Complex[AnyArray, "..."], *, true: Complex[AnyArray, "..."] | None = None, ax: Any = None
) -> Any:
    """Eigenvalues in the unit circle: slow modes near its edge, oscillating ones away from the real axis.

    **Arguments:**

    - `eigenvalues`: of one matrix or of many, such as `spectrum(record.transitions).eigenvalues`.
    - `true`: those of a known system, as crosses.
    - `ax`: matplotlib `Axes` to draw on; None makes a figure.

    **Returns:** the `Axes`.

    **Raises:** `ImportError` naming the extra `plot`.
    """
    values = np.asarray(eigenvalues).ravel()
    ax = axes_or_new(ax, "plot_spectrum")
    circle = np.exp(2j * np.pi * np.linspace(0, 1, 361))
    ax.plot(np.real(circle), np.imag(circle), color="black", linewidth=0.8)
    opacity = float(np.clip(30 / max(len(values), 1), 0.05, 0.8))
    ax.scatter(np.real(values), np.imag(values), s=20, alpha=opacity, linewidths=0, label="found")
    if true is not None:
        known = np.asarray(true).ravel()
        ax.scatter(np.real(known), np.imag(known), s=40, color="tab:red", marker="x", label="true")
        ax.legend(loc="upper left", fontsize="small")
    ax.set(xlabel="real part", ylabel="imaginary part", aspect="equal")
    return ax


def plot_timescales(
    timescales: Float[AnyArray, "..."],
    *,
    true: Float[AnyArray, "..."] | None = None,
    unit: str = "steps",
    bins: int = 30,
    ax: Any = None,
) -> Any:
    """How often each timescale occurs, on a logarithmic axis; how many zero and undamped modes are left out is said.

    **Arguments:**

    - `timescales`: of a `Spectrum`: NaN for zero modes, infinite for undamped ones.
    - `true`: known ones, as vertical lines.
    - `unit`: of time; `bins`: of the histogram; `ax`: as in `plot_spectrum`.

    **Returns:** the `Axes`.

    **Raises:** `ValueError` if no timescale is finite; `ImportError` naming the extra `plot`.
    """
    values = np.asarray(timescales, np.float64).ravel()
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise ValueError(f"`timescales` must hold at least one finite value; got {len(values)} others.")
    known = np.empty(0) if true is None else np.asarray(true, np.float64).ravel()
    everything = np.concatenate([finite, known])
    low, high = everything.min() / 1.2, everything.max() * 1.2
    ax = axes_or_new(ax, "plot_timescales")
    ax.hist(finite, bins=np.geomspace(low, high, bins + 1).tolist(), label="found")
    if len(known):
        ax.vlines(known, 0, 1, transform=ax.get_xaxis_transform(), color="tab:red", linewidth=1, label="true")
        ax.legend(fontsize="small")
    ax.set(xscale="log", xlim=(low, high), xlabel=f"timescale ({unit})", ylabel="modes")
    zero, undamped = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    ax.set_title(f"left out: {zero} zero modes, {undamped} undamped", loc="right", fontsize="small")
    return ax


def plot_matching(matching: Matching, *, unit: str = "steps", ax: Any = None) -> Any:
    """Recovered against true values, one point a mode, with the error, that of chance, and the p-value above.

    **Arguments:** `matching`: from `eqx_dynamics.analysis.match_modes`; `unit`: of its values; `ax`: as in
    `plot_spectrum`.

    **Returns:** the `Axes`, logarithmic for a matching by ratio.

    **Raises:** `ImportError` naming the extra `plot`.
    """
    true, found = matching.true.ravel(), matching.found.ravel()
    is_ratio = matching.metric == "ratio"
    known = np.concatenate([true, found[np.isfinite(found)]])
    limits = (known.min() / 1.5, known.max() * 1.5) if is_ratio else (known.min(), known.max() or 1.0)
    ax = axes_or_new(ax, "plot_matching")
    ax.plot(limits, limits, color="black", linewidth=0.8)
    ax.plot(true, found, "o", alpha=0.7)
    scale = "log" if is_ratio else "linear"
    ax.set(xscale=scale, yscale=scale, xlabel=f"true ({unit})", ylabel=f"recovered ({unit})")
    kind = "off by a factor of" if is_ratio else "off by"
    said = f"{kind} {matching.error:.2f}; chance {matching.null_error:.2f}, p = {matching.p_value:.2g}"
    ax.set_title(said, loc="right", fontsize="small")
    return ax


def plot_forecast(
    comparison: ForecastComparison, *, time_step: float | int = 1.0, unit: str = "steps", ax: Any = None
) -> Any:
    """R2 of forecasts over the horizon: of the model, of persistence, and of a linear model.

    **Arguments:** `comparison`: from `eqx_dynamics.analysis.compare_forecasts`; `time_step`, `unit`: duration of a
    step, and its unit; `ax`: as in `plot_spectrum`.

    **Returns:** the `Axes`, cut off below -0.5.

    **Raises:** `ImportError` naming the extra `plot`.
    """
    ax = axes_or_new(ax, "plot_forecast")
    horizon = (1 + np.arange(len(comparison.model))) * time_step
    curves = (("model", "tab:orange", "-"), ("linear", "tab:blue", "--"), ("persistence", "gray", ":"))
    for name, color, style in curves:
        ax.plot(horizon, getattr(comparison, name), color=color, linestyle=style, label=name)
    ax.axhline(0.0, color="black", linewidth=0.6)
    ax.set(xlabel=f"forecast horizon ({unit})", ylabel="$R^2$", ylim=(max(ax.get_ylim()[0], -0.5), 1.02))
    ax.legend(fontsize="small")
    return ax
