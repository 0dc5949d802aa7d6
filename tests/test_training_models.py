"""Models of both packages train by the same step; nothing in it knows of graphs, spikes or sequences."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

from eqx_dynamics import AbstractCell, scan
from eqx_dynamics.training import fit, make_step
from registry import CELLS, CONVS, EDGE_FEATURES, NUM_FEATURES
from test_models_basic import MODELS


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("light_compilation")]
EDGES = jnp.asarray([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
X = jr.normal(jr.key(0), (5, NUM_FEATURES))
VALUES = {"edge_weight": jnp.full(6, 0.5), "edge_attr": jr.normal(jr.key(1), (6, EDGE_FEATURES)), None: None}


def untrained(models: dict[str, Any], losses: dict[str, Callable], batch: Any) -> list[str]:
    """What two steps of all models in one program leave without a finite loss, with NaNs, or where it was."""

    def loss_fn(models, batch, key):
        values = {name: losses[name](model, batch, key) for name, model in models.items()}
        return sum(values.values()), values

    step = make_step(loss_fn, optax.adamw(1e-2), clip=1.0)
    before = step.init(models, key=jr.key(1))
    after, history = fit(before, step, [batch] * 2, steps=2)
    problems = []
    for name in models:
        pairs = zip(*(jtu.tree_leaves(step.split(s.model[name])[0]) for s in (before, after)), strict=True)
        moved = [(np.isfinite(new).all(), np.any(np.asarray(new) != old)) for old, new in jax.device_get(list(pairs))]
        if not np.isfinite(history[name]).all() or not all(finite for finite, _ in moved):
            problems.append(f"{name} is not finite")
        elif not any(moves for _, moves in moved):
            problems.append(f"{name} has not moved")
    return problems


def test_layers_and_stacks_of_graphs():
    makers = {name: conv.make for name, conv in CONVS.items()} | MODELS
    models = eqx.filter_jit(lambda key: {name: make(key) for name, make in makers.items()})(jr.key(0))
    models = {name: model for name, model in models.items() if any(map(eqx.is_inexact_array, jtu.tree_leaves(model)))}
    assert len(models) >= len(makers) - 3  # a few have nothing to train

    def loss_of(name):
        value = VALUES[CONVS[name].edge] if name in CONVS else None
        options = {} if name in CONVS else {"key": jr.key(3)}
        return lambda model, x, key: jnp.mean(model(x, EDGES, *([] if value is None else [value]), **options) ** 2)

    assert untrained(models, {name: loss_of(name) for name in models}, X) == []


class Driven(eqx.Module):
    """A layer and the cell that it drives, so that there is something to train whatever the cell."""

    linear: eqx.nn.Linear
    cell: AbstractCell


def test_cells():
    def driven(name):
        entry, size = CELLS[name], int(np.prod(CELLS[name].shape))
        return Driven(eqx.nn.Linear(size, size, key=jr.key(0)), entry.make(jr.key(1)))

    def loss_of(name):
        shape = CELLS[name].shape

        def loss(model, batch, key):
            flat = jnp.resize(batch, (4, int(np.prod(shape))))
            inputs = CELLS[name].scale * jax.vmap(model.linear)(flat).reshape(4, *shape)
            ys, _ = scan(model.cell, inputs, model.cell.init_state())
            return sum(jnp.mean(y**2) for y in jtu.tree_leaves(ys))

        return loss

    models = eqx.filter_jit(lambda: {name: driven(name) for name in CELLS})()
    assert untrained(models, {name: loss_of(name) for name in CELLS}, 3 + X) == []
