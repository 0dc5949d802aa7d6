"""The document's demonstration: a changed member of a static object is not seen. It still prints 10 and 10.

An `eqx.Module` cannot be changed, and hashes by its values: a new value is a new program.
"""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp


class Wow:
    def __init__(self, x: int):
        self.x = x

    @ft.partial(jax.jit, static_argnums=(0,))
    def f(self) -> jax.Array:
        return jnp.asarray(self.x)


class Better(eqx.Module):
    x: int = eqx.field(static=True)

    @eqx.filter_jit
    def f(self) -> jax.Array:
        return jnp.asarray(self.x)


def main() -> None:
    wow = Wow(10)
    printed = [int(wow.f())]
    wow.x = 9
    printed.append(int(wow.f()))
    assert printed == [10, 10]  # as in the document: stale

    better = Better(10)
    assert int(better.f()) == 10 and int(Better(9).f()) == 9
    assert Better(10) == better and hash(Better(10)) == hash(better)  # by value, so equal settings share a program
    print(f"mutable class {printed}, immutable Module [10, 9]")


if __name__ == "__main__":
    main()
