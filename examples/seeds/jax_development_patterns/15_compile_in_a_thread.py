"""Yes, a function can be compiled before its first run, in another thread, while the main thread goes on.

As the document advises. Tracing is Python and stays here; XLA's compilation runs without Python's lock.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from eqx_dynamics.transform import compile_ahead


def main() -> None:
    model = eqx.nn.MLP(16, 16, 64, 16, activation=jnp.tanh, key=jr.key(0))
    x = jr.normal(jr.key(1), (8, 16))

    def loss_and_gradient(model: eqx.nn.MLP, x: jax.Array):
        return eqx.filter_value_and_grad(lambda m: jnp.mean(jax.vmap(m)(x) ** 2))(model)

    future = compile_ahead(loss_and_gradient, model, jax.ShapeDtypeStruct(x.shape, x.dtype))  # no data needed yet
    ticks, start = 0, time.perf_counter()
    while not future.done():
        ticks += 1  # the main thread reads files, answers requests, ...
        time.sleep(0.001)
    seconds = time.perf_counter() - start
    assert ticks >= min(3, 100 * seconds), "the main thread must keep running"  # from the disk cache it takes no time

    (loss, gradient) = future.result()(model, x)
    expected, expected_gradient = loss_and_gradient(model, x)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(gradient.layers[0].weight, expected_gradient.layers[0].weight, rtol=1e-2, atol=1e-6)
    print(f"the main thread ticked {ticks} times in the {seconds:.2f} s of compilation")


if __name__ == "__main__":
    main()
