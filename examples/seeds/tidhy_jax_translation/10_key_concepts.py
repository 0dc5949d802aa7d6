"""The five "key JAX concepts": pure functions, immutability, keys, compilation, vectorisation, on this model."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_dynamics import tidhy


def main() -> None:
    model = tidhy.TiDHy.recommended(6, 4, 3, 3, 7, key=jr.key(0))
    observations = jr.normal(jr.key(1), (3, 5, 6))

    infer = eqx.filter_jit(tidhy.infer)
    one, two = infer(model, observations), infer(model, observations)
    assert eqx.tree_equal(one, two)  # pure: the same inputs, the same outputs

    try:
        model.latent_size = 5
    except dataclasses.FrozenInstanceError:
        pass
    else:
        raise AssertionError("modules are immutable")

    start = tidhy.JointStart(tidhy.SgdNesterov())
    draws = [start.context((3,), jnp.dtype("float32"), key) for key in (jr.key(0), jr.key(0), jr.key(1))]
    assert (draws[0] == draws[1]).all() and not (draws[0] == draws[2]).all()  # randomness is in the key

    make = eqx.filter_jit(eqx.filter_vmap(lambda key: tidhy.TiDHy.recommended(6, 4, 3, 3, 7, key=key)))
    models = make(jax.vmap(jr.key)(jnp.arange(4)))
    many, _ = eqx.filter_jit(eqx.filter_vmap(tidhy.infer, in_axes=(eqx.if_array(0), None)))(models, observations[1])
    assert many.latents.shape == (4, 5, 4)  # four models, one program
    # A model of the ensemble is the model alone, and a sequence of the batch is the sequence alone.
    assert jnp.allclose(many.latents[0], one[0].latents[1], rtol=1e-3, atol=1e-4)
    print(f"pure, immutable, keyed, compiled, vectorised on {jax.default_backend()}")


if __name__ == "__main__":
    main()
