"""Fast lookup tables: on a uniform grid the index is a multiplication, no search, and the error has a bound.

`tabulate` stores values and slopes (cubic Hermite), so that the table is accurate with few points and differentiable.
The linked discussion searches with `searchsorted`, which costs a logarithm of the size per query.
"""

import jax
import jax.numpy as jnp
import numpy as np

from eqx_dynamics.transform import tabulate


def upswing(v: jax.Array) -> jax.Array:
    """The exponential of an AdEx neuron, in mV/ms: threshold -50 mV, slope factor 2 mV."""
    return 2.0 * jnp.exp((v + 50.0) / 2.0)


def main() -> None:
    table = tabulate(upswing, -70.0, -45.0, tolerance=1e-3)
    v = jnp.linspace(-70.0, -45.0, 10_001)
    error = float(jnp.max(jnp.abs(table(v) - jax.vmap(upswing)(v))))
    assert error <= table.error_bound <= 1.1e-3

    slope_error = jnp.abs(jax.vmap(jax.grad(table))(v) - jax.vmap(jax.grad(upswing))(v))
    assert float(jnp.max(slope_error)) <= table.slope_error_bound

    primitives = {str(equation.primitive) for equation in jax.make_jaxpr(table)(v).eqns}
    assert not primitives & {"exp", "sort", "while", "scan"}  # two gathers and a cubic: no exponential, no search
    grid, values = np.linspace(-70, -45, table.values.shape[0]), np.asarray(table.values)
    linear = np.abs(np.interp(np.asarray(v), grid, values) - np.asarray(upswing(v))).max()
    assert linear > 10 * error
    size = table.values.shape[0]
    print(f"{size} points, error {error:.1e} (bound {table.error_bound:.1e}); linear would be {linear:.1e}")


if __name__ == "__main__":
    main()
