"""Arrays cannot be hashed, so they cannot be static: what is an array is traced, what is static is hashable."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqx_graph.data import PaddingBudget


def main() -> None:
    for array in (jnp.ones(2), np.ones(2)):
        try:
            hash(array)
            raise AssertionError("arrays compare elementwise, so they have no hash")
        except TypeError:
            pass
    try:
        jax.jit(lambda x: x, static_argnums=0)(jnp.ones(2))
        raise AssertionError("an array cannot be a static argument")
    except ValueError:
        pass

    class Bad(eqx.Module):
        table: jax.Array = eqx.field(static=True)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Bad(jnp.ones(2))
    assert any("static" in str(w.message) for w in caught)  # Equinox warns; never do it

    class Good(eqx.Module):
        table: jax.Array
        size: int = eqx.field(static=True)

    @eqx.filter_jit
    def total(good: Good) -> jax.Array:
        return good.table.sum() * good.size

    assert total(Good(jnp.ones(2), 3)) == 6.0
    assert hash(PaddingBudget(8, 8, 2)) == hash(PaddingBudget(8, 8, 2))  # sizes are static and hash by value
    print("arrays are traced, sizes and names are static")


if __name__ == "__main__":
    main()
