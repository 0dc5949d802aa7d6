"""Edge layouts: both orders, the way back, derived layouts, conversions, and what is refused."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCSR

import eqx_graph as eg
from eqx_graph import EdgeIndex, EdgeList, ops
from eqx_graph.data import edges_from_bcsr, edges_from_scipy, edges_to_bcsr, edges_to_scipy


def random_edges(num_senders, num_receivers, num_edges, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, num_senders, num_edges), rng.integers(0, num_receivers, num_edges)])


def check_layout(edges, edge_index):
    """Every invariant of the compressed layout, against the caller's edge list."""
    num_edges = edge_index.shape[1]
    a = {k: np.asarray(v) for k, v in vars(edges).items() if not isinstance(v, int | str | None)}
    np.testing.assert_array_equal(a["senders"], edge_index[0][a["permutation"]])
    np.testing.assert_array_equal(a["receivers"], edge_index[1][a["permutation"]])
    assert (np.diff(a["receivers"]) >= 0).all() and (np.diff(a["senders"][a["by_sender"]]) >= 0).all()
    np.testing.assert_array_equal(a["permutation"][a["inverse_permutation"]], np.arange(num_edges))
    np.testing.assert_array_equal(a["by_receiver"][a["by_sender"]], np.arange(num_edges))
    np.testing.assert_array_equal(a["receivers_by_sender"], a["receivers"][a["by_sender"]])
    for ptr, ids, size in (("receiver_ptr", 1, edges.num_receivers), ("sender_ptr", 0, edges.num_senders)):
        np.testing.assert_array_equal(np.diff(a[ptr]), np.bincount(edge_index[ids], minlength=size))
        assert a[ptr][0] == 0 and len(a[ptr]) == size + 1
    np.testing.assert_array_equal(np.asarray(edges.to_array()), edge_index)


@pytest.mark.parametrize("sizes", [(7, 7, 40), (5, 9, 40), (6, 3, 0), (1, 1, 3), (30, 20, 5000)])
def test_both_orders_and_the_way_back(sizes):
    num_senders, num_receivers, num_edges = sizes
    edge_index = random_edges(*sizes)
    nodes: dict[str, Any] = {"num_senders": num_senders, "num_receivers": num_receivers}
    host = EdgeIndex.from_numpy(edge_index, **nodes)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(host))
    check_layout(host, edge_index)
    check_layout(host.reverse(), edge_index[::-1])
    concrete = EdgeIndex.from_array(jnp.asarray(edge_index), **nodes)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(concrete))
    assert eqx.tree_equal(concrete, jax.tree.map(jnp.asarray, host))
    if num_edges < 5000:
        traced = jax.jit(lambda e: EdgeIndex.from_array(e, **nodes))(jnp.asarray(edge_index))
        assert eqx.tree_equal(traced, concrete)


def test_arrange_and_restore_are_inverse_and_differentiate_without_scatter():
    edge_index = random_edges(6, 8, 50)
    edges = EdgeIndex.from_array(edge_index, num_senders=6, num_receivers=8)
    values = {"a": jnp.arange(50.0), "b": jnp.arange(100).reshape(50, 2)}
    assert eqx.tree_equal(edges.restore(edges.arrange(values)), values)
    np.testing.assert_array_equal(edges.arrange(jnp.asarray(edge_index[0])), edges.senders)

    def loss(edges, v):
        return jnp.sum(jnp.sin(edges.restore(jnp.square(edges.arrange(v)))))

    program = jax.jit(jax.grad(loss, argnums=1)).lower(edges, values["a"])
    assert "scatter" not in (program.as_text() or "")
    np.testing.assert_allclose(
        program.compile()(edges, values["a"]), jax.grad(lambda v: jnp.sum(jnp.sin(v**2)))(values["a"]), rtol=1e-5
    )


