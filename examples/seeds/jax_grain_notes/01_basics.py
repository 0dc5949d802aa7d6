"""JAX in five statements, each asserted: immutable arrays, grad, jit, vmap, explicit randomness.

Two statements of the notes are outdated or backwards. `pmap` is superseded by sharding over a mesh. And it is NumPy,
not JAX, that keeps a global random state; JAX has none, which is why a key must be passed.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def main() -> None:
    x = jnp.arange(4.0)
    try:
        x[0] = 10.0  # pyright: ignore[reportIndexIssue]
        raise AssertionError("JAX arrays are immutable")
    except TypeError:
        y = x.at[0].set(10.0)
    assert x[0] == 0.0 and y[0] == 10.0

    def f(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(x) ** 2)

    np.testing.assert_allclose(jax.grad(f)(x), np.sin(2 * np.arange(4.0)), rtol=1e-6)  # reverse mode
    np.testing.assert_allclose(jax.jit(f)(x), f(x), rtol=1e-6)  # compiled: one fused kernel
    rows = jnp.stack([x, 2 * x])
    np.testing.assert_allclose(jax.vmap(f)(rows), [f(rows[0]), f(rows[1])], rtol=1e-6)  # vectorised

    mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))
    many = jnp.tile(x, (4 * jax.device_count(), 1))
    split = jax.device_put(many, NamedSharding(mesh, PartitionSpec("batch")))  # in place of pmap
    out = jax.jit(jax.vmap(f))(split)
    assert out.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("batch")), out.ndim)

    np.random.seed(0)  # noqa: NPY002  NumPy's hidden state: the same call gives different numbers
    assert np.random.normal() != np.random.normal()  # noqa: NPY002
    key = jr.key(0)
    assert jr.normal(key) == jr.normal(key)  # JAX: the same key gives the same numbers
    first, second = jr.split(key)
    assert jr.normal(first) != jr.normal(second)
    print(f"immutable, differentiable, compiled, vectorised, split over {jax.device_count()} devices, explicit keys")


if __name__ == "__main__":
    main()
