"""What every generator returns: a recording together with the truth behind it."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray


class Sample(eqx.Module):
    """One simulated recording.

    - `observations`: what is recorded.
    - `states`: the true state of every system behind it.
    - `regimes`: which of its dynamics every system follows; zero where there is only one.
    - `timescales`: of every system in every regime, in the unit of `time_step`; what exactly, its generator says.
    """

    observations: Float[Array, "time channels"]
    states: Float[Array, "time systems dims"]
    regimes: Int[Array, "time systems"]
    timescales: Float[Array, "systems regimes"]
    time_step: float


class AbstractSystem(eqx.Module):
    """A generator of recordings whose truth is known."""

    @abc.abstractmethod
    def sample(self, num_steps: int, *, key: PRNGKeyArray) -> Sample:
        """A recording of `num_steps` time steps.

        **Raises:** `ValueError` if `num_steps` is not positive.
        """


class Mixture(eqx.Module):
    r"""Signals $s$ seen as $P (s - \mu) / \sigma + o \epsilon$: standardised, mixed at random, with white noise $o$.

    Rows of $P$ have unit norm, so channels have about unit variance.
    """

    projection: Float[Array, "channels signals"]
    mean: Float[Array, " signals"]
    std: Float[Array, " signals"]
    noise: float

    def __init__(self, reference: Float[Array, "time signals"], num_channels: int, noise: float, *, key: PRNGKeyArray):
        """**Arguments:** `reference`: a stretch of signals that gives mean and standard deviation.

        **Raises:** `ValueError` without channels or for negative noise.
        """
        check_channels(num_channels, noise)
        projection = jr.normal(key, (num_channels, reference.shape[1]), reference.dtype)
        self.projection = projection / jnp.linalg.norm(projection, axis=1, keepdims=True)
        self.mean, self.std = jnp.mean(reference, axis=0), jnp.std(reference, axis=0)
        self.noise = noise

    def __call__(self, signals: Float[Array, "time signals"], *, key: PRNGKeyArray) -> Float[Array, "time channels"]:
        """The recording of signals."""
        clean = ((signals - self.mean[None]) / self.std[None]) @ self.projection.T
        return clean + self.noise * jr.normal(key, clean.shape, clean.dtype)


def draw_regimes(num_steps: int, num_regimes: int, persistence: float, *, key: PRNGKeyArray) -> Int[Array, " time"]:
    """A Markov chain that stays with probability `persistence` and else jumps to any other regime."""
    first_key, leave_key, jump_key = jr.split(key, 3)
    leaves = jr.uniform(leave_key, (num_steps,)) > persistence
    jumps = jnp.where(leaves, jr.randint(jump_key, (num_steps,), 1, max(num_regimes, 2)), 0)
    return (jr.randint(first_key, (), 0, num_regimes) + jnp.cumsum(jumps)) % num_regimes


def correlation_time(signals: Float[Array, "time signals"], time_step: float) -> Float[Array, ""]:
    """When the autocorrelation, averaged over standardised signals, first falls below 1/e."""
    centred = signals - jnp.mean(signals, axis=0, keepdims=True)
    centred = centred / jnp.std(centred, axis=0, keepdims=True)
    length = len(signals)
    power = jnp.abs(jnp.fft.rfft(centred, 2 * length, axis=0)) ** 2
    correlation = jnp.mean(jnp.fft.irfft(power, axis=0)[:length], axis=1) / length
    return jnp.argmax(correlation < jnp.exp(-1.0)).astype(signals.dtype) * time_step


def check_channels(num_channels: int, noise: float) -> None:
    """**Raises:** `ValueError` without channels or for a negative standard deviation."""
    if num_channels < 1 or not noise >= 0:
        raise ValueError(f"`num_channels` must be at least 1 and `noise` not negative; got {num_channels} and {noise}.")


def check_steps(num_steps: int) -> None:
    """**Raises:** `ValueError` if there is no time step."""
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1; got {num_steps}.")


def standard_float() -> jnp.dtype:
    """float64 where it is enabled, else float32."""
    return jax.dtypes.canonicalize_dtype(float)
