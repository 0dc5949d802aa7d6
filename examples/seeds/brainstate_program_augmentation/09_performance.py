"""Section 5: batch size, gradient accumulation, cached compilation and memory, each as a number.

1. Batch size: what a batch costs in memory is known before it runs, from the compiler.
2. Gradient accumulation: several small batches give the gradient of the large one.
3. Cached compilation: one trace for equal shapes. Compile before the data arrives, and keep programs between
   processes (`enable_compilation_cache(path)`).
4. `jax.device_get` only copies to the host; it frees nothing, as the original believes. What frees device memory is
   dropping the last reference, or donating the buffer.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from eqx_dynamics.training import make_step
from eqx_dynamics.transform import compile_ahead, grad


def loss_fn(model: eqx.nn.MLP, batch: tuple[Array, Array], key: PRNGKeyArray) -> Array:
    return jnp.mean((batch[1] - eqx.filter_vmap(model)(batch[0])) ** 2)


def main() -> None:
    model = eqx.nn.MLP(8, 1, 64, 2, activation=jnp.tanh, key=jr.key(0))
    x = jr.normal(jr.key(1), (512, 8))
    batch = (x, jnp.sin(x.sum(axis=1, keepdims=True)))

    # 1 and 3. Compiled in the background from shapes alone; the plan tells the memory of a batch.
    def example(size: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        return jax.ShapeDtypeStruct((size, 8), jnp.float32), jax.ShapeDtypeStruct((size, 1), jnp.float32)

    futures = {size: compile_ahead(grad(loss_fn), model, example(size), jr.key(0)) for size in (64, 512)}
    memory = {size: future.result().memory_in_bytes() for size, future in futures.items()}
    print("temporary memory of a gradient:", memory)
    assert memory[512] > 4 * memory[64]

    # 2. Eight batches of 64 or one of 512.
    whole = make_step(loss_fn, optax.sgd(0.1))
    parts = make_step(loss_fn, optax.sgd(0.1), accumulate=8)
    after = [eqx.filter_jit(step)(batch, step.init(model, key=jr.key(0)))[1].model for step in (whole, parts)]
    assert eqx.tree_equal(*after, rtol=1e-5, atol=1e-6)

    # 3. Equal shapes share one program; a Python number as argument would compile for every value.
    traced = eqx.filter_jit(eqx.debug.assert_max_traces(lambda model, x, scale: scale * model(x), max_traces=1))
    for scale in (0.1, 0.2, 0.3):
        traced(model, x[0], jnp.asarray(scale))

    # 4. After `device_get` the device still holds its buffer; a donated one is free for the result.
    held = jnp.ones((256, 256))
    on_host = jax.device_get(held)
    assert isinstance(on_host, np.ndarray) and not held.is_deleted()
    given = jnp.ones((256, 256))
    doubled = jax.jit(lambda a: 2 * a, donate_argnums=0)(given)
    assert given.is_deleted() and doubled[0, 0] == 2


if __name__ == "__main__":
    main()
