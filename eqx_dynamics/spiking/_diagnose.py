"""What is wrong with a network that does not learn: silent, saturated, exploding or NaN layers, and what to do."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._apply import PerSample
from .._cell import AbstractCell
from .._layers import scan_layer, step_keys
from .._sequential import Sequential
from ._neuron import AbstractSpikingCell
from ._parameter import require
from ._recurrent import Recurrent
from ._wiring import Parallel, Residual


class LayerReport(eqx.Module):
    """What one layer puts out; the last three of a spiking layer only, else NaN."""

    path: str = eqx.field(static=True)
    name: str = eqx.field(static=True)
    finite: Bool[Array, ""]
    largest: Float[Array, ""]  # Absolute value.
    rate: Float[Array, ""]  # Spikes per neuron and step.
    silent: Float[Array, ""]  # Fraction of neurons that never fired.
    saturated: Float[Array, ""]  # Fraction of neurons that fired in more than half of the steps.


class Diagnosis(eqx.Module):
    """What `diagnose` found; printed, a table with a remedy for each layer that is in trouble."""

    layers: tuple[LayerReport, ...]
    explosion: float

    def problems(self) -> dict[str, str]:
        """What is wrong and what to do about it, by path of the layer; empty for a healthy network."""
        found: dict[str, str] = {}
        broken = False
        for layer in self.layers:
            problem = None if broken else _problem(layer, self.explosion)
            broken = broken or not bool(layer.finite)  # What follows is the consequence.
            if problem is not None:
                found[layer.path] = problem
        return found

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("layer", "what", "rate", "silent", "saturated", "largest")]
        for layer in self.layers:
            rate, silent, saturated = (float(v) for v in (layer.rate, layer.silent, layer.saturated))
            spikes = ("", "", "") if math.isnan(rate) else (f"{rate:.3f}", f"{silent:.0%}", f"{saturated:.0%}")
            rows.append((layer.path, layer.name, *spikes, f"{float(layer.largest):.3g}"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        found = self.problems()
        return "\n".join([*lines, *(f"{path}: {problem}" for path, problem in found.items())])


def diagnose(
    network: AbstractCell[Any],
    xs: Array,
    *,
    explosion: float = 1e4,
    key: PRNGKeyArray | None = None,
) -> Diagnosis:
    """Run a network and report, layer by layer, what it puts out. `print(diagnose(network, xs))` says what to do.

    **Arguments:**

    - `network`: a `Sequential`, `Residual` or `Parallel`, also nested, or a single cell.
    - `xs`: inputs `(time, batch, ...)`.
    - `explosion`: absolute value of an output, in its unit, that is called exploding.
    - `key`: for layers that draw.

    **Returns:** a `Diagnosis`; its arrays are arrays, so this works under `jit`, printing outside.

    **Raises:** `ValueError` if there are no steps or `explosion` is not positive.
    """
    require(explosion, "explosion", above=0.0, unit="")
    if xs.ndim < 2 or xs.shape[0] == 0:
        raise ValueError(f"`xs` must be (time, batch, ...) with at least one step; got shape {xs.shape}.")
    return Diagnosis(tuple(_reports(network, xs, "", key)[0]), explosion)


def _reports(cell: Any, xs: Array, path: str, key: Any) -> tuple[list[LayerReport], Array]:
    """The reports of a layer or of the layers in it, and its output."""
    if isinstance(cell, Sequential):
        reports, keys = [], step_keys(key, xs.shape[0], len(cell.layers))
        for i, (layer, k) in enumerate(zip(cell.layers, keys, strict=True)):
            inner, xs = _reports(layer, xs, f"{path}.layers[{i}]".lstrip("."), k)
            reports += inner
        return reports, xs
    if isinstance(cell, Residual):
        reports, ys = _reports(cell.cell, xs, f"{path}.cell".lstrip("."), key)
        return reports, ys + xs.astype(ys.dtype)
    if isinstance(cell, Parallel):
        keys = step_keys(key, xs.shape[0], len(cell.branches))
        done = [
            _reports(branch, xs, f"{path}.branches[{i}]".lstrip("."), k)
            for i, (branch, k) in enumerate(zip(cell.branches, keys, strict=True))
        ]
        return [report for reports, _ in done for report in reports], cell.merge([ys for _, ys in done])
    if key is not None and key.ndim == 0:
        (key,) = step_keys(key, xs.shape[0], 1)
    state = cell.init_state(xs.shape[1:2]) if isinstance(cell, AbstractCell) else None
    ys, _ = scan_layer(cell, xs, state, key, unroll=1, reverse=False)
    return [_report(cell, path or type(cell).__name__, ys)], ys


def _report(layer: Any, path: str, ys: Array) -> LayerReport:
    neurons = layer.cell if isinstance(layer, Recurrent) else layer
    inner = layer.layer if isinstance(layer, PerSample) else neurons
    name = type(layer).__name__ if inner is layer else f"{type(layer).__name__}({type(inner).__name__})"
    values = ys.astype(float)
    rate = silent = saturated = jnp.full((), jnp.nan)
    if isinstance(neurons, AbstractSpikingCell):
        per_neuron = jnp.mean(values, axis=(0, 1))  # Over time and batch.
        rate, silent = jnp.mean(per_neuron), jnp.mean((per_neuron == 0).astype(float))
        saturated = jnp.mean((per_neuron > 0.5).astype(float))
    return LayerReport(path, name, jnp.isfinite(values).all(), jnp.max(jnp.abs(values)), rate, silent, saturated)


def _problem(layer: LayerReport, explosion: float) -> str | None:
    if not bool(layer.finite):
        return (
            "not finite. Look at its parameters and input first; then a smaller `dt` or learning rate, gradients "
            "clipped, time constants learned as `Positive`."
        )
    if float(layer.silent) > 0.9:
        return (
            f"silent: {float(layer.silent):.0%} of the neurons never fire. Larger weights (`calibrate`, `initialize`), "
            "a lower threshold, a longer `tau_mem`, or a wider surrogate, and `silence_penalty` while training."
        )
    if float(layer.saturated) > 0.5:
        return (
            f"saturated: {float(layer.saturated):.0%} of the neurons fire in more than half of the steps. Smaller "
            "weights (`calibrate`), a higher threshold, a refractory period, or `rate_penalty` while training."
        )
    if float(layer.largest) > explosion:
        return (
            f"exploding: |output| reaches {float(layer.largest):.3g}. Smaller feedback weights, a norm layer, or a "
            "`dt` below the fastest time constant."
        )
    return None
