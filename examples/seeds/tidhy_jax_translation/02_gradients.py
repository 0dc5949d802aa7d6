"""`loss.backward(); optimizer.step(); optimizer.zero_grad()` as one function of the model.

In the document's linen translation inference inside the loss returned zeros, so only the decoder's bias had a gradient.
Here every array has one, while inference itself is constant to the loss: parameters frozen, latents stop-gradiented.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from eqx_dynamics import tidhy


def main() -> None:
    model = tidhy.TiDHy.recommended(6, 4, 3, 3, 7, key=jr.key(0))
    observations = jr.normal(jr.key(1), (3, 8, 6))
    loss_fn = tidhy.TiDHyLoss(tidhy.Inference())
    optimizer = optax.adam(1e-2)

    @eqx.filter_jit
    def update(model, opt_state):
        (loss, _), grads = eqx.filter_value_and_grad(loss_fn, has_aux=True)(model, observations, None)
        updates, opt_state = optimizer.update(grads, opt_state)
        return eqx.apply_updates(model, updates), opt_state, loss, grads

    opt_state, losses, grads = optimizer.init(eqx.filter(model, eqx.is_inexact_array)), [], None
    for _ in range(40):
        model, opt_state, loss, grads = update(model, opt_state)
        losses.append(float(loss))
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
    assert losses[-1] < 0.9 * losses[0]
    print(f"loss {losses[0]:.1f} -> {losses[-1]:.1f}, a gradient for each of {len(jax.tree.leaves(grads))} arrays")


if __name__ == "__main__":
    main()
