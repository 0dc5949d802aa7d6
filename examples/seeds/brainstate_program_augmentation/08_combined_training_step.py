"""Section 4: vmap, gradient, optimiser and jit in one training step of the LIF network.

In the original no neuron fires in its single 0.1 ms step, so its printed loss, 0.32209805, is the mean of its random
targets squared; gradients flow all the same, through the surrogate,
which is not zero where the membrane is above rest. Its Adam leaves optax's after the first step: the
bias correction stays that of step one.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, PRNGKeyArray

from eqx_dynamics import Sequential
from eqx_dynamics.spiking import LIFCell
from eqx_dynamics.training import make_step
from eqx_dynamics.transform import grad, init_states, select


def loss_fn(net: Sequential, batch: tuple[Array, Array], key: PRNGKeyArray) -> Array:
    """One step of five networks with their own states and shared parameters."""
    x, y = batch
    states = init_states(net, jr.split(key, x.shape[0]))
    spikes, _ = eqx.filter_vmap(net)(x, states)
    return jnp.mean((y - spikes) ** 2)


def main() -> None:
    net = Sequential([eqx.nn.Linear(2, 3, key=jr.key(0)), LIFCell.like_brainstate(3, dt=0.1)])
    xs = (jr.uniform(jr.key(1), (5, 2)) < 0.5).astype(jnp.float32)
    ys = jr.uniform(jr.key(2), (5, 3))

    step = make_step(loss_fn, optax.adam(1e-3))  # A cell: (batch, state) -> (metrics, state).
    state = step.init(net, key=jr.key(3))
    metrics, after = eqx.filter_jit(step)((xs, ys), state)
    print(metrics["loss"])
    assert jnp.allclose(metrics["loss"], jnp.mean(ys**2))

    # The same by hand: gradient with its value, then optax.
    @eqx.filter_jit
    def batch_train(net: Sequential, opt_state: optax.OptState) -> tuple[Array, Sequential]:
        grads, loss = grad(loss_fn, return_value=True)(net, (xs, ys), jr.key(3))
        updates, _ = optax.adam(1e-3).update(grads, opt_state)
        return loss, eqx.apply_updates(net, updates)

    loss, by_hand = batch_train(net, optax.adam(1e-3).init(eqx.filter(net, eqx.is_inexact_array)))
    assert eqx.tree_equal(after.model, by_hand, rtol=1e-6, atol=1e-7)
    new, old = (jax.tree.leaves(eqx.filter(model, select(model, "layers.0.bias")))[0] for model in (by_hand, net))
    moved = jnp.abs(new - old)
    assert jnp.allclose(moved.max(), 1e-3, rtol=0.05)  # Adam's first step is about the learning rate.
    assert jnp.allclose(loss, metrics["loss"])


if __name__ == "__main__":
    main()
