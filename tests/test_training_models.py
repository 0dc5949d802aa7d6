"""Models of both packages train by the same step; nothing in it knows of graphs, spikes or sequences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

from eqx_dynamics import AbstractCell, scan
from eqx_dynamics.training import make_step
from registry import CELLS, CONVS, EDGE_FEATURES, NUM_FEATURES


EDGES = jnp.asarray([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
X = jr.normal(jr.key(0), (5, NUM_FEATURES))
VALUES = {"edge_weight": jnp.full(6, 0.5), "edge_attr": jr.normal(jr.key(1), (6, EDGE_FEATURES)), None: None}


def has_parameters(model) -> bool:
    return any(map(eqx.is_inexact_array, jtu.tree_leaves(model)))


def check_traced(step, batch, state):
    """The step can be scanned: it gives a scalar loss, and a state of the same shapes and dtypes."""
    metrics, after = eqx.filter_eval_shape(step, batch, state)
    assert metrics["loss"].shape == ()
    shapes = [
        [(leaf.shape, leaf.dtype) for leaf in jtu.tree_leaves(tree) if hasattr(leaf, "shape")]
        for tree in (state, after)
    ]
    assert shapes[0] == shapes[1]


CONVS_WITH_PARAMETERS = [name for name, conv in CONVS.items() if has_parameters(conv.make(jr.key(0)))]


@pytest.mark.parametrize("name", CONVS_WITH_PARAMETERS)
def test_layers_of_graphs(name):
    conv = CONVS[name]

    def loss_fn(model, batch, key):
        x, value = batch
        return jnp.mean(model(x, EDGES, *([] if value is None else [value])) ** 2)

    step = make_step(loss_fn, optax.adamw(1e-2), clip=1.0)
    state = step.init(conv.make(jr.key(0)), key=jr.key(1))
    check_traced(step, (X, VALUES[conv.edge]), state)


class Driven(eqx.Module):
    """A layer and the cell that it drives, so that there is something to train whatever the cell."""

    linear: eqx.nn.Linear
    cell: AbstractCell


@pytest.mark.parametrize("name", list(CELLS))
def test_cells(name):
    entry = CELLS[name]
    xs = jr.normal(jr.key(2), (4, *entry.shape))

    def loss_fn(model, batch, key):
        inputs = jax.vmap(model.linear)(batch.reshape(4, -1)).reshape(batch.shape)
        ys, _ = scan(model.cell, inputs, model.cell.init_state())
        return sum(jnp.mean(y**2) for y in jtu.tree_leaves(ys))

    size = int(np.prod(entry.shape))
    model = Driven(eqx.nn.Linear(size, size, key=jr.key(0)), entry.make(jr.key(1)))
    step = make_step(loss_fn, optax.adamw(1e-2), clip=1.0)
    state = step.init(model, key=jr.key(1))
    check_traced(step, xs, state)
