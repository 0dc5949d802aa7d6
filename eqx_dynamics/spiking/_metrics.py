"""What spike trains look like: rates, regularity, synchrony, and the operations they cost."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._decoders import Spikes, as_float, exponential_trace, require_steps


def interval_cv(spikes: Spikes) -> Float[Array, "*shape"]:
    r"""Coefficient of variation of the interspike intervals, $\mathrm{std}(\Delta) / \mathrm{mean}(\Delta)$.

    0 for a clock, near 1 for a Poisson train whose intervals are many steps long.

    **Arguments:** `spikes`: `(time, *batch, neurons)`, 0 or 1.

    **Returns:** `(*batch, neurons)`, dimensionless; NaN for neurons with fewer than 3 spikes, which have none (use
    `jnp.nanmean`). The standard deviation is the uncorrected one.

    **Raises:** `ValueError` if there are no steps.
    """
    require_steps(spikes, "spikes")
    fired = spikes > 0
    steps = jnp.arange(1, spikes.shape[0] + 1, dtype=jnp.int32).reshape((-1,) + (1,) * (spikes.ndim - 1))
    last = jax.lax.cummax(jnp.where(fired, steps, 0), axis=0)
    before = jnp.concatenate([jnp.zeros_like(last[:1]), last[:-1]])
    counted = fired & (before > 0)
    intervals = jnp.where(counted, steps - before, 0).astype(float)
    number = jnp.sum(counted, axis=0).astype(float)
    mean = jnp.sum(intervals, axis=0) / jnp.maximum(number, 1.0)
    variance = jnp.sum(jnp.where(counted, (intervals - mean[None]) ** 2, 0.0), axis=0) / jnp.maximum(number, 1.0)
    return jnp.where(number >= 2, jnp.sqrt(variance) / jnp.maximum(mean, 1.0), jnp.nan)


def synchrony(spikes: Spikes, *, tau: float | int = 10.0, dt: float | int = 1.0) -> Float[Array, "..."]:
    r"""Synchrony of a population, $\chi = \sqrt{\mathrm{Var}_t[\bar x] / \overline{\mathrm{Var}_t[x_n]}}$.

    $x_n$ is the train of a neuron filtered by $e^{-t/\tau}$ and the bar is the mean over neurons: 1 if all fire
    together, about $1/\sqrt N$ if $N$ neurons are independent.

    **Arguments:**

    - `spikes`: `(time, *batch, neurons)`.
    - `tau`: how near in time counts as together, ms.
    - `dt`: length of a step, ms.

    **Returns:** `(*batch)`, in $[0, 1]$; NaN if no neuron ever changes.

    **Raises:** `ValueError` if `tau` or `dt` is not positive or there are no steps.

    ??? cite "Reference"
        Golomb and Rinzel, Clustering in globally coupled inhibitory neurons, Physica D 72, 1994; Golomb, Scholarpedia
        2(1):1347, 2007, eq. 4 (there with membranes).
    """
    require_steps(spikes, "spikes")
    filtered = exponential_trace(spikes, tau, dt=dt)
    of_each = jnp.mean(jnp.var(filtered, axis=0), axis=-1)
    of_all = jnp.var(jnp.mean(filtered, axis=-1), axis=0)
    changes = of_each > 0
    return jnp.where(changes, jnp.sqrt(of_all / jnp.where(changes, of_each, 1.0)), jnp.nan)


def synops(spikes: Spikes, fan_out: Float[Array, " neurons"] | float | int) -> Float[Array, "..."]:
    r"""Synaptic operations, $\sum_{t, n} s_{t n} f_n$: additions that an event-driven machine would make.

    **Arguments:**

    - `spikes`: `(time, *batch, neurons)`, 0 or 1: the input of a layer.
    - `fan_out`: $f$, synapses that a spike reaches; one number (`Linear.out_features`) or one per neuron.

    **Returns:** `(*batch)`, operations per sample.

    **Raises:** `ValueError` if a number `fan_out` is negative.
    """
    if isinstance(fan_out, float | int) and not fan_out >= 0:
        raise ValueError(f"`fan_out` must not be negative; got {fan_out:g} synapses.")
    spikes = as_float(spikes)
    counts = jnp.sum((spikes != 0).astype(spikes.dtype), axis=0)
    weights = jnp.broadcast_to(jnp.asarray(fan_out, counts.dtype), counts.shape[-1:])
    return counts @ weights
