"""Slow variables on a ring, each coupled to several fast ones."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._integrate import integrate
from ._sample import AbstractSystem, Mixture, Sample, check_steps, correlation_time, standard_float


class TwoScaleLorenz96(AbstractSystem):
    r"""The Lorenz-96 system with two scales, seen through one mixture.

    $\dot X_k = X_{k-1} (X_{k+1} - X_{k-2}) - X_k + F - \frac{hc}{b} \sum_j Y_{j,k}$ and
    $\dot Y_j = c b\, Y_{j+1} (Y_{j-1} - Y_{j+2}) - c\, Y_j + \frac{hc}{b} X_{k(j)}$, both on rings; the fast variables
    move $c$ times as fast.

    A sample's `timescales` are the times at which the autocorrelation of the slow and of the fast variables, in this
    very recording, falls below 1/e. Its `states` are $X$, and for every slow variable the mean of its fast ones: two
    systems of as many dimensions as there are slow variables.

    ??? cite "Reference"
        Lorenz, Predictability: a problem partly solved, ECMWF 1996; Wilks, Q. J. R. Meteorol. Soc. 131, 2005.
    """

    mixture: Mixture
    forcing: float
    coupling: float
    speed: float
    amplitude: float
    time_step: float
    num_slow: int = eqx.field(static=True)
    num_fast: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)

    def __init__(
        self,
        num_slow: int = 6,
        num_fast: int = 4,
        *,
        forcing: float = 10.0,
        coupling: float = 1.0,
        speed: float = 10.0,
        amplitude: float = 10.0,
        num_channels: int = 30,
        noise: float = 0.1,
        time_step: float = 0.02,
        substeps: int = 5,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `num_slow`, `num_fast`: slow variables, and fast ones for each of them.
        - `forcing`, `coupling`, `speed`, `amplitude`: $F$, $h$, $c$, $b$.
        - `num_channels`, `noise`: channels with all variables mixed, and the noise of each.
        - `time_step`: between observations; each is `substeps` Runge-Kutta steps.

        **Raises:** `ValueError` for rings that are too short or numbers that are not positive.
        """
        if num_slow < 4 or num_fast < 1:
            raise ValueError(f"`num_slow` must be at least 4 and `num_fast` at least 1; got {num_slow} and {num_fast}.")
        if not (speed > 0 and amplitude > 0 and time_step > 0 and substeps >= 1):
            raise ValueError(
                "`speed`, `amplitude`, `time_step` and `substeps` must be positive; got "
                f"{speed}, {amplitude}, {time_step}, {substeps}."
            )
        self.num_slow, self.num_fast = num_slow, num_fast
        self.forcing, self.coupling, self.speed, self.amplitude = forcing, coupling, speed, amplitude
        self.time_step, self.substeps = time_step, substeps
        mixture_key, reference_key = jr.split(key)
        slow, fast = self._simulate(2000, reference_key)
        self.mixture = Mixture(jnp.concatenate([slow, fast], axis=1), num_channels, noise, key=mixture_key)

    def sample(self, num_steps: int, *, key: PRNGKeyArray) -> Sample:
        """A recording, after 10 units of time that are thrown away."""
        check_steps(num_steps)
        start_key, noise_key = jr.split(key)
        slow, fast = self._simulate(num_steps, start_key)
        observations = self.mixture(jnp.concatenate([slow, fast], axis=1), key=noise_key)
        means = jnp.mean(jnp.reshape(fast, (num_steps, self.num_slow, self.num_fast)), axis=-1)
        times = jnp.stack([correlation_time(slow, self.time_step), correlation_time(fast, self.time_step)])
        regimes = jnp.zeros((num_steps, 2), int)
        return Sample(observations, jnp.stack([slow, means], axis=1), regimes, times[:, None], self.time_step)

    def _simulate(
        self, num_steps: int, key: PRNGKeyArray
    ) -> tuple[Float[Array, "time slow"], Float[Array, "time fast"]]:
        dtype = standard_float()
        slow_key, fast_key = jr.split(key)
        slow = jr.normal(slow_key, (self.num_slow,), dtype)
        fast = 0.1 * jr.normal(fast_key, (self.num_slow * self.num_fast,), dtype)
        drive = self.coupling * self.speed / self.amplitude

        def field(state: tuple[Array, Array]) -> tuple[Array, Array]:
            x, y = state
            load = drive * jnp.sum(jnp.reshape(y, (self.num_slow, self.num_fast)), axis=1)
            turn = jnp.roll(x, 1) * (jnp.roll(x, -1) - jnp.roll(x, 2))
            stir = self.speed * self.amplitude * jnp.roll(y, -1) * (jnp.roll(y, 1) - jnp.roll(y, -2))
            return turn - x + self.forcing - load, stir - self.speed * y + drive * jnp.repeat(x, self.num_fast)

        transient = int(10 / self.time_step)
        slows, fasts = integrate(field, (slow, fast), transient + num_steps, self.time_step, substeps=self.substeps)
        return slows[transient:], fasts[transient:]
