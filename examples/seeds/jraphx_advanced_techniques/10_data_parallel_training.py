"""Data parallel training on graphs: one padded sub-batch per device.

The original calls `jax.tree_map`, which is gone; `pmap` then maps the model's parameters along axis 0, and with
`in_axes=None` it runs but trains nothing, since updates inside `pmap` never leave it. Here parameters are replicated,
stacked sub-batches are split over a mesh, and the numbers are those of one device.
"""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from eqx_dynamics.parallel import data_mesh, stacked
from eqx_dynamics.training import fit, make_step
from eqx_graph import Graph, batch
from eqx_graph.data import PaddingBudget
from eqx_graph.datasets import mutag
from eqx_graph.nn.conv import GCNConv
from eqx_graph.nn.pool import global_mean_pool


class Classifier(eqx.Module):
    conv: GCNConv
    readout: eqx.nn.Linear


def loss_fn(model: Classifier, graph: Graph, key: PRNGKeyArray) -> Array:
    x = jax.nn.relu(model.conv(graph.x, graph.edge_index))
    logits = jax.vmap(model.readout)(global_mean_pool(x, graph.batch, graph.num_graphs))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, graph.y)
    return jnp.sum(losses * graph.graph_mask) / jnp.sum(graph.graph_mask)


def main() -> None:
    with contextlib.suppress(RuntimeError):  # devices can be chosen only before the first use of JAX
        jax.config.update("jax_num_cpu_devices", 2)
    num_devices = jax.device_count()
    graphs, budget = mutag()[: 20 * num_devices], PaddingBudget(num_nodes=640, num_edges=1280, num_graphs=21)
    parts = [batch(graphs[20 * d : 20 * d + 20], budget) for d in range(num_devices)]
    stack: Graph = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)

    keys = jr.split(jr.key(0))
    model = Classifier(GCNConv(7, 8, key=keys[0]), eqx.nn.Linear(8, 2, key=keys[1]))
    histories, models = [], []
    for mesh in (None, data_mesh()):
        step = make_step(stacked(loss_fn), optax.adam(1e-2), mesh=mesh)
        state, history = fit(step.init(model, key=jr.key(1)), step, [stack] * 10, steps=10, steps_per_dispatch=5)
        histories.append(history["loss"])
        models.append(state.model)
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-5)
    moved = jnp.abs(models[1].readout.weight - model.readout.weight).max()
    assert moved > 0.01  # it trains
    np.testing.assert_allclose(models[0].readout.weight, models[1].readout.weight, atol=1e-5)
    print(f"{num_devices} devices equal one: loss {histories[1][0]:.4f} -> {histories[1][-1]:.4f}")


if __name__ == "__main__":
    main()
