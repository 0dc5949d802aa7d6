"""The document's four advantages and four challenges, each as something one can see.

Two are not as stated: arrays are not copied "on write" (an update outside a compiled function copies all of it, inside
one it may reuse a donated buffer), and compiled code can be debugged without leaving it (`jax.debug.print`).
"""

import io
from contextlib import redirect_stdout

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_dynamics import tidhy


def main() -> None:
    transition = tidhy.FullRankTransition(3, 4, key=jr.key(0))
    traced = []

    def predict(weights, latents):
        traced.append(latents.shape)
        return transition.columns(latents) @ weights

    # Compiled once for all values; pure, so `vmap` and `grad` apply (several devices: `04_devices.py`).
    batched = eqx.filter_jit(jax.vmap(predict, in_axes=(None, 0)))
    outs = [batched(jnp.ones(3), jr.normal(jr.key(seed), (6, 4))) for seed in range(3)]
    assert outs[0].shape == (6, 4) and len(traced) == 1
    assert jax.grad(lambda w: predict(w, jnp.ones(4)).sum())(jnp.ones(3)).shape == (3,)

    # Memory: an update is a new array, unless the old one is given up.
    array = jnp.zeros(1000)
    assert array.at[0].set(1.0).unsafe_buffer_pointer() != array.unsafe_buffer_pointer() and array[0] == 0
    before = array.unsafe_buffer_pointer()
    updated = jax.jit(lambda x: x.at[0].set(1.0), donate_argnums=0)(array)
    assert updated.unsafe_buffer_pointer() == before and array.is_deleted()

    # Debugging: step by step with `disable_jit`, or from inside the compiled function.
    with jax.disable_jit():
        batched(jnp.ones(3), jnp.ones((2, 4)))
    screen = io.StringIO()
    with redirect_stdout(screen):
        jax.jit(lambda x: jax.debug.print("sum {s}", s=x.sum()))(jnp.ones(3))
        jax.effects_barrier()
    assert "sum 3.0" in screen.getvalue()

    # Static shapes: another length is another program. Control flow: `if` on an array is an error, `where` is not.
    traced.clear()
    for length in (6, 7, 6):
        batched(jnp.ones(3), jnp.ones((length, 4)))
    assert len(traced) == 1  # the length 6 was known
    try:
        jax.jit(lambda x: x if x > 0 else -x)(1.0)
    except jax.errors.TracerBoolConversionError:
        assert jax.jit(lambda x: jnp.where(x > 0, x, -x))(-1.0) == 1.0
    else:
        raise AssertionError("Python's `if` cannot depend on a traced value")
    print("one program a shape, no copy of what is given up, and both ways of looking inside")


if __name__ == "__main__":
    main()
