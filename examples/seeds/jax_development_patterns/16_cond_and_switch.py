"""`cond` is lazy and so is `switch`: the document says that a switch evaluates every branch, which is not so.

With a scalar index exactly the chosen branch runs. Both become selects, all branches run, once the condition is batched
by `vmap`. For regimes that are mixed or batched anyway a masked mixture says the same without a branch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


ran: list[int] = []


def branch(number: int) -> Callable[[jax.Array], jax.Array]:
    def run(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: ran.append(number))
        return (number + 1.0) * x

    return run


def regime(index: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.switch(index, [branch(0), branch(1), branch(2)], x)


def main() -> None:
    x = jnp.asarray(2.0)
    assert float(jax.jit(regime)(1, x)) == 4.0
    jax.effects_barrier()
    assert ran == [1]  # lazy

    ran.clear()
    values = jax.jit(jax.vmap(regime, in_axes=(None, 0)))(1, jnp.ones(3))  # scalar index, batched operand: lazy
    jax.block_until_ready(values)
    jax.effects_barrier()
    assert set(ran) == {1}

    ran.clear()
    values = jax.jit(jax.vmap(regime))(jnp.array([1, 1]), jnp.ones(2))  # batched index: every branch runs
    jax.block_until_ready(values)
    jax.effects_barrier()
    assert set(ran) == {0, 1, 2} and values.tolist() == [2.0, 2.0]
    assert int(regime(jnp.asarray(7), x)) == 6  # an index out of range is clamped

    weights = jax.nn.one_hot(jnp.array([1, 2]), 3)  # the mixture
    np.testing.assert_array_equal(weights @ jnp.array([1.0, 2.0, 3.0]), [2.0, 3.0])
    print("switch: one branch with a scalar index, all with a batched one")


if __name__ == "__main__":
    main()
