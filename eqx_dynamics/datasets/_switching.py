"""Switching linear systems whose observations are mixed: the benchmark of timescale demixing."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Complex, Float, Int, PRNGKeyArray

from ._sample import AbstractSystem, Sample, check_channels, check_steps, draw_regimes


# Decay rates per step and frequencies in cycles per step of the published benchmark: systems by regimes.
DECAYS = ((-0.025, -0.25), (-0.1, -0.5), (-0.015, -0.75))
FREQUENCIES = ((0.0075, 0.05), (0.025, 0.075), (0.01, 0.075))

Mixing = Literal["partial_sum", "full_sum", "partial_observation", "separate"]


class SwitchingLinearSystem(AbstractSystem):
    r"""Independent switching linear systems seen through one mixture (Abe & Brunton 2025, PyTorch-era code).

    Each system $s$ has a regime $z^s_t$, a Markov chain that stays with probability `persistence`, and a state
    $x^s_t = A^s_{z} x^s_{t-1} + b^s_z + q \epsilon$, with $A$ of eigenvalues $e^{\tau} \pm 2 \pi i f$. Three emissions
    per system, $C^s x^s + d^s + o \epsilon$, are mixed: `"partial_sum"` adds the first two of all systems and keeps the
    rest, `"full_sum"` adds all, `"partial_observation"` drops each system's last, `"separate"` keeps all. One random
    projection, the same for every sample, spreads the result over `num_channels`.

    With one regime it is the linear variant. Deviations from the published code: the noise is isotropic with given
    standard deviations instead of drawn at random; one scale serves all samples instead of one per data split; every
    split of the linear variant shares one projection.
    """

    transitions: Float[Array, "systems regimes 2 2"]
    biases: Float[Array, "systems regimes 2"]
    emissions: Float[Array, "systems 3 2"]
    offsets: Float[Array, "systems 3"]
    projection: Float[Array, "channels mixed"]
    scale: Float[Array, " channels"]
    process_noise: float
    observation_noise: float
    persistence: float
    min_occupancy: float
    mixing: Mixing = eqx.field(static=True)

    def __init__(
        self,
        decays: tuple[tuple[float, ...], ...] = DECAYS,
        frequencies: tuple[tuple[float, ...], ...] = FREQUENCIES,
        *,
        num_channels: int = 20,
        mixing: Mixing = "partial_sum",
        process_noise: float = 1.0,
        observation_noise: float = 0.6,
        persistence: float = 0.9756,
        min_occupancy: float = 0.45,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `decays`, `frequencies`: $\\tau$ per step and $f$ in cycles per step, one tuple of regimes per system.
        - `num_channels`: observed channels after the random projection.
        - `process_noise`, `observation_noise`: standard deviations $q$ and $o$.
        - `persistence`: probability of staying in a regime for one more step.
        - `min_occupancy`: regime sequences are drawn again until every regime takes up this share of the time.

        **Raises:** `ValueError` for tables that do not fit, decays that do not decay, or impossible probabilities.
        """
        shapes = {len(row) for row in (*decays, *frequencies)}
        if len(decays) != len(frequencies) or len(shapes) != 1:
            raise ValueError("`decays` and `frequencies` must be tables of one shape, systems by regimes.")
        num_regimes = shapes.pop()
        check_channels(num_channels, min(process_noise, observation_noise))
        if not 0 < persistence < 1:
            raise ValueError(f"`persistence` must lie strictly between 0 and 1; got {persistence}.")
        if not 0 <= min_occupancy * num_regimes < 1:
            raise ValueError(
                f"`min_occupancy` must be less than one over the number of regimes, {num_regimes}; got {min_occupancy}."
            )
        radius, angle = jnp.exp(jnp.asarray(decays)), 2 * jnp.pi * jnp.asarray(frequencies)
        if not bool(jnp.all(radius**2 + angle**2 < 1)):
            raise ValueError("`decays` and `frequencies` must give stable systems: |exp(tau) + 2 pi i f| < 1.")
        keys = jr.split(key, 5)
        rows = (jnp.stack([radius, -angle], -1), jnp.stack([angle, radius], -1))
        self.transitions = jnp.stack(rows, -2)
        self.biases = jr.uniform(keys[0], (*radius.shape, 2), minval=-1.0, maxval=1.0)
        self.emissions = jr.normal(keys[1], (radius.shape[0], 3, 2))
        self.offsets = jr.normal(keys[2], (radius.shape[0], 3))
        self.mixing = mixing
        num_mixed = jax.eval_shape(lambda x: _mix(x, mixing), self.offsets).shape[-1]
        self.projection = jr.normal(keys[3], (num_channels, num_mixed))
        self.process_noise = process_noise
        self.observation_noise = observation_noise
        self.persistence = persistence
        self.min_occupancy = min_occupancy if num_regimes > 1 else 0.0
        self.scale = jnp.ones(num_channels)
        self.scale = jnp.max(jnp.abs(self.sample(10_000, key=keys[4]).observations), axis=0)

    @property
    def eigenvalues(self) -> Complex[Array, "systems regimes"]:
        """One of the conjugate pair of every system and regime."""
        return jax.lax.complex(self.transitions[..., 0, 0], self.transitions[..., 1, 0])

    @property
    def timescales(self) -> Float[Array, "systems regimes"]:
        r"""$-1 / \ln |\lambda|$, in time steps."""
        return -1 / jnp.log(jnp.abs(self.eigenvalues))

    def sample(self, num_steps: int, *, key: PRNGKeyArray) -> Sample:
        """A recording of `num_steps` time steps, after 200 steps that are thrown away; `timescales` in time steps.

        **Raises:** an error if no regime sequence of this length reaches `min_occupancy`.
        """
        check_steps(num_steps)
        regime_key, process_key, observation_key = jr.split(key, 3)
        length = num_steps + 200
        num_systems = self.transitions.shape[0]
        regimes = jax.vmap(lambda k: self._regimes(length, k), out_axes=1)(jr.split(regime_key, num_systems))
        noise = self.process_noise * jr.normal(process_key, (length, num_systems, 2))

        def step(state, regime_and_noise):
            regime, noise = regime_and_noise
            pick = jax.vmap(lambda table, z: table[z])
            state = jnp.einsum("sij,sj->si", pick(self.transitions, regime), state) + pick(self.biases, regime) + noise
            return state, state

        _, states = jax.lax.scan(step, jnp.zeros((num_systems, 2)), (regimes, noise))
        states, regimes = states[200:], regimes[200:]
        emitted = jnp.einsum("sij,tsj->tsi", self.emissions, states) + self.offsets[None]
        emitted = emitted + self.observation_noise * jr.normal(observation_key, emitted.shape)
        observations = _mix(emitted, self.mixing) @ self.projection.T / self.scale[None]
        return Sample(observations, states, regimes, self.timescales, 1.0)

    def _regimes(self, length: int, key: PRNGKeyArray) -> Int[Array, " time"]:
        num_regimes = self.transitions.shape[1]

        def draw(key: PRNGKeyArray) -> Int[Array, " time"]:
            return draw_regimes(length, num_regimes, self.persistence, key=key)

        def rarest(regimes: Int[Array, " time"]) -> Float[Array, ""]:
            counts = jnp.sum(regimes[:, None] == jnp.arange(num_regimes)[None], axis=0)
            return jnp.min(counts) / length

        def is_rare(carry):
            count, regimes = carry
            return (rarest(regimes) < self.min_occupancy) & (count < 2000)

        def again(carry):
            count, _ = carry
            return count + 1, draw(jr.fold_in(key, count))

        _, regimes = jax.lax.while_loop(is_rare, again, (jnp.int32(1), draw(jr.fold_in(key, 0))))
        return eqx.error_if(
            regimes,
            rarest(regimes) < self.min_occupancy,
            "`num_steps` is too small for `min_occupancy`: 2000 regime sequences were drawn and none had every regime "
            "often enough. Raise `num_steps` or lower `min_occupancy`.",
        )


def _mix(emitted: Float[Array, "*time systems emissions"], mixing: Mixing) -> Float[Array, "*time mixed"]:
    if mixing == "full_sum":
        return jnp.sum(emitted, axis=-2)
    kept = {"partial_sum": emitted[..., 2:], "partial_observation": emitted[..., :-1]}.get(mixing, emitted)
    kept = jnp.reshape(kept, (*kept.shape[:-2], -1))
    if mixing == "partial_sum":
        return jnp.concatenate([jnp.sum(emitted[..., :2], axis=-2), kept], axis=-1)
    return kept


def linear_system(
    decays: tuple[float, ...] = (-0.025, -0.1, -0.015),
    frequencies: tuple[float, ...] = (0.0075, 0.025, 0.01),
    *,
    num_channels: int = 20,
    mixing: Mixing = "partial_sum",
    key: PRNGKeyArray,
) -> SwitchingLinearSystem:
    """The variant without switching: one regime per system."""
    return SwitchingLinearSystem(
        tuple((decay,) for decay in decays),
        tuple((frequency,) for frequency in frequencies),
        num_channels=num_channels,
        mixing=mixing,
        key=key,
    )
