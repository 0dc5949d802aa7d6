"""Sparse products: JAX's experimental BCOO, the engine's `matmul`, and the dense matrix give the same numbers.

The linked module is experimental still and slow to differentiate; the engine's product brings its own transpose rule,
so that gradients are two more products and no scatter. Which is fastest is a matter of measuring: see `benchmarks/`.
"""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.experimental import sparse

from eqx_graph import EdgeIndex
from eqx_graph.ops import matmul


def main() -> None:
    rng = np.random.default_rng(0)
    num_nodes, num_edges = 40, 200
    edge_index = rng.integers(0, num_nodes, (2, num_edges))
    edges = EdgeIndex.from_array(edge_index, num_senders=num_nodes, num_receivers=num_nodes)
    weight, x = jr.normal(jr.key(0), (num_edges,)), jr.normal(jr.key(1), (num_nodes, 8))
    senders, receivers = edge_index

    def by_engine(weight: jax.Array, x: jax.Array) -> jax.Array:
        return matmul(edges, edges.arrange(weight), x)

    def by_bcoo(weight: jax.Array, x: jax.Array) -> jax.Array:
        indices = jnp.stack([jnp.asarray(receivers), jnp.asarray(senders)], axis=1)
        return sparse.BCOO((weight, indices), shape=(num_nodes, num_nodes)) @ x

    def by_dense(weight: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.zeros((num_nodes, num_nodes)).at[receivers, senders].add(weight) @ x

    expected = by_dense(weight, x)
    expected_grads = jax.grad(lambda w, x: jnp.sum(by_dense(w, x) ** 2), (0, 1))(weight, x)
    for product in (by_engine, by_bcoo):
        np.testing.assert_allclose(jax.jit(product)(weight, x), expected, rtol=1e-4, atol=1e-4)
        grads = jax.grad(lambda w, x, p=product: jnp.sum(p(w, x) ** 2), (0, 1))(weight, x)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(grad, expected_grad, rtol=1e-3, atol=1e-3)
    print("engine, BCOO and dense agree in values and gradients")


if __name__ == "__main__":
    main()
