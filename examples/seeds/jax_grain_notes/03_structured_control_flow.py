"""`cond`, `fori_loop`, `while_loop` and `scan` in place of Python's `if`, `for` and `while` on traced values.

The notes say that Python control flow often fails inside jit. Precisely: it works on what is known while tracing
(shapes, Python numbers) and fails on array values; a Python loop over a known range is unrolled, which compiles slowly.
"""

import jax
import jax.numpy as jnp
import numpy as np


def collatz_length(n: jax.Array) -> jax.Array:
    def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        n, count = carry
        return jax.lax.cond(n % 2 == 0, lambda n: n // 2, lambda n: 3 * n + 1, n), count + 1

    return jax.lax.while_loop(lambda carry: carry[0] != 1, step, (n, jnp.int32(0)))[1]


def main() -> None:
    assert int(jax.jit(collatz_length)(27)) == 111

    try:
        jax.jit(lambda n: n // 2 if n % 2 == 0 else 3 * n + 1)(27)
        raise AssertionError("a traced value has no truth value")
    except jax.errors.TracerBoolConversionError:
        pass
    assert jax.jit(lambda x: x.sum() if x.ndim == 1 else x.mean())(jnp.ones(3)) == 3  # shapes are known: fine

    total = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda i, s: s + i, 0))(10)  # the number of rounds is traced
    assert int(total) == 45

    def cumulative(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda s, x: (s + x, s + x), jnp.zeros(()), x)[1]

    x = jnp.arange(5.0)
    np.testing.assert_array_equal(cumulative(x), np.cumsum(np.arange(5.0)))
    np.testing.assert_array_equal(jax.grad(lambda x: cumulative(x).sum())(x), [5, 4, 3, 2, 1])  # scan has a gradient

    unrolled = jax.make_jaxpr(lambda x: [x := jnp.sin(x) for _ in range(100)][-1])(1.0)
    looped = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 100, lambda _, x: jnp.sin(x), x))(1.0)
    assert len(unrolled.eqns) == 100 and len(looped.eqns) < 5
    print("cond, fori_loop, while_loop and scan; a Python loop of 100 rounds is 100 operations to compile")


if __name__ == "__main__":
    main()