@pytest.mark.parametrize("masked", [False, True])
def test_self_loops_are_appended_without_sorting(masked):
    edge_index = random_edges(9, 9, 60)
    mask = np.random.default_rng(1).random(60) < 0.7 if masked else None
    edges = EdgeIndex.from_array(edge_index, num_senders=9, num_receivers=9, edge_mask=mask)
    expected = np.concatenate([edge_index, np.tile(np.arange(9), (2, 1))], axis=1)
    kept = edges.with_self_loops(existing="keep")
    check_layout(kept, expected)
    check_layout(kept.reverse().reverse(), expected)
    assert " sort[" not in str(jax.make_jaxpr(lambda e: e.with_self_loops())(edges))
    counts = np.ones(69, bool) if mask is None else np.concatenate([mask, np.ones(9, bool)])
    replaced = edges.with_self_loops()
    counts[:60] &= edge_index[0] != edge_index[1]
    np.testing.assert_array_equal(replaced.restore(replaced.edge_mask), counts)
    plain = EdgeList.from_array(edge_index, num_senders=9, num_receivers=9, edge_mask=mask).with_self_loops()
    np.testing.assert_array_equal(plain.edge_mask, counts)
    np.testing.assert_array_equal(plain.to_array(), expected)


def test_self_loop_values_are_the_last_loops():
    edge_index = np.array([[0, 1, 1, 2, 1], [0, 1, 1, 0, 2]])
    values = jnp.array([10.0, 20.0, 30.0, 40.0, 50.0])
    for edges in (
        EdgeIndex.from_array(edge_index, num_senders=4, num_receivers=4),
        EdgeList.from_array(edge_index, num_senders=4, num_receivers=4),
    ):
        np.testing.assert_array_equal(edges.self_loop_values(edges.arrange(values), 7.0), [10, 30, 7, 7])
    gradient = jax.grad(lambda v: edges.self_loop_values(v, 0.0).sum())(values)
    np.testing.assert_array_equal(gradient, [1, 0, 1, 0, 0])
    none = EdgeList.from_array(jnp.zeros((2, 0), int), num_senders=4, num_receivers=4)
    np.testing.assert_array_equal(none.self_loop_values(jnp.zeros(0), 2.0), [2, 2, 2, 2])


@pytest.mark.parametrize("route", ["list", "index", "jit"])
def test_coalesce_and_undirected(route):
    edge_index = np.array([[0, 1, 0, 2, 2, 3], [1, 0, 1, 2, 3, 0]])
    weight = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    mask = jnp.array([True, True, True, True, True, False])
    if route == "list":
        edges = EdgeList.from_array(edge_index, num_senders=4, num_receivers=4, edge_mask=mask)
    else:
        edges = EdgeIndex.from_array(edge_index, num_senders=4, num_receivers=4, edge_mask=np.asarray(mask))

    def merge(edges):
        merged = edges.coalesce()
        return edges.restore(merged.edge_mask), edges.restore(edges.sum_duplicates(edges.arrange(weight)))

    first, total = (jax.jit(merge) if route == "jit" else merge)(edges)
    np.testing.assert_array_equal(first, [True, True, False, True, True, False])
    np.testing.assert_array_equal(np.where(np.asarray(first), total, 0), [5, 2, 0, 8, 16, 0])
    if route == "list":
        return

    def undirected(edges):
        both = edges.with_reversed()
        values = both.sum_duplicates(both.arrange(jnp.concatenate([weight, weight])))
        both = both.coalesce()
        x = jnp.eye(4)
        return ops.matmul(both, values, x), ops.matmul(edges.to_undirected(), None, x)

    matrix, pattern = (jax.jit(undirected) if route == "jit" else undirected)(edges)
    dense = np.zeros((4, 4))
    np.add.at(dense, (edge_index[1][:5], edge_index[0][:5]), np.asarray(weight)[:5])
    np.testing.assert_array_equal(matrix, dense + dense.T)
    np.testing.assert_array_equal(pattern, (dense + dense.T) > 0)


