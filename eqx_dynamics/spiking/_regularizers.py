"""Penalties that keep activity in range; each the mean over what it sums, so that sizes do not change its strength."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._decoders import Spikes, as_float, require_steps, spike_count, spike_rate
from ._parameter import require


def activity_penalty(spikes: Spikes) -> Float[Array, ""]:
    r"""The fraction of steps with a spike, $\mathrm{mean}(s)$: an L1 penalty on activity.

    **Arguments:** `spikes`: `(time, *batch, neurons)`. **Raises:** `ValueError` if there are no steps.

    !!! note
        snnTorch's `l1_rate_sparsity` is the sum: this times the number of elements.
    """
    require_steps(spikes, "spikes")
    return jnp.mean(as_float(spikes))


def rate_penalty(spikes: Spikes, target: float | int, *, dt: float | int = 1.0) -> Float[Array, ""]:
    r"""Mean over neurons of $(\bar r_n / r_0 - 1)^2$, with $\bar r_n$ the rate of a neuron over time and batch.

    **Arguments:**

    - `spikes`: `(time, *batch, neurons)`.
    - `target`: $r_0$, Hz.
    - `dt`: length of a step, ms.

    **Raises:** `ValueError` if `target` or `dt` is not positive or there are no steps.
    """
    require(target, "target", above=0.0, unit="Hz")
    return jnp.mean((_over_batch(spike_rate(spikes, dt=dt)) / target - 1) ** 2)


def silence_penalty(spikes: Spikes, minimum: float | int = 1.0) -> Float[Array, ""]:
    r"""Mean over neurons of $\max(0, m - \bar n)^2$: neurons should fire $m$ times a sample on average.

    **Arguments:** `spikes`: `(time, *batch, neurons)`; `minimum`: $m$, spikes. **Raises:** `ValueError` if `minimum` is
    not positive or there are no steps.

    !!! note
        A neuron that no surrogate slope reaches has no gradient and stays silent. spyx's `silence_reg` is the sum over
        neurons, and counts every step of every neuron as one unless time is summed first.
    """
    require(minimum, "minimum", above=0.0, unit="spikes")
    require_steps(spikes, "spikes")
    return jnp.mean(jnp.maximum(0.0, minimum - _over_batch(spike_count(spikes))) ** 2)


def sparsity_penalty(spikes: Spikes, maximum: float | int) -> Float[Array, ""]:
    r"""Mean over samples of $h(\max(0, \bar n - M))$: a layer should fire at most $M$ times a neuron on average.

    $h$ is Huber's function, $x^2/2$ up to 1 and $x - 1/2$ beyond.

    **Arguments:** `spikes`: `(time, *batch, neurons)`; `maximum`: $M$, spikes, not negative. **Raises:** `ValueError`
    if `maximum` is negative or there are no steps.

    !!! note
        spyx's `sparsity_reg` is the sum over samples.
    """
    if not maximum >= 0:
        raise ValueError(f"`maximum` must not be negative; got {maximum:g} spikes.")
    require_steps(spikes, "spikes")
    excess = jnp.maximum(0.0, jnp.mean(spike_count(spikes), axis=-1) - maximum)
    return jnp.mean(jnp.where(excess <= 1, excess**2 / 2, excess - 0.5))


def _over_batch(x: Array) -> Array:
    """The mean over all axes but the neurons'."""
    return jnp.mean(x, axis=tuple(range(x.ndim - 1)))
