"""Rates, activity and weights of whole layers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._spikes import Series, axes_or_new, count_whole, span


def plot_rates(spikes: Mapping[str, Series] | Series, *, dt: float | int = 1.0, bins: int = 20, ax: Any = None) -> Any:
    """How many neurons fire at which rate: a histogram of mean rates, one outline a layer.

    **Arguments:**

    - `spikes`: `(time, ..., neurons)`, or a name for each of several layers; the mean is over all axes but the last.
    - `dt`: length of a step, ms.
    - `bins`: number of bins between zero and the highest rate of all.
    - `ax`: matplotlib `Axes` to draw on; None makes a figure.

    **Returns:** the `Axes`.

    **Raises:** `ValueError` for no layers or a layer without a time axis; `ImportError` naming the extra `plot`.
    """
    rates = {name: 1000 / dt * layer.reshape(-1, layer.shape[-1]).mean(0) for name, layer in _layers(spikes).items()}
    ax = axes_or_new(ax, "plot_rates")
    # A little above, so that rates of whole spikes that meet the edges of bins are all counted below them.
    top = (max(float(rate.max(initial=0.0)) for rate in rates.values()) or 1.0) * (1 + 1e-5)
    for name, rate in rates.items():
        ax.hist(rate, bins=np.linspace(0, top, bins + 1), histtype="step", label=f"{name}: mean {rate.mean():.3g} Hz")
    ax.set(xlabel="rate (Hz)", ylabel="neurons")
    ax.legend(fontsize="small")
    return ax


def plot_activity(
    spikes: Mapping[str, Series] | Series, *, dt: float | int = 1.0, window: float | int | None = None, ax: Any = None
) -> Any:
    """The mean rate of each layer over time: whether activity dies out, explodes or stays.

    **Arguments:**

    - `spikes`: `(time, ..., neurons)`, or a name for each of several layers.
    - `dt`: length of a step, ms.
    - `window`: width of a moving mean, ms; None for single steps.
    - `ax`: matplotlib `Axes` to draw on; None makes a figure.

    **Returns:** the `Axes`.

    **Raises:** `ValueError` for no layers or a layer without a time axis; `ImportError` naming the extra `plot`.
    """
    layers = _layers(spikes)
    ax = axes_or_new(ax, "plot_activity")
    for name, layer in layers.items():
        rate = 1000 / dt * layer.reshape(layer.shape[0], -1).mean(1)
        if window is not None:
            width = min(max(1, round(window / dt)), len(rate))
            rate = np.convolve(rate, np.ones(width), "same") / np.convolve(np.ones(len(rate)), np.ones(width), "same")
        ax.plot(np.arange(len(rate)) * dt, rate, label=f"{name}: mean {rate.mean():.3g} Hz")
    ax.set(xlabel="time (ms)", ylabel="rate (Hz)", xlim=span(max(layers.values(), key=len), dt))
    ax.legend(fontsize="small")
    return ax


def plot_weights(weight: Series, *, ax: Any = None) -> Any:
    """A weight matrix in colours that are white at zero, with its mean, spread and share of zeros.

    **Arguments:**

    - `weight`: `(out, in)`, as in `eqx.nn.Linear`; kernels of a convolution are flattened to `(out, in * ...)`.
    - `ax`: matplotlib `Axes` to draw on; None makes a figure.

    **Returns:** the `Axes`; the colour bar stands beside it.

    **Raises:** `ValueError` for fewer than two axes or no weights; `ImportError` naming the extra `plot`.
    """
    values = np.asarray(weight)
    if values.ndim < 2 or values.size == 0:
        raise ValueError(f"`weight` must have the axes (out, in) and not be empty; got shape {values.shape}.")
    values = values.reshape(values.shape[0], -1).astype(float)
    ax = axes_or_new(ax, "plot_weights")
    largest = np.abs(values).max() or 1.0
    image = ax.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="weight")
    ax.set(xlabel="from", ylabel="to")
    for axis in (ax.xaxis, ax.yaxis):
        count_whole(axis, "plot_weights")
    summary = f"mean {values.mean():.2g}, std {values.std():.2g}, {(values == 0).mean():.0%} zero"
    ax.set_title(summary, loc="right", fontsize="small")
    return ax


def plot_weight_distribution(weights: Mapping[str, Series] | Series, *, bins: int = 50, ax: Any = None) -> Any:
    """The distribution of the weights of each layer, as densities on one axis.

    **Arguments:**

    - `weights`: an array of any shape, or a name for each of several.
    - `bins`: number of bins over the range of all.
    - `ax`: matplotlib `Axes` to draw on; None makes a figure.

    **Returns:** the `Axes`.

    **Raises:** `ValueError` for no weights; `ImportError` naming the extra `plot`.
    """
    layers = {name: np.asarray(w).ravel() for name, w in _named(weights).items()}
    if not layers or any(w.size == 0 for w in layers.values()):
        raise ValueError("`weights` must hold at least one array, and none that is empty.")
    ax = axes_or_new(ax, "plot_weight_distribution")
    edges = np.linspace(min(w.min() for w in layers.values()), max(w.max() for w in layers.values()), bins + 1)
    if edges[0] == edges[-1]:
        edges = np.array([edges[0] - 0.5, edges[0] + 0.5])
    for name, w in layers.items():
        ax.hist(w, bins=edges, histtype="step", density=True, label=f"{name}: {w.mean():.2g} +- {w.std():.2g}")
    ax.set(xlabel="weight", ylabel="density")
    ax.legend(fontsize="small")
    return ax


def _layers(spikes: Mapping[str, Series] | Series) -> dict[str, np.ndarray]:
    layers = {name: np.asarray(layer, float) for name, layer in _named(spikes).items()}
    if not layers:
        raise ValueError("`spikes` must hold at least one layer; got none.")
    for name, layer in layers.items():
        if layer.ndim < 2 or layer.size == 0:
            raise ValueError(
                f"`spikes` of {name} must have the axes (time, ..., neurons) and not be empty; got shape {layer.shape}."
            )
    return layers


def _named(values: Mapping[str, Series] | Series) -> Mapping[str, Series]:
    return values if isinstance(values, Mapping) else {"all": values}
