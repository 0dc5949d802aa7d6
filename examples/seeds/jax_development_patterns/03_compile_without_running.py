"""`jit(f).lower(*args).compile()`: compile now, run later; and what to know before relying on it.

Right as far as it goes. The trap: a compiled function called with another STATIC argument returns the result for the
old one. `compile_ahead` checks structure, shapes, dtypes and static values.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from eqx_dynamics.transform import compile_ahead


def power(x: jax.Array, n: int) -> jax.Array:
    return x**n


def main() -> None:
    x = jnp.array([2.0, 3.0])
    compiled = jax.jit(power, static_argnums=1).lower(x, 3).compile()
    assert compiled(x).tolist() == [8.0, 27.0]
    assert "HloModule" in str(compiled.as_text())  # and memory_analysis(), cost_analysis()

    trap = eqx.filter_jit(power).lower(x, 3).compile()
    assert trap(x, 4).tolist() == [8.0, 27.0]  # asked for x**4, got x**3, silently

    safe = compile_ahead(power, jax.ShapeDtypeStruct((2,), jnp.float32), 3).result()  # from shapes alone
    assert safe(x, 3).tolist() == [8.0, 27.0]
    for wrong in ((x, 4), (jnp.ones(3), 3), (jnp.ones(2, jnp.int32), 3)):
        try:
            safe(*wrong)
            raise AssertionError("what was not compiled must not run")
        except ValueError:
            pass
    print("compiled from shapes; another exponent, shape or dtype is refused")


if __name__ == "__main__":
    main()
