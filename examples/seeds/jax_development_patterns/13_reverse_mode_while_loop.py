"""A bounded while loop with reverse mode, and its memory: the linked code lives on behind `bounded_while`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqx_dynamics import bounded_while


def heat(x: jax.Array, checkpoints: int | None) -> jax.Array:
    """Diffuse until the steepest step is small: the number of rounds depends on the data."""

    def steepest(x: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(jnp.diff(x)))

    def round_(x: jax.Array) -> jax.Array:
        return x + 0.4 * (jnp.roll(x, 1) + jnp.roll(x, -1) - 2 * x)

    loop = bounded_while(lambda x: steepest(x) > 0.02, round_, x, max_steps=1024, checkpoints=checkpoints)
    return jnp.sum(loop.value**2)


def main() -> None:
    x = jnp.sin(jnp.arange(64.0) * 2 * jnp.pi / 64) + jnp.where(jnp.arange(64) == 9, 1.0, 0.0)
    gradients, memory = [], []
    for checkpoints in (None, 16):
        gradient = eqx.filter_jit(jax.grad(lambda x, c=checkpoints: heat(x, c)))
        gradients.append(gradient(x))
        memory.append(gradient.lower(x).compile().compiled.memory_analysis().temp_size_in_bytes)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)

    step, k = 1e-2, 9  # against finite differences, at a number of rounds that does not change
    bump = step * (jnp.arange(64) == k)
    numeric = (heat(x + bump, None) - heat(x - bump, None)) / (2 * step)
    np.testing.assert_allclose(gradients[0][k], numeric, rtol=0.05)
    assert memory[1] < memory[0]
    print(f"gradient of a loop of unknown length; {memory[0]} bytes kept, {memory[1]} with 16 checkpoints")


if __name__ == "__main__":
    main()
