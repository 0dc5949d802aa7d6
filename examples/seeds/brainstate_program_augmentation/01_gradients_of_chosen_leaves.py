"""Section 1.1-1.2: gradients with respect to chosen parameters; the order is always (gradients, value, aux).

The original's `return_value` snippet forgets both `return_value=True` and the call on `(x, y)`. Its model is found
through a closure and its parameters through a registry; here the model is an argument and `wrt` chooses from it.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from eqx_dynamics.transform import grad


def loss_fn(model: eqx.nn.Linear, x: Float[Array, "batch 2"], y: Float[Array, "batch 3"]) -> Float[Array, ""]:
    return jnp.mean((y - eqx.filter_vmap(model)(x)) ** 2)


def with_aux(model: eqx.nn.Linear, x: Array, y: Array) -> tuple[Array, Array]:
    prediction = eqx.filter_vmap(model)(x)
    return jnp.mean((y - prediction) ** 2), prediction


def main() -> None:
    model = eqx.nn.Linear(2, 3, key=jr.key(0))
    x, y = jnp.ones((1, 2)), jnp.ones((1, 3))

    grads = grad(loss_fn)(model, x, y)  # The structure of the model.
    print("Gradients:", grads.bias, grads.weight)
    # What the original prints obeys the same identity, since x is all ones: d/db = 2/3 (prediction - 1), and the
    # gradient of every weight into one output is that of its bias.
    expected = 2 / 3 * (model(x[0]) - 1)
    assert jnp.allclose(grads.bias, expected, atol=1e-6)
    assert jnp.allclose(grads.weight, jnp.stack([expected, expected], axis=1), atol=1e-6)

    grads, loss = grad(loss_fn, return_value=True)(model, x, y)
    assert jnp.allclose(loss, loss_fn(model, x, y))
    grads, prediction = grad(with_aux, has_aux=True)(model, x, y)
    assert prediction.shape == (1, 3)
    grads, loss, prediction = grad(with_aux, return_value=True, has_aux=True)(model, x, y)

    # Some of the parameters: a path, a type, a predicate, or a function to the nodes, whose structure comes back.
    assert grad(loss_fn, "bias")(model, x, y).weight is None
    bias = grad(loss_fn, lambda model: model.bias)(model, x, y)
    assert isinstance(bias, jnp.ndarray) and jnp.allclose(bias, expected, atol=1e-6)


if __name__ == "__main__":
    main()
