"""`cond` under `vmap` becomes `select`: both branches run. A batched `while` runs until its slowest member is done.

As the document warns; the extreme case it met, an infinite loop, is one member that never stops. Loops here take
`max_steps`, name the reason a member stopped, and freeze members that are done.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqx_dynamics import RESULTS, bounded_while


def main() -> None:
    ran = []

    def tell(name: str):
        def branch(x: jax.Array) -> jax.Array:
            jax.debug.callback(lambda: ran.append(name))
            return 2 * x

        return branch

    def f(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x > 0, tell("positive"), tell("negative"), x)

    jax.block_until_ready(jax.jit(f)(jnp.asarray(1.0)))
    jax.effects_barrier()
    assert set(ran) == {"positive"}  # a scalar condition: one branch
    ran.clear()
    jax.block_until_ready(jax.jit(jax.vmap(f))(jnp.ones(3)))
    jax.effects_barrier()
    assert set(ran) == {"positive", "negative"}  # all members positive, and still both ran

    # Halving until below 1: fine for two members, for ever for the third, which grows.
    def halve(x: jax.Array, factor: jax.Array):
        loop = bounded_while(lambda x: x > 1.0, lambda x: factor * x, x, max_steps=50, throw=False)
        return loop.value, loop.num_steps, loop.result

    value, num_steps, result = eqx.filter_vmap(halve)(jnp.array([8.0, 3.0, 2.0]), jnp.array([0.5, 0.5, 1.01]))
    np.testing.assert_allclose(value[:2], [1.0, 0.75])
    np.testing.assert_array_equal(num_steps, [3, 2, 50])
    np.testing.assert_array_equal(result == RESULTS.completed, [True, True, False])
    np.testing.assert_array_equal(result == RESULTS.max_steps_reached, [False, False, True])
    print(f"steps of the members {num_steps.tolist()}; the one that never stops is named, and does not hang the rest")


if __name__ == "__main__":
    main()
