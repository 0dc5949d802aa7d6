"""Section 6: printing gradients from inside a compiled training step, and checks that stop it.

`jax.debug.print` works unchanged under jit, vmap, grad and scan. `eqx.error_if` is what to reach for when a value must
not occur: the step stops with the message.
"""

import contextlib
import io

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array

from eqx_dynamics.transform import grad


def loss_fn(model: eqx.nn.Linear, x: Array, y: Array) -> Array:
    return jnp.mean((y - eqx.filter_vmap(model)(x)) ** 2)


@eqx.filter_jit
def batch_train(model: eqx.nn.Linear, opt_state: optax.OptState, x: Array, y: Array) -> tuple[Array, eqx.nn.Linear]:
    grads, loss = grad(loss_fn, return_value=True)(model, x, y)
    jax.debug.print("Gradients: {g}", g=grads.bias)
    loss = eqx.error_if(loss, loss > 100, "`loss` is larger than 100: look at the targets.")
    updates, _ = optax.adam(1e-3).update(grads, opt_state)
    return loss, eqx.apply_updates(model, updates)


def main() -> None:
    model = eqx.nn.Linear(2, 3, key=jr.key(0))
    opt_state = optax.adam(1e-3).init(eqx.filter(model, eqx.is_inexact_array))
    x, y = jnp.ones((5, 2)), jnp.ones((5, 3))

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        batch_train(model, opt_state, x, y)
        jax.effects_barrier()
    bias = grad(loss_fn, lambda model: model.bias)(model, x, y)
    name, values = printed.getvalue().strip().rstrip("]").split(" [")
    assert name == "Gradients:" and jnp.allclose(jnp.array([float(v) for v in values.split()]), bias, rtol=1e-5)
    print(printed.getvalue().strip())

    try:
        batch_train(model, opt_state, x, 100 * y)
    except Exception as error:  # An XLA run-time error on some versions, Equinox's own on others.
        assert "larger than 100" in str(error)
    else:
        raise AssertionError("the check must fire")


if __name__ == "__main__":
    main()
