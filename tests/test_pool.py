"""Readouts: PyG's numbers, padding, and graphs without nodes."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_graph import Graph, batch, pad
from eqx_graph.data import PaddingBudget
from eqx_graph.nn.pool import global_add_pool, global_max_pool, global_mean_pool, global_min_pool


REFERENCE = pathlib.Path(__file__).parent / "reference" / "pyg"
POOLS = {"add": global_add_pool, "mean": global_mean_pool, "max": global_max_pool}


@pytest.mark.parametrize("name", POOLS)
def test_equals_pyg(name: str) -> None:
    """Values and gradients in float64: by graph, one graph, and with two empty graphs at the end (`size=5`)."""
    pool = POOLS[name]
    with np.load(REFERENCE / f"global_{name}_pool.npz") as file, jax.enable_x64():
        x, ids = jnp.asarray(file["in.batch.x"], jnp.float64), jnp.asarray(file["in.batch.batch"])
        for case, (batch_ids, num_graphs) in enumerate([(ids, None), (None, None), (ids, 5)]):
            out, pullback = jax.vjp(lambda x, b=batch_ids, n=num_graphs: pool(x, b, n), x)
            np.testing.assert_allclose(out, file[f"c{case}.out.0"], rtol=0, atol=1e-12)
            (grad,) = pullback(jnp.asarray(file[f"c{case}.cot.0"], jnp.float64))
            np.testing.assert_allclose(grad, file[f"c{case}.gin.x"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("pool", [*POOLS.values(), global_min_pool])
def test_padding_changes_nothing(pool) -> None:
    """Real rows and their gradients are those of the graphs one by one, under jit, with garbage in the padding."""
    rng = np.random.default_rng(0)
    graphs = [Graph.from_edge_index([[0], [0]], rng.normal(size=(n, 2)).astype(np.float32)) for n in (3, 1, 4)]
    padded = pad(batch(graphs), PaddingBudget(12, 6, 6))
    garbage = jnp.where(jnp.asarray(padded.node_mask)[:, None], jnp.asarray(padded.x), 1e9)

    @eqx.filter_jit
    def pooled(x, graph):
        out = pool(x, graph.batch, graph.num_graphs)
        return jnp.sum(jnp.where(graph.graph_mask[:, None], out, 0) ** 2), out

    (_, out), grad = jax.value_and_grad(pooled, has_aux=True)(garbage, padded)
    for k, g in enumerate(graphs):
        np.testing.assert_allclose(out[k], pool(g.x)[0], rtol=1e-6)
    assert not np.asarray(grad)[8:].any()
    alone = jnp.concatenate([jax.grad(lambda x: jnp.sum(pool(x) ** 2))(jnp.asarray(g.x)) for g in graphs])
    np.testing.assert_allclose(grad[:8], alone, rtol=1e-6)


def test_min_is_max_turned_round() -> None:
    x, ids = jnp.array([[1.0, 4.0], [3.0, 2.0], [5.0, 6.0]]), jnp.array([0, 0, 2])
    np.testing.assert_array_equal(global_min_pool(x, ids, 3), [[1.0, 2.0], [0.0, 0.0], [5.0, 6.0]])


def test_sizes_must_be_static() -> None:
    with pytest.raises(ValueError, match="`num_graphs` must be given when `batch` is traced"):
        jax.jit(global_add_pool)(jnp.ones((3, 2)), jnp.zeros(3, int))
    assert global_add_pool(np.ones((0, 2), np.float32)).shape == (1, 2)
    with pytest.raises(TypeError, match="batch"):
        global_add_pool(jnp.ones((3, 2)), jnp.zeros(4, int), 1)
