"""Four limbs that walk, trot and bound."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._sample import AbstractSystem, Sample, check_steps, draw_regimes, standard_float


# Phase of left fore, right fore, left hind and right hind limb, in strides.
GAITS = {"walk": (0.0, 0.5, 0.75, 0.25), "trot": (0.0, 0.5, 0.5, 0.0), "bound": (0.0, 0.0, 0.5, 0.5)}


class GaitOscillators(AbstractSystem):
    r"""Coupled phase oscillators whose rhythm, phase lags and amplitude switch slowly.

    Limb $i$ has a phase $\dot \phi_i = 2 \pi f_z + w \sum_j \sin(\phi_j - \phi_i - \psi^z_{ij})$ plus noise, and an
    amplitude $\dot A_i = (A_z - A_i) / \tau_A$; the gait $z$ is a Markov chain. Each limb shows three joints,
    $A \sin \phi$, $\frac{A}{2} \sin(2 \phi + 1)$ and $\frac{A}{2} \sin(\phi - 1)$, and noise: twelve channels, 60
    steps a second. So there are three scales: strides, changes of amplitude, and bouts of one gait.

    A sample's `timescales` are the stride periods $1 / f_z$ in seconds, one row for the one system; its `states` are
    $A_i \cos \phi_i$ and $A_i \sin \phi_i$ of the four limbs, its `regimes` count the gaits: walk, trot, bound.

    ??? cite "Reference"
        Ijspeert, Central pattern generators for locomotion control, Neural Networks 21, 2008 (phase oscillators).
    """

    frequencies: Float[Array, " gaits"]
    amplitudes: Float[Array, " gaits"]
    bout: float
    amplitude_time: float
    coupling: float
    phase_noise: float
    noise: float
    time_step: float

    def __init__(
        self,
        frequencies: tuple[float, float, float] = (1.0, 2.0, 3.5),
        amplitudes: tuple[float, float, float] = (0.5, 0.8, 1.2),
        *,
        bout: float = 8.0,
        amplitude_time: float = 0.5,
        coupling: float = 4.0,
        phase_noise: float = 0.3,
        noise: float = 0.05,
        time_step: float = 1 / 60,
    ):
        """**Arguments:**

        - `frequencies`, `amplitudes`: strides per second $f_z$ and amplitude $A_z$ of walk, trot and bound.
        - `bout`: mean duration of one gait, in seconds; `amplitude_time`: $\\tau_A$ in seconds.
        - `coupling`: $w$ per second; `phase_noise`: in radians per square root of a second.
        - `noise`: standard deviation of every channel.

        **Raises:** `ValueError` for times or frequencies that are not positive, or strides shorter than four steps.
        """
        if not (bout > time_step > 0 and amplitude_time > 0 and min(frequencies) > 0):
            raise ValueError("`bout` > `time_step`, `amplitude_time` and `frequencies` must be positive.")
        if max(frequencies) * time_step > 0.25:
            raise ValueError(f"`time_step` of {time_step} s is too long for {max(frequencies)} strides per second.")
        self.frequencies = jnp.asarray(frequencies, standard_float())
        self.amplitudes = jnp.asarray(amplitudes, standard_float())
        self.bout, self.amplitude_time, self.coupling = bout, amplitude_time, coupling
        self.phase_noise, self.noise, self.time_step = phase_noise, noise, time_step

    def sample(self, num_steps: int, *, key: PRNGKeyArray) -> Sample:
        """A recording that starts in the rhythm of its first gait."""
        check_steps(num_steps)
        regime_key, phase_key, noise_key = jr.split(key, 3)
        regimes = draw_regimes(num_steps, 3, 1 - self.time_step / self.bout, key=regime_key)
        dtype = self.frequencies.dtype
        offsets = 2 * jnp.pi * jnp.asarray(tuple(GAITS.values()), dtype)
        kicks = self.phase_noise * self.time_step**0.5 * jr.normal(phase_key, (num_steps, 4), dtype)

        def step(state, regime_and_kick):
            phase, amplitude = state
            regime, kick = regime_and_kick
            lead = (phase[None] - phase[:, None]) - (offsets[regime][None] - offsets[regime][:, None])
            rate = 2 * jnp.pi * self.frequencies[regime] + self.coupling * jnp.sum(jnp.sin(lead), axis=1)
            phase = phase + self.time_step * rate + kick
            keep = jnp.exp(-self.time_step / self.amplitude_time)
            amplitude = keep * amplitude + (1 - keep) * self.amplitudes[regime]
            return (phase, amplitude), (phase, amplitude)

        start = (offsets[regimes[0]], jnp.full((4,), self.amplitudes[regimes[0]]))
        _, (phase, amplitude) = jax.lax.scan(step, start, (regimes, kicks))
        joints = [jnp.sin(phase), 0.5 * jnp.sin(2 * phase + 1), 0.5 * jnp.sin(phase - 1)]
        angles = jnp.concatenate([amplitude * joint for joint in joints], axis=1)
        observations = angles + self.noise * jr.normal(noise_key, angles.shape, dtype)
        states = jnp.concatenate([amplitude * jnp.cos(phase), amplitude * jnp.sin(phase)], axis=1)[:, None]
        return Sample(observations, states, regimes[:, None], 1 / self.frequencies[None], self.time_step)