def test_sparse_matrices_are_the_same_operator():
    edge_index, weight = random_edges(6, 4, 30), np.random.default_rng(0).random(30).astype(np.float32)
    mask = np.arange(30) % 5 > 0
    x = np.random.default_rng(1).random((6, 3)).astype(np.float32)
    for m in (None, mask):
        edges = EdgeIndex.from_array(edge_index, num_senders=6, num_receivers=4, edge_mask=m)
        expected = ops.matmul(edges, edges.arrange(jnp.asarray(weight)), jnp.asarray(x))
        matrix, compressed = edges_to_scipy(edges, weight), edges_to_bcsr(edges, weight)
        np.testing.assert_allclose(matrix @ x, expected, rtol=1e-6)
        np.testing.assert_allclose(compressed @ x, expected, rtol=1e-6)
        for back, values in (edges_from_scipy(matrix), edges_from_bcsr(compressed)):
            np.testing.assert_allclose(ops.matmul(back, back.arrange(values), jnp.asarray(x)), expected, rtol=1e-6)
    back, values = jax.jit(edges_from_bcsr)(compressed)
    np.testing.assert_allclose(ops.matmul(back, back.arrange(values), jnp.asarray(x)), expected, rtol=1e-6)
    assert edges_to_scipy(edges).nnz <= mask.sum() and float(edges_to_bcsr(edges).data.sum()) == mask.sum()
    with pytest.raises(TypeError, match="`matrix` must be a SciPy sparse array; got ndarray"):
        edges_from_scipy(np.eye(2))
    with pytest.raises(ValueError, match="plain two-dimensional BCSR"):
        edges_from_bcsr(BCSR.fromdense(jnp.ones((2, 3, 3)), n_batch=1))
    assert scipy.sparse.issparse(matrix)


def test_what_is_refused():
    nodes: dict[str, Any] = {"num_senders": 3, "num_receivers": 4}
    with pytest.raises(ValueError, match=r"`edge_index\[0, 1\]` is 3, outside \[0, 3\): num_senders=3"):
        EdgeIndex.from_array(np.array([[0, 3], [0, 3]]), **nodes)
    with pytest.raises(ValueError, match=r"`edge_index\[1, 0\]` is -1, outside \[0, 4\): num_receivers=4"):
        EdgeIndex.from_array(np.array([[0, 2], [-1, 3]]), **nodes)
    for wrong in (np.zeros((3, 2), int), np.zeros(4, int)):
        with pytest.raises(Exception, match=r"shape \(2, num_edges\)|edge_index"):
            EdgeIndex.from_array(wrong, **nodes)
    with pytest.raises(Exception, match=r"must hold integers|edge_index"):
        EdgeIndex.from_array(np.zeros((2, 3)), **nodes)
    checked = eqx.filter_jit(lambda e: EdgeIndex.from_array(e, **nodes))
    with pytest.raises(eqx.EquinoxRuntimeError, match=r"node outside \[0, 3\) senders"):
        jax.block_until_ready(checked(jnp.array([[0, 3], [0, 3]])))
    check_layout(checked(jnp.array([[0, 2], [0, 3]])), np.array([[0, 2], [0, 3]]))
    edges = EdgeIndex.from_array(np.array([[0, 2], [0, 3]]), **nodes)
    with pytest.raises(ValueError, match="`with_self_loops` needs one set of nodes; got num_senders=3 and"):
        edges.with_self_loops()
    with pytest.raises(ValueError, match="`with_reversed` needs one set of nodes; got num_senders=3 and"):
        edges.to_undirected()
    with pytest.raises(ValueError, match="was built for num_senders=3, num_receivers=4; got x with 4 and 4 rows"):
        eg.as_edges(edges, num_senders=4, num_receivers=4)


def test_an_array_of_edges_is_checked_where_its_ids_are_known():
    with pytest.raises(ValueError, match=r"`edge_index\[0, 1\]` is 9, outside \[0, 4\): num_senders=4"):
        eg.data.as_edges(jnp.array([[0, 9], [1, 2]]), num_senders=4, num_receivers=4)
    with pytest.raises(ValueError, match=r"`edge_index\[1, 0\]` is -1, outside \[0, 4\): num_receivers=4"):
        eg.data.as_edges(jnp.array([[0, 1], [-1, 2]]), num_senders=4, num_receivers=4)


def test_an_array_of_edges_given_to_a_compiled_layer_is_checked_at_run_time():
    x = jnp.ones((3, 2))
    layer = eg.nn.GCNConv(2, 2, key=jax.random.key(0))
    compiled = eqx.filter_jit(layer)
    inside = jnp.array([[0, 2], [1, 0]])
    assert jnp.allclose(compiled(x, inside), layer(x, inside), atol=1e-6)
    for outside in ([[0, 3], [1, 0]], [[0, 2], [-1, 0]]):
        with pytest.raises(eqx.EquinoxRuntimeError, match=r"node outside \[0, 3\) senders or \[0, 3\) receivers"):
            jax.block_until_ready(compiled(x, jnp.array(outside)))
