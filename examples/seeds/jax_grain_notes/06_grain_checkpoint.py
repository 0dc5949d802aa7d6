"""Model and data position in ONE checkpoint: resume, and the losses are those of the run that was never interrupted.

The notes save the iterator alone, with a misspelled argument (`arge=`) and module (`orbax.checkpoin`). Saved apart,
model and data can disagree after a crash; `Composite` writes both in one step. Here the data are padded graph batches.
"""

import pathlib
import tempfile

import equinox as eqx
import grain
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import orbax.checkpoint as ocp
from jaxtyping import Array, PRNGKeyArray

from eqx_dynamics.training import TrainState, make_step
from eqx_graph import Graph
from eqx_graph.data import PaddingBudget
from eqx_graph.datasets import mutag
from eqx_graph.loader import graph_loader
from eqx_graph.nn.conv import GINConv
from eqx_graph.nn.pool import global_add_pool


class Classifier(eqx.Module):
    conv: GINConv
    readout: eqx.nn.Linear


def loss_fn(model: Classifier, graph: Graph, key: PRNGKeyArray) -> Array:
    x = model.conv(graph.x, graph.edge_index) * jr.bernoulli(key, 0.9, (graph.num_nodes, 1))
    logits = jax.vmap(model.readout)(global_add_pool(x, graph.batch, graph.num_graphs))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, graph.y)
    return jnp.sum(losses * graph.graph_mask) / jnp.sum(graph.graph_mask)


def main() -> None:
    graphs = mutag()[:64]
    loader = graph_loader(graphs, PaddingBudget.fit(graphs, 16, max_waste=0.6), seed=3)
    keys = jr.split(jr.key(0))
    model = Classifier(GINConv(eqx.nn.Linear(7, 8, key=keys[0])), eqx.nn.Linear(8, 2, key=keys[1]))
    step = make_step(loss_fn, optax.adam(1e-2))
    jitted = eqx.filter_jit(step)

    def train(state: TrainState, batches: grain.DatasetIterator, num_steps: int) -> tuple[TrainState, list[float]]:
        losses = []
        for _ in range(num_steps):
            metrics, state = jitted(next(batches), state)
            losses.append(float(metrics["loss"]))
        return state, losses

    with tempfile.TemporaryDirectory() as folder, ocp.CheckpointManager(pathlib.Path(folder)) as manager:
        batches = iter(loader)
        state, _ = train(step.init(model, key=jr.key(1)), batches, 5)
        arrays, static = eqx.partition(state, eqx.is_array)
        items = ocp.args.Composite(train=ocp.args.StandardSave(arrays), data=grain.checkpoint.CheckpointSave(batches))
        manager.save(5, args=items)
        manager.wait_until_finished()
        _, uninterrupted = train(state, batches, 5)

        fresh = iter(loader)
        wanted = ocp.args.Composite(
            train=ocp.args.StandardRestore(arrays), data=grain.checkpoint.CheckpointRestore(fresh)
        )
        restored = manager.restore(manager.latest_step(), args=wanted)
        _, resumed = train(eqx.combine(restored["train"], static), restored["data"], 5)
    assert resumed == uninterrupted  # bit by bit, dropout included
    print(f"losses after the checkpoint, twice: {[round(v, 4) for v in resumed]}")


if __name__ == "__main__":
    main()
