"""Reading an answer off spikes or membranes; time is axis 0 everywhere."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._derivative import with_tangent
from ._parameter import require, require_step


Spikes = Float[Array, " time *shape"] | Int[Array, " time *shape"] | Bool[Array, " time *shape"]


def spike_count(spikes: Spikes) -> Float[Array, "*shape"]:
    r"""Spikes of each neuron, $n = \sum_t s_t$.

    **Arguments:** `spikes`: `(time, *batch, neurons)`, 0 or 1.

    **Returns:** `(*batch, neurons)`, dimensionless.
    """
    return jnp.sum(as_float(spikes), axis=0)


def spike_rate(spikes: Spikes, *, dt: float | int = 1.0) -> Float[Array, "*shape"]:
    r"""Firing rate of each neuron, $1000\, n / (T \Delta t)$, in Hz.

    **Arguments:**

    - `spikes`: `(time, *batch, neurons)`, 0 or 1.
    - `dt`: length of a step, ms.

    **Returns:** `(*batch, neurons)`, Hz.

    **Raises:** `ValueError` if there are no steps or `dt` is not positive.
    """
    require_steps(spikes, "spikes")
    require_step(dt)
    return jnp.mean(as_float(spikes), axis=0) * (1000.0 / dt)


def max_membrane(membranes: Float[Array, " time *shape"]) -> Float[Array, "*shape"]:
    """The highest membrane of each neuron, mV: a readout of neurons that do not fire.

    **Arguments:** `membranes`: `(time, *batch, neurons)`, mV.

    **Returns:** `(*batch, neurons)`, mV. The gradient goes to the step of the maximum, shared equally among ties.

    **Raises:** `ValueError` if there are no steps.
    """
    require_steps(membranes, "membranes")
    return jnp.max(membranes, axis=0)


def first_spike_time(spikes: Spikes) -> Float[Array, "*shape"]:
    r"""The step in which each neuron first fires; the last step, $T - 1$, if it never does.

    A step number has no derivative. In its place stands $-1$ for the spike of that step and 0 for all others, so that a
    later target lowers the membrane at the time of the spike; for a silent neuron it is the last step that can learn.

    **Arguments:** `spikes`: `(time, *batch, neurons)`, 0 or 1.

    **Returns:** `(*batch, neurons)`, steps counted from 0.

    **Raises:** `ValueError` if there are no steps.

    ??? cite "Reference"
        The sign estimator is that of snnTorch's temporal losses (Eshraghian et al., Proc. IEEE 2023, section IV.C).
    """
    require_steps(spikes, "spikes")
    values = as_float(spikes)
    fired = values > 0
    step = jnp.where(jnp.any(fired, axis=0), jnp.argmax(fired, axis=0), values.shape[0] - 1)
    return with_tangent(step.astype(values.dtype), -jnp.take_along_axis(values, step[None], axis=0)[0])


def exponential_trace(
    spikes: Spikes, tau: Float[Array, "..."] | float | int, *, dt: float | int = 1.0
) -> Float[Array, " time *shape"]:
    r"""Spikes filtered by a decaying exponential, $r_t = e^{-\Delta t / \tau} r_{t-1} + s_t$.

    **Arguments:**

    - `spikes`: `(time, *batch, neurons)`.
    - `tau`: time constant, ms; one number, or one per neuron.
    - `dt`: length of a step, ms.

    **Returns:** `(time, *batch, neurons)`: the trace in each step, the spike of that step included.

    **Raises:** `ValueError` if `tau` or `dt` is not positive.
    """
    require(tau, "tau", above=0.0)
    require_step(dt)
    spikes = as_float(spikes)
    beta = jnp.exp(-dt / jnp.asarray(tau, spikes.dtype))
    beta = jnp.broadcast_to(beta, spikes.shape[1:])

    def step(trace: Array, spike: Array) -> tuple[Array, Array]:
        trace = beta * trace + spike
        return trace, trace

    return jax.lax.scan(step, jnp.zeros_like(beta), spikes)[1]


def accuracy(scores: Float[Array, "*axes classes"], labels: Int[Array, "*batch"]) -> Float[Array, ""]:
    """The fraction of samples whose highest score is that of their label.

    **Arguments:**

    - `scores`: `(*batch, classes)`: `spike_count(spikes)`, `max_membrane(membranes)`, `-first_spike_time(spikes)`, ...
      Ties go to the lowest class.
    - `labels`: `(*batch)`.

    **Raises:** `ValueError` if the batch axes differ.
    """
    if scores.shape[:-1] != labels.shape:
        raise ValueError(f"`labels` must have the batch axes {scores.shape[:-1]} of `scores`; got {labels.shape}.")
    return jnp.mean(jnp.argmax(scores, axis=-1) == labels)


def as_float(x: Array) -> Array:
    """Bool or integer spikes in the default floating dtype, floats as they are."""
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def require_steps(x: Array, name: str) -> None:
    """Raise a `ValueError` unless `x` has a time axis with at least one step."""
    if x.ndim == 0 or x.shape[0] == 0:
        raise ValueError(f"`{name}` must have at least one time step along axis 0; got shape {x.shape}.")
