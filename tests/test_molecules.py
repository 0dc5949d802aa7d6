"""The MUTAG demonstration is honest: stratified folds, and no test graph reaches its own fold's model."""

import dataclasses
import pathlib
import runpy

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_graph import batch
from eqx_graph.datasets import mutag


EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "molecules.py"


def test_folds_are_stratified() -> None:
    make_folds = runpy.run_path(str(EXAMPLE))["make_folds"]
    labels = np.concatenate([np.asarray(g.y) for g in mutag()])
    fold = make_folds(labels, 10, np.random.default_rng(0))
    assert sorted(set(fold.tolist())) == list(range(10))
    for k in range(10):
        assert 18 <= (fold == k).sum() <= 20
        assert 12 <= (labels[fold == k] == 1).sum() <= 13


@pytest.mark.slow
def test_test_folds_choose_nothing() -> None:
    """Flipping the labels of fold 0's test graphs leaves fold 0's gradient as it is, and changes the other folds'."""
    example = runpy.run_path(str(EXAMPLE))
    graph = batch(mutag()[:12])
    fold = np.arange(12) % 3
    is_train = jnp.asarray(fold[None] != np.arange(3)[:, None], jnp.float32)
    flipped = dataclasses.replace(graph, y=np.where(fold == 0, 1 - np.asarray(graph.y), graph.y))
    config = example["Config"](num_folds=3, hidden_features=4, num_layers=1)
    models = eqx.filter_vmap(lambda key: example["GIN"](7, config, key=key))(jr.split(jr.key(0), 3))

    @eqx.filter_jit
    def gradient(graph):
        stacked = jax.tree.map(lambda a: jnp.asarray(a)[None], (graph, is_train))
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return jax.tree.leaves(eqx.filter_grad(example["loss_fn"])(models, stacked, jr.key(1)))

    before, after = gradient(graph), gradient(flipped)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    assert any(np.abs(np.asarray(a[1] - b[1])).max() > 1e-3 for a, b in zip(before, after, strict=True))
