"""Spikes and membranes over time."""

from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._extras import need


Series: TypeAlias = Float[Array | np.ndarray, "..."] | Int[Array | np.ndarray, "..."] | Bool[Array | np.ndarray, "..."]


def plot_raster(
    spikes: Series, *, dt: float | int = 1.0, color: str = "black", neuron: str = "neuron", ax: Any = None
) -> Any:
    """One mark for every spike: time across, neurons up.

    **Arguments:**

    - `spikes`: `(time, neurons)`, anything above zero is a spike.
    - `dt`: length of a step, ms.
    - `color`: of the marks.
    - `neuron`: what the vertical axis counts.
    - `ax`: matplotlib `Axes` to draw on; None makes a figure.

    **Returns:** the `Axes`.

    **Raises:** `ValueError` unless `spikes` has two axes; `ImportError` naming the extra `plot`.
    """
    values = time_by_neurons(spikes, "spikes")
    ax = axes_or_new(ax, "plot_raster")
    steps, neurons = np.nonzero(values > 0)
    height = 72 / ax.figure.dpi * ax.get_window_extent().height / max(values.shape[1], 1)  # points a neuron
    ax.scatter(steps * dt, neurons, s=np.clip(height, 2.5, 8.0) ** 2, c=color, marker="|", linewidths=0.8)
    ax.set(xlabel="time (ms)", ylabel=neuron, xlim=span(values, dt))
    ax.set_ylim(-0.5, values.shape[1] - 0.5)
    count_whole(ax.yaxis, "plot_raster")
    ax.set_title(f"{len(steps)} spikes", loc="right", fontsize="small")
    return ax


def plot_membrane(
    membrane: Series,
    *,
    spikes: Series | None = None,
    threshold: Series | float | int | None = None,
    reset: float | int | None = None,
    dt: float | int = 1.0,
    unit: str = "mV",
    labels: tuple[str, ...] | None = None,
    ax: Any = None,
) -> Any:
    """One trace a neuron, bars where it fired, and the levels that it fires at and is reset to.

    **Arguments:**

    - `membrane`: `(time, neurons)`, a handful of neurons.
    - `spikes`: None, or of the same shape; each is a bar on top of its trace.
    - `threshold`: None, a level, or a level for each step and neuron (an adaptive threshold), shape `(time, neurons)`.
    - `reset`: None, or the level after a spike.
    - `dt`: length of a step, ms.
    - `unit`: of the membrane, for the axis.
    - `labels`: a name for each trace; "neuron 0" and so on by default.
    - `ax`: matplotlib `Axes` to draw on; None makes a figure.

    **Returns:** the `Axes`.

    **Raises:** `ValueError` for shapes that do not fit; `ImportError` naming the extra `plot`.
    """
    values = time_by_neurons(membrane, "membrane")
    num_neurons = values.shape[1]
    names = tuple(f"neuron {i}" for i in range(num_neurons)) if labels is None else labels
    if len(names) != num_neurons:
        raise ValueError(f"`labels` must hold one name for each of the {num_neurons} traces; got {len(names)}.")
    fired = None if spikes is None else _alike(spikes, "spikes", values) > 0
    level = None if threshold is None else np.asarray(threshold)
    if level is not None and level.ndim > 0:
        level = _alike(level, "threshold", values)

    ax = axes_or_new(ax, "plot_membrane")
    time = np.arange(len(values)) * dt
    levels = values if level is None else np.append(values, level)
    top = float(np.nanmax(levels, initial=0.0 if values.size == 0 else -np.inf))
    bar = 0.15 * (top - float(np.nanmin(levels, initial=top)))
    for i, name in enumerate(names):
        (line,) = ax.plot(time, values[:, i], label=name)
        if fired is not None:
            ax.vlines(time[fired[:, i]], top, top + bar, color=line.get_color())
        if level is not None and level.ndim > 0:
            ax.plot(time, level[:, i], color=line.get_color(), linestyle="--", linewidth=1)
    if level is not None and level.ndim == 0:
        ax.axhline(float(level), color="gray", linestyle="--", linewidth=1, label="threshold")
    elif level is not None:
        ax.plot([], [], color="gray", linestyle="--", linewidth=1, label="threshold")
    if reset is not None:
        ax.axhline(reset, color="gray", linestyle=":", linewidth=1, label="reset")
    ax.set(xlabel="time (ms)", ylabel=f"membrane ({unit})", xlim=span(values, dt))
    ax.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def time_by_neurons(values: Any, name: str) -> np.ndarray:
    """`values` on the host, with the axes `(time, neurons)`."""
    array = np.asarray(values)
    if array.ndim != 2:
        raise ValueError(
            f"`{name}` must have the axes (time, neurons); got shape {array.shape}. Pick one sample, as in "
            f"`{name}[:, 0]`."
        )
    return array


def axes_or_new(ax: Any, user: str, **size: tuple[float, float]) -> Any:
    """`ax`, or the only axes of a new figure (outside pyplot, so that nobody has to close it)."""
    if ax is not None:
        return ax
    figure = need("matplotlib.figure", extra="plot", user=user).Figure(layout="constrained", **size)
    return figure.subplots()


def span(values: np.ndarray, dt: float | int) -> tuple[float, float]:
    """Limits of the time axis, the same for all pictures, so that those above one another line up."""
    return -0.5 * dt, (len(values) - 0.5) * dt


def count_whole(axis: Any, user: str) -> None:
    """Ticks of an axis that counts: at whole numbers only."""
    axis.set_major_locator(need("matplotlib.ticker", extra="plot", user=user).MaxNLocator(integer=True))


def _alike(values: Any, name: str, membrane: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != membrane.shape:
        raise ValueError(f"`{name}` must have the shape {membrane.shape} of `membrane`; got {array.shape}.")
    return array
