"""The migration checklist, its ten boxes ticked in one small model: latents that turn, seen through a decoder.

The document's boxes name Flax; in Equinox there is no `setup`, no `self.param` and no `apply`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax


class Rotation(eqx.Module):  # 1. `torch.nn.Module` -> `eqx.Module`
    matrix: jax.Array  # 2, 3. registration, `nn.Parameter` -> an array in a field
    decoder: eqx.nn.Linear

    def __init__(self, latent_size: int, out_size: int, *, key: jax.Array):
        matrix_key, decoder_key = jr.split(key)  # 7. `torch.manual_seed` -> keys, split and handed on
        self.matrix = jnp.eye(latent_size) + 0.1 * jr.normal(matrix_key, (latent_size, latent_size))
        self.decoder = eqx.nn.Linear(latent_size, out_size, key=decoder_key)

    def __call__(self, latents: jax.Array, num_steps: int) -> jax.Array:
        def step(latents: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            latents = self.matrix @ latents
            return latents, self.decoder(latents)

        return jax.lax.scan(step, latents, None, length=num_steps)[1]  # 8. a loop over time -> `scan`


def main() -> None:
    shapes = eqx.filter_eval_shape(lambda key: Rotation(2, 3, key=key), jr.key(0))  # 9. definition, without parameters
    assert isinstance(shapes.matrix, jax.ShapeDtypeStruct)
    model = Rotation(2, 3, key=jr.key(0))
    assert model.matrix.at[0, 0].set(5.0)[0, 0] == 5.0 != model.matrix[0, 0]  # 4. in place -> a new array

    turn = jnp.array([[0.8, -0.6], [0.6, 0.8]])
    truth = eqx.tree_at(lambda m: m.matrix, Rotation(2, 3, key=jr.key(1)), turn)
    start = jnp.array([1.0, 0.0])
    target = truth(start, 12)
    optimizer = optax.adam(3e-2)  # 5. `torch.optim.Adam` -> optax

    @eqx.filter_jit
    def train(model: Rotation) -> tuple[Rotation, jax.Array]:
        params, static = eqx.partition(model, eqx.is_array)

        def loss_fn(params: Rotation) -> jax.Array:
            return jnp.mean((eqx.combine(params, static)(start, 12) - target) ** 2)  # 10. `apply` -> call the module

        def update(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
            params, opt_state = carry
            loss, grads = jax.value_and_grad(loss_fn)(params)  # 6. `backward`, `step` -> gradient, update, new model
            updates, opt_state = optimizer.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), loss

        (params, _), losses = jax.lax.scan(update, (params, optimizer.init(params)), None, length=600)
        return eqx.combine(params, static), losses

    model, losses = train(model)
    assert losses[-1] < 1e-2 * losses[0]
    print(f"ten boxes; loss {losses[0]:.3f} -> {losses[-1]:.1e}")


if __name__ == "__main__":
    main()
