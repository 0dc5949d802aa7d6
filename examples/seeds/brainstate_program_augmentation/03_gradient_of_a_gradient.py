"""Section 1.4: composing gradients.

The original's `composite_grad` takes the gradient of a gradient function. It is never called there, and calling it
raises TypeError, since a gradient is no scalar: either reduce it to one (a norm, a product with a vector), or ask for
all of it with `vector_grad`, `jacobian` or `hessian`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from eqx_dynamics.transform import grad, hvp, jacobian, vector_grad


def loss_fn(model: eqx.nn.MLP, x: Array, y: Array) -> Array:
    return jnp.mean((y - eqx.filter_vmap(model)(x)) ** 2)


def gradient_penalty(model: eqx.nn.MLP, x: Array, y: Array) -> Array:
    """The squared norm of the gradient: a scalar made of a gradient."""
    return sum((jnp.sum(g**2) for g in jax.tree.leaves(grad(loss_fn)(model, x, y))), start=jnp.zeros(()))


def main() -> None:
    model = eqx.nn.MLP(2, 3, 8, 1, activation=jnp.tanh, key=jr.key(0))
    x, y = jnp.ones((4, 2)), jnp.ones((4, 3))

    try:
        grad(grad(loss_fn))(model, x, y)
    except ValueError as error:
        assert "must return one real scalar" in str(error)
        print("as in the original:", str(error)[:93], "...")
    else:
        raise AssertionError("the gradient of a gradient must be refused")

    through_norm = eqx.filter_jit(grad(gradient_penalty))(model, x, y)
    by_product = eqx.filter_jit(hvp(loss_fn))(grad(loss_fn)(model, x, y), model, x, y)  # d|g|^2 = 2 H g
    twice = jax.tree.map(lambda leaf: 2 * leaf, by_product)
    assert eqx.tree_equal(through_norm, twice, rtol=1e-3, atol=1e-6)

    bias = lambda model: model.layers[0].bias  # noqa: E731
    rows = eqx.filter_jit(jacobian(grad(loss_fn, bias), bias))(model, x, y)
    assert rows.shape == (8, 8) and jnp.allclose(rows, rows.T, atol=1e-6)
    column_sums = eqx.filter_jit(vector_grad(grad(loss_fn, bias), bias))(model, x, y)
    assert jnp.allclose(column_sums, rows.sum(0), atol=1e-6)


if __name__ == "__main__":
    main()
