"""Gradients that were not found by backpropagation, in the place of those that would be."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


Model = TypeVar("Model")


def with_gradient(value_and_grad: Callable[..., tuple[Array, PyTree]], model: PyTree, *args: Any) -> Float[Array, ""]:
    r"""The loss of an estimator, as a function of `model` whose derivative is the estimate.

    So that an estimator goes wherever a loss goes: `make_step(lambda model, batch, key: with_gradient(eprop, model,
    *batch, loss), optimizer)`. The value is $\ell$ and the gradient $g$ for `value_and_grad(model, *args)` $= (\ell,
    g)$. Reverse mode, first order; nothing but `model` has a derivative.

    **Arguments:**

    - `value_and_grad`: `(model, *args) -> (loss, gradient)`, the gradient a pytree like `model`, zero where nothing
      is trained.
    - `model`, `args`: what it is called with.

    **Returns:** the loss.
    """
    params = eqx.filter(model, eqx.is_inexact_array)
    held = jtu.tree_map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, model)
    loss, grads = value_and_grad(held, *args)
    moved = jtu.tree_map(
        lambda p, g: jnp.vdot(jax.lax.stop_gradient(g), p - jax.lax.stop_gradient(p)).astype(loss.dtype),
        params,
        eqx.filter(grads, eqx.is_inexact_array),
    )
    return sum(jtu.tree_leaves(moved), start=jax.lax.stop_gradient(loss))


def forward_gradient(
    loss_fn: Callable[..., Float[Array, ""]],
    model: Model,
    *args: Any,
    key: PRNGKeyArray,
    num_directions: int = 1,
) -> tuple[Float[Array, ""], Model]:
    r"""A directional derivative along a random direction, times that direction: the gradient on average.

    $g = (\nabla \ell \cdot v)\, v$ with $v \sim \mathcal N(0, 1)$, so $E[g] = \nabla \ell$. One pass in forward mode:
    nothing is kept of the past, however long the sequence. The variance grows with the number of parameters; averaging
    $n$ directions divides it by $n$.

    **Arguments:**

    - `loss_fn`: `(model, *args) -> loss`, a scalar.
    - `model`: differentiated with respect to its floating arrays.
    - `args`: passed on.
    - `key`: draws the directions.
    - `num_directions`: how many, one after another.

    **Returns:** the loss, and the estimate: a pytree like `model`, None where it has no floating array.

    **Raises:** `ValueError` if `num_directions` is not positive.

    ??? cite "Reference"
        Baydin, Pearlmutter, Syme, Wood and Torr, Gradients without backpropagation, 2022, arXiv 2202.08587.
    """
    if num_directions < 1:
        raise ValueError(f"`num_directions` must be at least 1; got {num_directions}.")
    params, static = eqx.partition(model, eqx.is_inexact_array)
    leaves, treedef = jtu.tree_flatten(params)

    def one(total: PyTree, key: PRNGKeyArray) -> tuple[PyTree, Array]:
        keys = jr.split(key, len(leaves))
        draws = [jr.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        direction = jtu.tree_unflatten(treedef, draws)
        loss, slope = jax.jvp(lambda p: loss_fn(eqx.combine(p, static), *args), (params,), (direction,))
        return jtu.tree_map(lambda t, v: t + (slope / num_directions).astype(v.dtype) * v, total, direction), loss

    grads, losses = jax.lax.scan(one, jtu.tree_map(jnp.zeros_like, params), jr.split(key, num_directions))
    return losses[0], grads
