"""`np.interp` in JAX, and in n dimensions: `jnp.interp` exists by now; `GridInterpolator` is the n-d one.

Linear or cubic, differentiable in the query, the values and the grid; queries outside are an error, clamped, or
extended, as asked.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import RegularGridInterpolator

from eqx_dynamics.transform import GridInterpolator


def main() -> None:
    t, current = jnp.array([0.0, 1.0, 4.0]), jnp.array([0.0, 2.0, 8.0])  # ms, nA; irregular times
    np.testing.assert_allclose(jnp.interp(2.5, t, current), np.interp(2.5, [0, 1, 4], [0, 2, 8]))
    one = GridInterpolator((t,), current)
    np.testing.assert_allclose(one(jnp.array([2.5])), 5.0)

    x, y = np.array([0.0, 0.5, 2.0, 3.0]), np.array([-1.0, 0.0, 2.0])
    values = np.sin(x)[:, None] + y[None] ** 2
    queries = np.random.default_rng(0).uniform([0, -1], [3, 2], size=(50, 2))
    f32 = (jnp.asarray(a, jnp.float32) for a in (x, y, values, queries))
    gx, gy, gv, gq = f32
    surface = GridInterpolator((gx, gy), gv)
    np.testing.assert_allclose(surface(gq), RegularGridInterpolator((x, y), values)(queries), rtol=1e-5, atol=1e-5)

    slope = jax.grad(lambda q: surface(q))(jnp.array([0.2, 1.0]))
    np.testing.assert_allclose(slope, [np.sin(0.5) / 0.5, 2.0], rtol=1e-4)
    try:
        eqx.filter_jit(surface)(jnp.array([9.0, 0.0]))
        raise AssertionError("outside the grid must not be guessed")
    except eqx.EquinoxRuntimeError:
        held = GridInterpolator((gx, gy), gv, outside="clamp")(jnp.array([9.0, 0.0]))
    np.testing.assert_allclose(held, np.sin(3.0), rtol=1e-5)
    print("1-d as NumPy, 2-d as SciPy, with gradients; outside is an error unless asked for")


if __name__ == "__main__":
    main()
