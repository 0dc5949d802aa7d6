"""`fori_loop`, `while_loop`, `cond`: which of them have gradients.

The document lists them as equals. Forward mode goes through all; reverse mode goes through `cond`, `scan` and a
`fori_loop` whose bounds are known, not through `while_loop`. `bounded_while` is a while loop with a bound and both.
"""

import jax
import jax.numpy as jnp
import numpy as np

from eqx_dynamics import bounded_while


def newton_sqrt(a: jax.Array) -> jax.Array:
    return bounded_while(lambda x: jnp.abs(x**2 - a) > 1e-5, lambda x: 0.5 * (x + a / x), a, max_steps=32).value


def main() -> None:
    def lax_sqrt(a: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: jnp.abs(x**2 - a) > 1e-5, lambda x: 0.5 * (x + a / x), a)

    a = jnp.asarray(2.0)
    np.testing.assert_allclose([lax_sqrt(a), newton_sqrt(a)], np.sqrt(2), rtol=1e-5)
    try:
        jax.grad(lax_sqrt)(a)
        raise AssertionError("while_loop has no reverse mode")
    except ValueError:
        pass
    np.testing.assert_allclose(jax.grad(newton_sqrt)(a), 0.5 / np.sqrt(2), rtol=1e-4)
    np.testing.assert_allclose(jax.jvp(lax_sqrt, (a,), (jnp.ones(()),))[1], 0.5 / np.sqrt(2), rtol=1e-4)

    def known(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda _, x: x * x, x)

    np.testing.assert_allclose(jax.grad(known)(1.1), 8 * 1.1**7, rtol=1e-5)
    assert jax.grad(lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x))(1.0) == jnp.cos(1.0)
    print("gradients: cond yes, fori_loop with known bounds yes, while_loop no, bounded_while yes")


if __name__ == "__main__":
    main()
