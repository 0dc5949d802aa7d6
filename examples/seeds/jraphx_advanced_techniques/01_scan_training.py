"""Training inside `lax.scan`: every step of an epoch in one call to the device.

The original scans over `jnp.array` of (epoch, graph) tuples, which is no array and fails, and never imports what it
uses. A scan needs equal shapes: pad every batch of graphs to one budget and stack them. The step is a cell, so scanning
it is `fit`; the numbers are those of a Python loop over the same step.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from eqx_dynamics.training import ArrayData, fit, make_step
from eqx_graph import Graph
from eqx_graph.data import PaddingBudget, dynamic_batch
from eqx_graph.datasets import mutag
from eqx_graph.nn.conv import GCNConv
from eqx_graph.nn.pool import global_mean_pool


class Classifier(eqx.Module):
    conv: GCNConv
    readout: eqx.nn.Linear

    def __call__(self, graph: Graph) -> Array:
        x = jax.nn.relu(self.conv(graph.x, graph.edge_index))
        return jax.vmap(self.readout)(global_mean_pool(x, graph.batch, graph.num_graphs))


def loss_fn(model: Classifier, batch: Graph, key: PRNGKeyArray) -> Array:
    graph = jax.tree.map(lambda a: a[0], batch)  # batches of one padded union each
    losses = optax.softmax_cross_entropy_with_integer_labels(model(graph), graph.y)
    return jnp.sum(losses * graph.graph_mask) / jnp.sum(graph.graph_mask)


def main() -> None:
    graphs = mutag()
    budget = PaddingBudget.fit(graphs, batch_size=48, max_waste=0.5)
    unions = list(dynamic_batch(graphs, budget))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *unions)

    keys = jr.split(jr.key(0))
    model = Classifier(GCNConv(7, 16, key=keys[0]), eqx.nn.Linear(16, 2, key=keys[1]))
    step = make_step(loss_fn, optax.adam(1e-2))
    start = step.init(model, key=jr.key(1))

    _, history = fit(start, step, ArrayData(stacked, batch_size=1, shuffle=False), epochs=15)
    assert history["loss"][-1] < history["loss"][0]

    state, losses = start, []
    jitted = eqx.filter_jit(step)
    for _ in range(2):
        for union in unions:
            metrics, state = jitted(jax.tree.map(lambda a: jnp.asarray(a)[None], union), state)
            losses.append(float(metrics["loss"]))
    looped = np.reshape(losses, (2, -1)).mean(axis=1)
    np.testing.assert_allclose(history["loss"][:2], looped, rtol=1e-4)
    print(f"loss {history['loss'][0]:.3f} -> {history['loss'][-1]:.3f}, {len(unions)} batches an epoch in one scan")


if __name__ == "__main__":
    main()
