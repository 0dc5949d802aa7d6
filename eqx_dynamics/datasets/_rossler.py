"""Two Rössler systems, one of them slow."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._integrate import integrate
from ._sample import AbstractSystem, Mixture, Sample, check_steps, standard_float


class RosslerPair(AbstractSystem):
    r"""A slow Rössler system sets a parameter of a fast one, and both are seen through one mixture.

    $\dot x = -y - z,\ \dot y = x + a y,\ \dot z = b + z (x - c)$ with $a = 0.15, b = 0.2, c = 9$, chaotic with coherent
    phases. For the slow system all three rates are multiplied by `slowness` $\epsilon$; for the fast one
    $c = 9 + \kappa\, x_{slow}$, between 7 and 11. So the periods differ by the factor $1 / \epsilon$. (In the published
    benchmark both systems have the same period, 5.88: its ratio of timescales is not one of the Rössler system.)

    A sample's `timescales` are the mean periods of the slow and the fast system in this very recording, from their
    phases $\arctan(y / x)$; its `states` are $(x, y, z)$ of both.

    ??? cite "Reference"
        Rössler, An equation for continuous chaos, Physics Letters A 57, 1976.
    """

    mixture: Mixture
    slowness: float
    coupling: float
    time_step: float
    substeps: int = eqx.field(static=True)
    observed: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        slowness: float = 0.1,
        *,
        coupling: float = 0.1,
        num_channels: int = 16,
        observed: tuple[int, ...] = (2, 3, 4),
        noise: float = 0.1,
        time_step: float = 0.1,
        substeps: int = 5,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `slowness`: $\\epsilon$, the rate of the slow system relative to the fast one.
        - `coupling`: $\\kappa$.
        - `observed`: which of $(x, y, z)_{slow}, (x, y, z)_{fast}$ are mixed; as published, $z$ of the slow system and
          $x, y$ of the fast one.
        - `noise`: standard deviation per channel, whose signal has about unit variance.
        - `time_step`: between observations; each is `substeps` Runge-Kutta steps.

        **Raises:** `ValueError` for rates, steps or indices out of range.
        """
        if not 0 < slowness <= 1 or not time_step > 0 or substeps < 1:
            raise ValueError(
                "`slowness` must lie in (0, 1], `time_step` and `substeps` be positive; got "
                f"{slowness}, {time_step}, {substeps}."
            )
        if not observed or not all(0 <= n < 6 for n in observed):
            raise ValueError(f"`observed` must be indices from 0 to 5; got {observed}.")
        self.slowness, self.coupling = slowness, coupling
        self.time_step, self.substeps, self.observed = time_step, substeps, observed
        mixture_key, reference_key = jr.split(key)
        states = self._simulate(5000, reference_key)
        reference = jnp.reshape(states, (len(states), 6))[:, jnp.asarray(observed)]
        self.mixture = Mixture(reference, num_channels, noise, key=mixture_key)

    def sample(self, num_steps: int, *, key: PRNGKeyArray) -> Sample:
        """A recording, after ten slow periods that are thrown away."""
        check_steps(num_steps)
        start_key, noise_key = jr.split(key)
        states = self._simulate(num_steps, start_key)
        observations = self.mixture(jnp.reshape(states, (num_steps, 6))[:, jnp.asarray(self.observed)], key=noise_key)
        phase = jnp.unwrap(jnp.arctan2(states[..., 1], states[..., 0]), axis=0)
        turns = jnp.abs(phase[-1] - phase[0]) / (2 * jnp.pi)
        periods = (num_steps - 1) * self.time_step / jnp.where(turns > 0, turns, jnp.nan)
        return Sample(observations, states, jnp.zeros((num_steps, 2), int), periods[:, None], self.time_step)

    def _simulate(self, num_steps: int, key: PRNGKeyArray) -> Float[Array, "time 2 3"]:
        dtype = standard_float()
        start = jr.uniform(key, (2, 3), dtype, -1.0, 1.0) + jnp.asarray([5.0, 0.0, 0.0], dtype)[None]
        rates = jnp.stack([jnp.asarray(self.slowness, dtype), jnp.ones((), dtype)])[:, None]

        def field(state: Float[Array, "2 3"]) -> Float[Array, "2 3"]:
            x, y, z = state[:, 0], state[:, 1], state[:, 2]
            fast = jnp.clip(9.0 + self.coupling * x[0], 7.0, 11.0)
            c = jnp.stack([jnp.full_like(fast, 9.0), fast])
            return rates * jnp.stack([-y - z, x + 0.15 * y, 0.2 + z * (x - c)], axis=-1)

        transient = int(10 * 6.0 / (self.slowness * self.time_step))
        states = integrate(field, start, transient + num_steps, self.time_step, substeps=self.substeps)
        return states[transient:]
