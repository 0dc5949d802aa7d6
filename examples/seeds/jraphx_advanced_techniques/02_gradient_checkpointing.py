"""A deep GNN in bounded memory: recompute the layers in the backward pass instead of keeping their activations.

The original puts layers in a Python list (which its framework refuses) and checkpoints every other one, which keeps
half of the activations anyway. Here the layers are built by `filter_vmap`, stacked, and run by one `lax.scan`: one
layer is compiled whatever the depth, and `eqx.filter_checkpoint` around it keeps only the states between layers.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from eqx_graph import Graph, batch
from eqx_graph.datasets import mutag
from eqx_graph.nn.conv import GCNConv


class DeepGNN(eqx.Module):
    layers: GCNConv  # every array has a leading axis of `depth`

    def __init__(self, depth: int, features: int, *, key: Array):
        self.layers = eqx.filter_vmap(lambda k: GCNConv(features, features, key=k))(jr.split(key, depth))

    def __call__(self, x: Array, graph: Graph, remember: bool) -> Array:
        weights, static = eqx.partition(self.layers, eqx.is_array)

        def layer(x: Array, weights: GCNConv) -> Array:
            return x + jnp.tanh(eqx.combine(weights, static)(x, graph.edge_index))

        run = layer if remember else eqx.filter_checkpoint(layer)
        return jax.lax.scan(lambda x, w: (run(x, w), None), x, weights)[0]


def main() -> None:
    graph = jax.device_put(batch(mutag()[:32], compressed=True))
    x = jr.normal(jr.key(1), (graph.num_nodes, 16))
    model = DeepGNN(24, 16, key=jr.key(0))

    def loss(model: DeepGNN, x: Array, graph: Graph, remember: bool) -> Array:
        return jnp.mean(model(x, graph, remember) ** 2)

    gradients, memory = [], []
    for remember in (True, False):
        compiled = eqx.filter_jit(eqx.filter_grad(loss)).lower(model, x, graph, remember).compile()
        gradients.append(compiled(model, x, graph, remember))
        memory.append(compiled.compiled.memory_analysis().temp_size_in_bytes)
    for kept, recomputed in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(kept, recomputed, rtol=1e-4, atol=1e-6)
    assert memory[1] < 0.8 * memory[0]
    print(f"temporary memory {memory[0] / 1e6:.2f} MB -> {memory[1] / 1e6:.2f} MB, same gradients")


if __name__ == "__main__":
    main()
