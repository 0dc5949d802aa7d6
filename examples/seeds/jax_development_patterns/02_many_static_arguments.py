"""Many static settings in one object: a Module with static fields, passed as an ordinary argument.

The document puts them in a class and lists `self` in `static_argnums`. That compares objects by identity: two equal
objects compile twice, and a changed one not at all (script 10). A Module compares by value and cannot be changed.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class Smoother(eqx.Module):
    weight: Float[Array, ""]  # traced
    width: int = eqx.field(static=True)
    mode: str = eqx.field(static=True)


num_traces = 0


@eqx.filter_jit
def smooth(smoother: Smoother, x: Array) -> Array:
    global num_traces
    num_traces += 1  # runs while tracing only
    kernel = jnp.full(smoother.width, 1 / smoother.width)
    return smoother.weight * jnp.convolve(x, kernel, mode=smoother.mode)


def main() -> None:
    x = jnp.arange(10.0)
    first = Smoother(jnp.asarray(2.0), 3, "same")
    smooth(first, x)
    smooth(Smoother(jnp.asarray(5.0), 3, "same"), x)  # another object with equal settings: no new trace
    assert num_traces == 1
    wider = smooth(dataclasses.replace(first, width=5), x)  # a changed setting: traced again, as it must be
    assert num_traces == 2 and float(wider[5]) == 10.0
    try:
        first.width = 7  # pyright: ignore[reportAttributeAccessIssue]
        raise AssertionError("a Module is frozen")
    except dataclasses.FrozenInstanceError:
        print("equal settings share a program, changed settings get their own, nothing changes behind jit's back")


if __name__ == "__main__":
    main()
