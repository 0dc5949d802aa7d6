"""A step of a sparse connection: reading the rows of the neurons that fired, or every synapse.

10,000 neurons of 250 synapses each, no batch, jitted scan, minimum of five runs. Prints microseconds per step for
several fractions of neurons that fire.

    python benchmarks/sparse_connection.py
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jax.random as jr
import tyro

from eqx_dynamics.spiking import SparseConnection


@dataclass(frozen=True)
class Config:
    num_neurons: int = 10_000
    synapses: int = 250
    seed: int = 0


def microseconds(step: Callable[[jax.Array], jax.Array], xs: jax.Array) -> float:
    """Of one step, the best of five runs over all of `xs`."""
    run = jax.jit(lambda xs: jax.lax.scan(lambda total, x: (total + step(x)[:5].sum(), None), 0.0, xs)[0])
    jax.block_until_ready(run(xs))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(run(xs))
        best = min(best, time.perf_counter() - start)
    return 1e6 * best / xs.shape[0]


def main(config: Config) -> None:
    size, key = config.num_neurons, jr.key(config.seed)
    sparse = SparseConnection.fixed_probability(size, size, config.synapses / size, 0.1, key=key).trimmed()
    for fraction, num_steps in ((0.001, 500), (0.01, 200), (0.1, 40)):
        spikes = jr.bernoulli(key, fraction, (num_steps, size)).astype(float)
        print(f"{fraction:.1%} fire: {microseconds(sparse, spikes):.0f} us a step")

    def every_synapse(x: jax.Array) -> jax.Array:
        return jnp.zeros(size).at[sparse.targets].add(0.1 * x[:, None], mode="drop")

    print(f"every synapse: {microseconds(every_synapse, spikes):.0f} us a step")


if __name__ == "__main__":
    main(tyro.cli(Config))
