"""A model is a pytree: parameters are fields, "apply" is a call, and nothing is stored in it.

The document separates a Flax module from its variables; an Equinox module is its own variables. What the PyTorch
original kept inside (latents, optimiser state, counters) is passed in and out.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_dynamics import tidhy


def main() -> None:
    model = tidhy.TiDHy.original(6, 4, 3, 3, 7, key=jr.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    assert all(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(params))
    latents, context = jnp.ones(4), jnp.ones(3)
    same = eqx.combine(params, static).predict(latents, context)
    assert (same == model.predict(latents, context)).all()

    doubled = eqx.tree_at(lambda m: m.transition.basis, model, 2 * model.transition.transition_basis)
    assert jnp.allclose(doubled.predict(latents, context), 2 * same)
    assert (model.predict(latents, context) == same).all()  # the first model did not change
    print(f"{sum(leaf.size for leaf in jax.tree.leaves(params))} parameters, none of them hidden")


if __name__ == "__main__":
    main()
