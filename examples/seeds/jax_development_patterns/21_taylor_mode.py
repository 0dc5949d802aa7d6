"""Higher derivatives by Taylor series: `jet`, behind `time_derivatives`, for the motion along a vector field.

The linked page is silent on what is missing: functions with custom derivative rules (relu, softplus) have no Taylor
rule; here they are refused by name.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from eqx_dynamics.transform import time_derivatives


def main() -> None:
    decay = time_derivatives(lambda x: -2.0 * x, jnp.array([1.5]), order=4)
    np.testing.assert_allclose(decay[:, 0], 1.5 * (-2.0) ** np.arange(1, 5), rtol=1e-5)

    field = eqx.nn.MLP(2, 2, 16, 2, activation=jnp.tanh, key=jr.key(0))
    x = jnp.array([0.3, -0.7])
    derivatives = time_derivatives(field, x, order=3)

    def acceleration(x: jax.Array) -> jax.Array:
        return jax.jvp(field, (x,), (field(x),))[1]

    np.testing.assert_allclose(derivatives[1], acceleration(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(derivatives[2], jax.jvp(acceleration, (x,), (field(x),))[1], rtol=1e-3, atol=1e-5)

    def ahead(h: float) -> jax.Array:  # a Taylor step of order 3
        powers = jnp.array([h, h**2 / 2, h**3 / 6])
        return x + powers @ derivatives

    fine = x
    for _ in range(1000):
        fine = fine + 1e-4 * field(fine)
    np.testing.assert_allclose(ahead(0.1), fine, atol=1e-4)

    try:
        time_derivatives(eqx.nn.MLP(2, 2, 16, 2, activation=jax.nn.softplus, key=jr.key(0)), x, order=2)
        raise AssertionError("softplus has no Taylor rule")
    except ValueError as error:
        assert "softplus" in str(error)
    print(f"three time derivatives of a learned field: {np.round(np.asarray(derivatives), 3).tolist()}")


if __name__ == "__main__":
    main()
