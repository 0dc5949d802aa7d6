"""Turning numbers into spikes; the time axis that they add is axis 0."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._scan import scan
from ._decoders import Spikes, as_float, require_steps
from ._lif import LIFCell
from ._neuron import AbstractNeuron
from ._parameter import require, require_step


def rate_encode(
    x: Float[Array, "*shape"], num_steps: int, *, key: PRNGKeyArray, gain: float | int = 1.0
) -> Float[Array, " time *shape"]:
    r"""Rate code: independently in each step a spike with probability $g x$.

    **Arguments:**

    - `x`: `(*batch, features)`, dimensionless.
    - `num_steps`: static number of steps.
    - `key`: for the draws.
    - `gain`: $g$, spikes per step at $x = 1$.

    **Returns:** `(num_steps, *batch, features)`, 0 or 1. Its mean over time is $g x$; it has no gradient in `x`.

    **Raises:** `ValueError` for a negative `num_steps`; a run-time error if a probability lies outside $[0, 1]$.
    """
    _check_steps(num_steps)
    probability = x * gain
    outside = ~jnp.all((probability >= 0) & (probability <= 1))
    probability = eqx.error_if(
        probability, outside, "`x` times `gain` must lie in [0, 1]: it is a probability. Scale or clip it first."
    )
    return _draw(key, probability, num_steps)


def poisson_encode(
    rates: Float[Array, "*shape"], num_steps: int, *, key: PRNGKeyArray, dt: float | int = 1.0
) -> Float[Array, " time *shape"]:
    r"""Poisson spike trains: a spike in a step with probability $1 - e^{-\lambda \Delta t / 1000}$.

    That is the chance of at least one event; several in one step are one spike, so keep $\lambda \Delta t$ small.

    **Arguments:**

    - `rates`: $\lambda$, `(*batch, features)`, Hz.
    - `num_steps`: static number of steps.
    - `key`: for the draws.
    - `dt`: length of a step, ms.

    **Returns:** `(num_steps, *batch, features)`, 0 or 1.

    **Raises:** `ValueError` for a negative `num_steps` or a `dt` that is not positive; a run-time error for a negative
    or NaN rate.

    !!! note
        Norse takes $\lambda \Delta t$ itself for the probability, which exceeds one for high rates.
    """
    _check_steps(num_steps)
    require_step(dt)
    rates = eqx.error_if(rates, ~jnp.all(rates >= 0), "`rates` must be at least 0 Hz.")
    return _draw(key, -jnp.expm1(-rates * (dt / 1000.0)), num_steps)


def latency_encode(
    x: Float[Array, "*shape"],
    num_steps: int,
    *,
    curve: Literal["log", "linear"] = "log",
    tau: float | int | None = None,
    threshold: float | int = 0.01,
    fire_below: bool = False,
    epsilon: float = 1e-7,
) -> Float[Array, " time *shape"]:
    r"""Latency code: at most one spike each, the earlier the larger the value.

    The spike is in step $\mathrm{round}(\tau \ln \frac{x}{x - \theta})$ ("log", when a leaky neuron driven by $x$ gets
    to $\theta$) or $\mathrm{round}(\tau (1 - x))$ ("linear"). Values below $\theta$ count as $\theta$ (plus `epsilon`).

    **Arguments:**

    - `x`: `(*batch, features)`, dimensionless, at most 1 for "linear".
    - `num_steps`: static number of steps; later spikes are lost.
    - `tau`: steps. None chooses it such that the latest spike, that of $\theta$, is in the last step.
    - `threshold`: $\theta$, positive.
    - `fire_below`: whether values below $\theta$ fire, at the time of $\theta$, or stay silent.
    - `epsilon`: how near to $\theta$ a value may come for "log", which is infinite there.

    **Returns:** `(num_steps, *batch, features)`, 0 or 1.

    **Raises:** `ValueError` for fewer than one step or constants out of range; a run-time error for NaN, or values
    above 1 with "linear".

    !!! note
        snnTorch normalises by the latest spike of the batch, which makes a sample's code depend on the others; here it
        is the latest spike there can be. Both are the same as soon as one value is at or below the threshold.
    """
    _check_steps(num_steps, least=1)
    require(threshold, "threshold", above=0.0, unit="")
    require(epsilon, "epsilon", above=0.0, unit="")
    x = _known(x, "x")
    below = x < threshold
    if curve == "log":
        excess = jnp.where(below, epsilon, jnp.maximum(x - threshold, epsilon))
        latency, latest = jnp.log((excess + threshold) / excess), jnp.log((epsilon + threshold) / epsilon)
    else:
        require(threshold, "threshold", below=1.0, unit="")
        x = eqx.error_if(x, jnp.any(x > 1), '`x` must be at most 1 for `curve="linear"`. Scale it first.')
        latency, latest = 1 - jnp.maximum(x, threshold), 1.0
    if tau is None:
        latency = latency * ((num_steps - 1) / latest)
    else:
        require(tau, "tau", above=0.0, unit="steps")
        latency = latency * tau
    spikes = _at_step(jnp.round(latency).astype(jnp.int32), num_steps)
    return as_float(spikes if fire_below else spikes & ~below[None]).astype(x.dtype)


def delta_encode(
    xs: Float[Array, " time *shape"],
    *,
    threshold: float | int = 0.1,
    off_spikes: bool = False,
    initial: float | int | None = None,
) -> Float[Array, " time *shape"]:
    r"""Delta code: a spike when a signal rises by at least $\theta$ from one step to the next.

    **Arguments:**

    - `xs`: `(time, *batch, features)`.
    - `threshold`: $\theta$, positive, in the unit of `xs`.
    - `off_spikes`: whether a fall by at least $\theta$ is a spike of $-1$.
    - `initial`: the value before the first step; None: the first value itself, so that the first step is silent.

    **Returns:** `(time, *batch, features)`: 0, 1 or -1.

    **Raises:** `ValueError` if there are no steps or `threshold` is not positive; a run-time error for NaN.
    """
    require_steps(xs, "xs")
    require(threshold, "threshold", above=0.0, unit="")
    xs = _known(xs, "xs")
    before = xs[:1] if initial is None else jnp.full_like(xs[:1], initial)
    change = xs - jnp.concatenate([before, xs[:-1]])
    rises = as_float(change >= threshold)
    spikes = rises - as_float(change <= -threshold) if off_spikes else rises
    return spikes.astype(xs.dtype)


def population_encode(
    x: Float[Array, "*shape"],
    num_neurons: int,
    *,
    low: Float[Array, ""] | float | int = 0.0,
    high: Float[Array, ""] | float | int = 1.0,
    width: Float[Array, ""] | float | int | None = None,
) -> Float[Array, "*shape num_neurons"]:
    r"""Population code: each value excites neurons tuned to evenly spaced values, $e^{-(x - c_k)^2 / 2 \sigma^2}$.

    **Arguments:**

    - `x`: `(*batch, features)`.
    - `num_neurons`: neurons per value, with centres $c_k$ from `low` to `high`.
    - `width`: $\sigma$, in the unit of `x`; None: the distance of two centres.

    **Returns:** `(*batch, features, num_neurons)`, activities in $[0, 1]$: differentiable, and the probabilities of
    `rate_encode` if spikes are wanted.

    **Raises:** `ValueError` for fewer than 2 neurons, `high` not above `low`, or a `width` that is not positive.

    !!! note
        Norse's curves are those of `width = sigma / sqrt(scale)`, `high = scale`.
    """
    if num_neurons < 2:
        raise ValueError(f"`num_neurons` must be at least 2 for their centres to span a range; got {num_neurons}.")
    if isinstance(low, float | int) and isinstance(high, float | int) and not low < high:
        raise ValueError(f"`high` must be above `low`; got low={low:g}, high={high:g}.")
    if width is not None:
        require(width, "width", above=0.0, unit="")
    centres = jnp.linspace(jnp.asarray(low, x.dtype), jnp.asarray(high, x.dtype), num_neurons)
    spacing = centres[1] - centres[0] if width is None else jnp.asarray(width, x.dtype)
    return jnp.exp(-(((x[..., None] - centres.reshape((1,) * x.ndim + (-1,))) / spacing) ** 2) / 2)


def phase_encode(x: Float[Array, "*shape"], num_steps: int, *, period: int = 8) -> Float[Array, " time *shape"]:
    r"""Phase code: the binary digits of a value, most significant first, over and over.

    A spike in phase $p$ is worth $2^{-(1 + p)}$; in `period` phases $x$ is coded to $2^{-\text{period}}$.

    **Arguments:**

    - `x`: `(*batch, features)` in $[0, 1]$; 1 becomes the largest value that has digits.
    - `num_steps`: static number of steps.
    - `period`: phases in a period, 1 to 24 (the digits of a float32).

    **Returns:** `(num_steps, *batch, features)`, 0 or 1; `phase_decode` reads it.

    **Raises:** `ValueError` for `period` or `num_steps` out of range; a run-time error for values outside $[0, 1]$.

    ??? cite "Reference"
        Kim et al., Deep neural networks with weighted spikes, Neurocomputing 311, 2018, section 3.1.
    """
    _check_steps(num_steps)
    _check_period(period)
    x = eqx.error_if(x, ~jnp.all((x >= 0) & (x <= 1)), "`x` must lie in [0, 1]. Scale or clip it first.")
    number = jnp.minimum(jnp.floor(x * 2**period), 2**period - 1).astype(jnp.int32)
    place = period - 1 - jnp.arange(num_steps, dtype=jnp.int32) % period
    digits = (number[None] >> place.reshape((-1,) + (1,) * x.ndim)) & 1
    return digits.astype(x.dtype)


def phase_decode(spikes: Spikes, *, period: int = 8) -> Float[Array, "*shape"]:
    """The value that `phase_encode` coded, averaged over the periods.

    **Raises:** `ValueError` if the steps are not a positive multiple of `period`.
    """
    _check_period(period)
    require_steps(spikes, "spikes")
    num_periods, rest = divmod(spikes.shape[0], period)
    if rest:
        raise ValueError(f"`spikes` must have whole periods of {period} steps; got {spikes.shape[0]} steps.")
    by_phase = as_float(spikes).reshape(num_periods, period, *spikes.shape[1:]).mean(axis=0)
    return jnp.tensordot(0.5 ** (1 + jnp.arange(period, dtype=by_phase.dtype)), by_phase, axes=1)


def rank_order_encode(x: Float[Array, "*batch features"], num_steps: int | None = None) -> Float[Array, "..."]:
    """Rank-order code: the features fire one a step, the largest first; ties in the order of the features.

    **Arguments:**

    - `x`: `(*batch, features)`.
    - `num_steps`: static number of steps, one per feature if None; features of a later rank stay silent.

    **Returns:** `(num_steps, *batch, features)`, 0 or 1.

    **Raises:** `ValueError` for a negative `num_steps`; a run-time error for NaN.

    ??? cite "Reference"
        Thorpe and Gautrais, Rank order coding, in: Computational Neuroscience, 1998.
    """
    num_steps = x.shape[-1] if num_steps is None else num_steps
    _check_steps(num_steps)
    x = _known(x, "x")
    rank = jnp.argsort(jnp.argsort(-x, axis=-1, stable=True), axis=-1)
    return _at_step(rank, num_steps).astype(x.dtype)


def constant_current_encode(
    current: Float[Array, "..."], num_steps: int, neuron: AbstractNeuron | None = None
) -> Float[Array, "..."]:
    """The spikes of neurons that are driven by constant currents.

    **Arguments:**

    - `current`: `(*batch, *size)`, in the unit of the neuron's input.
    - `num_steps`: static number of steps.
    - `neuron`: any neuron of `size`; None is `LIFCell(features)`.

    **Returns:** `(num_steps, *batch, *size)`, 0 or 1, differentiable in `current` by the neuron's surrogate.

    **Raises:** `ValueError` for a negative `num_steps` or a `current` that does not fit the neuron.
    """
    _check_steps(num_steps)
    neuron = LIFCell(current.shape[-1:]) if neuron is None else neuron
    batch = current.shape[: current.ndim - len(neuron.size)]
    currents = jnp.broadcast_to(current, (num_steps, *current.shape))
    return scan(neuron, currents, neuron.init_state(batch))[0]


def first_spikes(spikes: Spikes) -> Float[Array, " time *shape"]:
    """Only the first spike of each train: the latency code of whatever code or neuron made them.

    **Arguments:** `spikes`: `(time, *batch, neurons)`, 0 or 1.

    **Returns:** the same shape; spikes that are kept keep their gradient.
    """
    spikes = as_float(spikes)
    earlier = jnp.cumsum(jax.lax.stop_gradient(spikes), axis=0) - jax.lax.stop_gradient(spikes)
    return jnp.where(earlier > 0, 0.0, spikes)


def _draw(key: PRNGKeyArray, probability: Array, num_steps: int) -> Array:
    probability = jnp.broadcast_to(probability, (num_steps, *probability.shape))
    return jr.bernoulli(key, probability).astype(probability.dtype)


def _at_step(step: Int[Array, "*shape"], num_steps: int) -> Array:
    """True where the step is the given one."""
    return step[None] == jnp.arange(num_steps, dtype=step.dtype).reshape((-1,) + (1,) * step.ndim)


def _known(x: Array, name: str) -> Array:
    """The values, or a run-time error if one is NaN, which would be coded as if it were small."""
    return eqx.error_if(x, jnp.any(jnp.isnan(x)), f"`{name}` must not be NaN. Fill in or drop what is missing first.")


def _check_steps(num_steps: int, *, least: int = 0) -> None:
    if num_steps < least:
        raise ValueError(f"`num_steps` must be at least {least}; got {num_steps}.")


def _check_period(period: int) -> None:
    if not 1 <= period <= 24:
        raise ValueError(f"`period` must be from 1 to 24 phases; got {period}.")
