"""Losses of spike trains and membranes: `(time, *batch, classes)` and labels `(*batch)` to one number.

Each is a decoder and a loss; a mean over the batch. Time is axis 0 by construction, there is no time axis to choose.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._decoders import (
    Spikes,
    as_float,
    exponential_trace,
    first_spike_time,
    max_membrane,
    require_steps,
    spike_count,
    spike_rate,
)
from ._parameter import require


Labels = Int[Array, "*batch"]
AnyShape = Float[Array, "..."] | Int[Array, "..."] | Bool[Array, "..."]


def cross_entropy(
    logits: Float[Array, "*axes classes"], labels: Int[Array, "*batch"], *, smoothing: float = 0.0
) -> Float[Array, ""]:
    r"""Mean of $-\sum_c q_c \log \mathrm{softmax}(z)_c$ with $q = (1 - \epsilon)\, 1_y + \epsilon / C$.

    **Arguments:**

    - `logits`: `(*axes, classes)`; further axes in front of the labels' (time) are averaged.
    - `labels`: `(*batch)`, in `[0, classes)`.
    - `smoothing`: $\epsilon$ in $[0, 1)$.

    **Raises:** `ValueError` if the shapes do not fit or `smoothing` is out of range; a run-time error for a label that
    is no class.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"`smoothing` must be at least 0 and below 1; got {smoothing:g}.")
    expected = _targets(logits, labels, 1 - smoothing + smoothing / logits.shape[-1], smoothing / logits.shape[-1])
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    expected = jnp.broadcast_to(expected, log_probabilities.shape)
    return -jnp.mean(jnp.sum(expected * log_probabilities, axis=-1))


def ce_rate(spikes: Spikes, labels: Labels, *, smoothing: float = 0.0) -> Float[Array, ""]:
    r"""Cross-entropy in every step, averaged over time: $\frac{1}{T} \sum_t \mathrm{CE}(s_t, y)$.

    Also for membranes. **Arguments** and **Raises** as for `ce_count`.
    """
    _check(spikes, labels, "spikes")
    return cross_entropy(as_float(spikes), labels, smoothing=smoothing)


def ce_count(spikes: Spikes, labels: Labels, *, smoothing: float = 0.0) -> Float[Array, ""]:
    r"""Cross-entropy of the spike counts, $\mathrm{CE}(\sum_t s_t, y)$; of a readout's membranes, their integral.

    **Arguments:**

    - `spikes`: `(time, *batch, classes)`.
    - `labels`: `(*batch)`, in `[0, classes)`.
    - `smoothing`: how much of the target is spread evenly over the classes.

    **Returns:** the mean over the batch.

    **Raises:** `ValueError` if `labels` does not have the batch axes of `spikes`; a run-time error for a label that is
    no class.
    """
    _check(spikes, labels, "spikes")
    return cross_entropy(spike_count(spikes), labels, smoothing=smoothing)


def ce_max_membrane(
    membranes: Float[Array, " time *shape"], labels: Labels, *, smoothing: float = 0.0
) -> Float[Array, ""]:
    r"""Cross-entropy of the highest membranes, $\mathrm{CE}(\max_t v_t, y)$. **Arguments** as for `ce_count`."""
    _check(membranes, labels, "membranes")
    return cross_entropy(max_membrane(membranes), labels, smoothing=smoothing)


def ce_first_spike(spikes: Spikes, labels: Labels, *, temperature: float | int = 1.0) -> Float[Array, ""]:
    r"""Cross-entropy of the times to first spike: $\mathrm{CE}(-t_1 / \theta, y)$, the earliest neuron wins.

    **Arguments:** as for `ce_count`, and `temperature` $\theta$, steps.

    **Raises:** as `ce_count`; `ValueError` if `temperature` is not positive.
    """
    _check(spikes, labels, "spikes")
    require(temperature, "temperature", above=0.0, unit="steps")
    return cross_entropy(-first_spike_time(spikes) / temperature, labels)


def mse_rate(
    spikes: Spikes,
    labels: Labels,
    *,
    correct: float | int = 0.8,
    incorrect: float | int = 0.2,
) -> Float[Array, ""]:
    r"""Mean of $(\frac{1}{T} \sum_t s_t - \rho)^2$: rates as fractions of steps against $\rho$.

    **Arguments:** `spikes` and `labels` as for `ce_count`; `correct` and `incorrect`: the target $\rho$ of the label's
    neuron and of the others, spikes per step.

    !!! note
        spyx's `mse_spikerate` multiplies its target by the number of steps but not the rate: `correct=0.25 * T`,
        `incorrect=0` gives its numbers.
    """
    _check(spikes, labels, "spikes")
    rate = spike_rate(spikes, dt=1000.0)
    return jnp.mean((rate - _targets(rate, labels, correct, incorrect)) ** 2)


def mse_count(
    spikes: Spikes,
    labels: Labels,
    *,
    correct: float | int = 0.8,
    incorrect: float | int = 0.2,
) -> Float[Array, ""]:
    r"""Mean of $(\sum_t s_t - \rho T)^2 / T$: counts against counts.

    **Arguments:** as for `mse_rate`, of which this is $T$ times.

    !!! note
        snnTorch rounds $\rho T$ down to a whole count; here it is the real number.
    """
    return mse_rate(spikes, labels, correct=correct, incorrect=incorrect) * spikes.shape[0]


