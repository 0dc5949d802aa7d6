"""Write for one example, `vmap` and `jit` outermost: `jit(vmap(f))`, not `vmap(jit(f))`, not a loop of `jit(f)`.

The document is right; here is by how much, and why: the whole batch is one program with one launch.
"""

import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np


def microseconds(fn: Callable[[], jax.Array]) -> float:
    jax.block_until_ready(fn())
    best = np.inf
    for _ in range(7):
        start = time.perf_counter()
        jax.block_until_ready(fn())
        best = min(best, time.perf_counter() - start)
    return 1e6 * best


def main() -> None:
    model = eqx.nn.MLP(8, 8, 32, 2, key=jr.key(0))
    x = jr.normal(jr.key(1), (64, 8))
    params, static = eqx.partition(model, eqx.is_array)

    def one(params: eqx.nn.MLP, x: jax.Array) -> jax.Array:  # no batch axis anywhere
        return eqx.combine(params, static)(x)

    jitted_one = jax.jit(one)
    outer = jax.jit(jax.vmap(one, in_axes=(None, 0)))
    inner = jax.vmap(jitted_one, in_axes=(None, 0))
    out = [outer(params, x), inner(params, x), jnp.stack([jitted_one(params, row) for row in x])]
    np.testing.assert_allclose(out[0], out[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out[0], out[2], rtol=1e-4, atol=1e-5)

    times = {
        "jit(vmap(f))": microseconds(lambda: outer(params, x)),
        "vmap(jit(f))": microseconds(lambda: inner(params, x)),
        "loop of jit(f)": microseconds(lambda: [jitted_one(params, row) for row in x][-1]),
    }
    assert times["jit(vmap(f))"] < times["vmap(jit(f))"] and 3 * times["jit(vmap(f))"] < times["loop of jit(f)"]
    print(", ".join(f"{name} {t:.0f} us" for name, t in times.items()))


if __name__ == "__main__":
    main()
