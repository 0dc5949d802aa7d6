"""Section 1.3: second derivatives and Jacobians, as nested modules.

The original prints nothing. At its time the Hessian came back with a list of one element around every block; in
brainstate 0.5.4 `hessian(loss, model.states())` raises KeyError for this very model.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from eqx_dynamics.transform import grad, hessian, hvp, jacfwd, jacobian


def loss_fn(model: eqx.nn.Linear, x: Array, y: Array) -> Array:
    return jnp.mean((y - eqx.filter_vmap(model)(x)) ** 2)


def errors(model: eqx.nn.Linear, x: Array, y: Array) -> Array:
    return (y - eqx.filter_vmap(model)(x)).ravel()


def main() -> None:
    model = eqx.nn.Linear(2, 3, key=jr.key(0))
    x, y = jnp.ones((1, 2)), jnp.ones((1, 3))

    hess = eqx.filter_jit(hessian(loss_fn))(model, x, y)
    assert hess.weight.bias.shape == (3, 2, 3) and hess.bias.weight.shape == (3, 3, 2)
    assert jnp.allclose(hess.bias.bias, 2 / 3 * jnp.eye(3), atol=1e-6)
    assert jnp.allclose(hess.weight.bias, jnp.moveaxis(hess.bias.weight, 0, 2), atol=1e-6)

    # Of a scalar loss the Jacobian is the gradient; of a vector it has one row for each output.
    assert eqx.tree_equal(jacobian(loss_fn)(model, x, y), grad(loss_fn)(model, x, y), rtol=1e-6, atol=1e-7)
    rows = eqx.filter_jit(jacobian(errors, lambda model: model.weight))(model, x, y)
    assert rows.shape == (3, 3, 2)
    assert jnp.allclose(rows, jacfwd(errors, lambda model: model.weight)(model, x, y), atol=1e-6)

    # Optimisation needs products with the Hessian, not the Hessian.
    direction = grad(loss_fn)(model, x, y)
    product = eqx.filter_jit(hvp(loss_fn))(direction, model, x, y)
    expected = jnp.tensordot(hess.bias.bias, direction.bias, 1) + jnp.tensordot(hess.bias.weight, direction.weight, 2)
    assert jnp.allclose(product.bias, expected, atol=1e-5)
    print("Hessian block (bias, bias):", hess.bias.bias, sep="\n")


if __name__ == "__main__":
    main()