def mse_membrane(
    membranes: Float[Array, " time *shape"],
    labels: Labels,
    *,
    correct: float | int = 1.0,
    incorrect: float | int = 0.0,
) -> Float[Array, ""]:
    r"""Mean over time, batch and neurons of $(v_t - m)^2$.

    **Arguments:** `membranes`: `(time, *batch, classes)`, mV; `labels`: `(*batch)`; `correct` and `incorrect`: the
    target $m$ of the label's neuron and of the others, mV.

    !!! note
        snnTorch takes a negative target of the others for 0; here it is what it says.
    """
    _check(membranes, labels, "membranes")
    return jnp.mean((membranes - _targets(membranes[0], labels, correct, incorrect)[None]) ** 2)


def mse_first_spike(
    spikes: Spikes,
    labels: Labels,
    *,
    correct: float | int = 0.0,
    incorrect: float | int | None = None,
) -> Float[Array, ""]:
    r"""Mean of $((t_1 - \tau) / T)^2$ with $t_1$ the time to first spike.

    **Arguments:** `spikes` and `labels` as for `ce_count`; `correct` and `incorrect`: the step $\tau$ in which the
    label's neuron and the others should first fire; `incorrect` None means the last step, which is also where a neuron
    that never fires counts.

    !!! note
        snnTorch's `mse_temporal_loss()` is documented to want the others in the last step, but its default of -1 is
        clamped to 0: `correct=0, incorrect=0` gives its numbers.
    """
    _check(spikes, labels, "spikes")
    num_steps = spikes.shape[0]
    times = first_spike_time(spikes)
    wanted = _targets(times, labels, correct, num_steps - 1 if incorrect is None else incorrect)
    return jnp.mean(((times - wanted) / num_steps) ** 2)


def van_rossum_distance(
    spikes: Spikes, targets: AnyShape, *, tau: float | int = 10.0, dt: float | int = 1.0
) -> Float[Array, "*shape"]:
    r"""Squared distance of spike trains, $D^2 = \frac{1}{\tau} \int_0^\infty (f(t) - g(t))^2 dt$.

    $f$ and $g$ are the trains filtered by $e^{-t/\tau}$. The integral is exact, the tail after the last step included:
    one spike more counts 1/2, two spikes $\delta$ ms apart $1 - e^{-\delta/\tau}$.

    **Arguments:**

    - `spikes`, `targets`: `(time, *batch, neurons)`.
    - `tau`: time constant of the filter, ms: short compares times, long compares counts.
    - `dt`: length of a step, ms.

    **Returns:** `(*batch, neurons)`, dimensionless.

    **Raises:** `ValueError` if the shapes differ, there are no steps, or `tau` or `dt` is not positive.

    ??? cite "Reference"
        van Rossum, A novel spike distance, Neural Computation 13, 2001, eqs. 2-4.
    """
    if spikes.shape != targets.shape:
        raise ValueError(f"`targets` must have the shape {spikes.shape} of `spikes`; got {targets.shape}.")
    require_steps(spikes, "spikes")
    squares = exponential_trace(as_float(spikes) - as_float(targets), tau, dt=dt) ** 2
    kept = jnp.exp(-2 * dt / jnp.asarray(tau, squares.dtype))
    return (jnp.sum(squares, axis=0) * (1 - kept) + squares[-1] * kept) / 2


def van_rossum(
    spikes: Spikes, targets: AnyShape, *, tau: float | int = 10.0, dt: float | int = 1.0
) -> Float[Array, ""]:
    """The mean of `van_rossum_distance` over batch and neurons: a loss for target spike trains."""
    return jnp.mean(van_rossum_distance(spikes, targets, tau=tau, dt=dt))


def _targets(like: Array, labels: Array, correct: float | int, incorrect: float | int) -> Array:
    """`correct` in the label's column, `incorrect` elsewhere, with the axes of `like`."""
    num_classes = like.shape[-1]
    if like.shape[like.ndim - 1 - labels.ndim : -1] != labels.shape or like.ndim <= labels.ndim:
        raise ValueError(f"`labels` must have the batch axes {like.shape[:-1]}; got {labels.shape}.")
    wrong = jnp.any((labels < 0) | (labels >= num_classes))
    labels = eqx.error_if(labels, wrong, f"`labels` must be classes from 0 to {num_classes - 1}.")
    hot = labels[..., None] == jnp.arange(num_classes).reshape((1,) * labels.ndim + (-1,))
    targets = jnp.where(hot, jnp.asarray(correct, like.dtype), jnp.asarray(incorrect, like.dtype))
    return targets.reshape((1,) * (like.ndim - targets.ndim) + targets.shape)


def _check(outputs: Array, labels: Array, name: str) -> None:
    require_steps(outputs, name)
    if outputs.ndim < 2 or outputs.shape[1:-1] != labels.shape:
        raise ValueError(
            f"`labels` must have the batch axes of `{name}` (time, *batch, classes); got labels {labels.shape} for "
            f"{name} {outputs.shape}. Put time first, e.g. `jnp.swapaxes({name}, 0, 1)`."
        )
