"""Section 2.2, block 7: a module with a parameter and a state, mapped over both; printed result [0 1 4 9].

The original changes `foo.b` behind the call. Here the new module is the result, and the old one is what it was.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int


class Foo(eqx.Module):
    a: Int[Array, "*batch"]
    b: Int[Array, "*batch"]

    def multiplied(self) -> "Foo":
        return Foo(self.a, self.a * self.b)


def main() -> None:
    foo = Foo(jnp.arange(4), jnp.arange(4))
    after = eqx.filter_vmap(Foo.multiplied)(foo)
    print(after.b)
    assert jnp.array_equal(after.b, jnp.array([0, 1, 4, 9])) and after.b.dtype == jnp.int32
    assert jnp.array_equal(foo.b, jnp.arange(4))


if __name__ == "__main__":
    main()
