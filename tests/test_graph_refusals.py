"""What the graph package refuses, by name: sizes and ids that JAX would clamp, wrap or drop in silence."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_graph import EdgeIndex, EdgeList, Graph, batch, ops
from eqx_graph.data import edges_to_scipy
from eqx_graph.nn import (
    MLP,
    BatchNorm,
    CGConv,
    ChebConv,
    EdgeConv,
    FiLMConv,
    GATConv,
    GCNConv,
    GraphNorm,
    JumpingKnowledge,
    MeanSubtractionNorm,
    aggr,
)


KEY = jr.key(0)
ENDS = np.array([[0, 1, 2, 2], [1, 2, 3, 3]])
X = jnp.arange(12.0).reshape(4, 3)
BATCH = jnp.array([0, 1, 5, 5])
LAYOUTS = {cls.__name__: cls.from_array(ENDS, num_senders=4, num_receivers=4) for cls in (EdgeIndex, EdgeList)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_do_not_fit_a_layout(layout):
    edges = LAYOUTS[layout]
    for call, match in (
        (lambda: edges.arrange(jnp.ones(3)), "`edge_values` must have a row for each of the 4 edges"),
        (lambda: edges.restore({"a": jnp.ones(9)}), "`edge_values` must have a row for each of the 4 edges"),
        (lambda: edges.sum_received(jnp.ones(3)), "`edge_values` must have a row for each of the 4 edges"),
        (lambda: edges.self_loop_values(jnp.ones(3), 0.0), "`edge_values` must have a row"),
        (lambda: edges.sum_duplicates(jnp.ones(3)), "`edge_values` must have a row"),
        (lambda: edges.send(jnp.ones(2)), "`x` must have a row for each of the 4 senders"),
        (lambda: edges.receive(jnp.ones(9)), "`x` must have a row for each of the 4 receivers"),
        (lambda: edges_to_scipy(edges, jnp.ones(3)), "`edge_weight` must have a row for each of the 4 edges"),
        (lambda: edges.with_edge_mask(jnp.ones(3, bool)), "`edge_mask` must have a row for each of the 4 edges"),
        (lambda: ops.edge_softmax(edges, jnp.ones(3)), "`logits` must have a row for each of the 4 edges"),
        (lambda: ops.edge_softmax(edges, jnp.ones(4), jnp.ones(3)), "`self_logits` must have a row for each of the 4"),
        (lambda: ops.attention(edges, jnp.ones((3, 1)), X[:, None]), "`logits` must have a row for each of the 4"),
        (lambda: ops.attention(edges, jnp.ones((4, 2)), jnp.ones((3, 2, 3))), "`values` must have a row for each of"),
        (lambda: ops.edge_dot(edges, jnp.ones((3, 1, 3)), jnp.ones((4, 1, 3))), "`senders_x` must have a row"),
        (lambda: ops.edge_map(edges, lambda x_i: x_i, x_i=jnp.ones(3)), "`x_i` must have a row for each of the 4"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_heads_and_channels_that_do_not_fit(layout):
    """Type checks find these too, where they are on."""
    edges, logits, values = LAYOUTS[layout], jnp.ones((4, 2)), jnp.ones((4, 2, 3))
    for call, match in (
        (lambda: ops.edge_softmax(edges, logits, jnp.ones((4, 1))), "`self_logits` must have as many heads|edge_softm"),
        (lambda: ops.attention(edges, logits, jnp.ones((4, 3, 3))), "`values` must have shape .*heads|attention"),
        (lambda: ops.edge_dot(edges, values, jnp.ones((4, 1, 3))), "must agree in heads and channels|edge_dot"),
    ):
        with pytest.raises(Exception, match=match):
            call()


@pytest.mark.parametrize("cls", [EdgeIndex, EdgeList])
def test_two_sets_of_nodes_have_no_loops(cls):
    edges = cls.from_array(ENDS[:, :1] * 0, num_senders=3, num_receivers=2)
    one, three = jnp.ones((1, 1)), jnp.ones((3, 1))
    for call, name in (
        (edges.with_self_loops, "with_self_loops"),
        (edges.append_self_loops, "append_self_loops"),
        (lambda: edges.self_loop_values(jnp.ones(1), 0.0), "self_loop_values"),
        (lambda: ops.edge_softmax(edges, jnp.ones(1), jnp.ones(2)), "self_logits"),
        (lambda: ops.attention(edges, one, three[..., None], self_logits=three), "self_logits"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` needs one set of nodes; got num_senders=3 and num_receivers=2"):
            call()


def test_a_block_has_edges():
    with pytest.raises(ValueError, match="`block_size` must be at least 1; got 0"):
        ops.edge_map(LAYOUTS["EdgeIndex"], lambda x_j: x_j, x_j=X, block_size=0)


def test_ids_that_do_not_fit():
    norm, film = GraphNorm(3), FiLMConv(3, 2, 3, key=KEY)
    cheb = ChebConv(3, 2, 2, key=KEY)
    for call, match in (
        (lambda: norm(X, BATCH, 2), r"`batch` must hold ids in \[0, 2\).*got 5"),
        (lambda: MeanSubtractionNorm()(X, jnp.array([0, 1, -1, 1])), "`batch` must hold ids.*got -1"),
        (lambda: cheb(X, ENDS, None, BATCH, jnp.ones(2)), "`batch` must hold ids"),
        (lambda: film(X, ENDS, jnp.array([0, 1, 7, 2])), r"`edge_type` must hold ids in \[0, 3\).*got 7"),
        (lambda: Graph.from_edge_index(np.array([[-(2**33)], [0]]), x=X), "`edge_index` must fit in 32 bits"),
        (lambda: EdgeList.from_array(ENDS, num_senders=-4, num_receivers=4), "`num_senders` must not be negative"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(eqx.EquinoxRuntimeError, match="`batch` must hold ids"):
        eqx.filter_jit(norm)(X, BATCH, 2)


def test_ids_of_other_widths():
    """JAX compares and casts integers by wrapping them: 300 is 44 in 8 bits, 2**32 + 1 is 1 in 32."""
    narrow = jnp.array([0, -1, 2, 2], jnp.int8)
    total = ops.segment_sum(X, narrow, 300)
    assert total.sum() == X.sum() - X[1].sum() and total[44].sum() == 0
    with jax.enable_x64(True):
        wide = jnp.asarray(np.array([[2**32 + 1], [0]]))
        assert ops.segment_sum(jnp.ones(1), wide[0], 4).sum() == 0
        with pytest.raises(eqx.EquinoxRuntimeError, match="holds a node outside"):
            eqx.filter_jit(lambda a: EdgeList.from_array(a, num_senders=4, num_receivers=4).senders)(wide)


def test_sizes_that_do_not_fit():
    for call, match in (
        (lambda: GCNConv(-1, 2, key=KEY), "`in_features` must be at least 1; got -1. Sizes are known when"),
        (lambda: CGConv(0, key=KEY), "`features` must be at least 1"),
        (lambda: BatchNorm(-1), "`in_features` must be at least 1"),
        (lambda: aggr.Sort(0), "`k` must be at least 1"),
        (lambda: aggr.Quantile(()), "`q` must hold at least one level"),
        (lambda: aggr.Softmax(t=jnp.ones(2))(X, jnp.zeros(4, int), 1), "for each of the 3 channels"),
        (lambda: aggr.LSTM(5, 2, key=KEY)(X, jnp.zeros(4, int), 1), "`x` must have 5 features"),
        (lambda: JumpingKnowledge("cat")([]), "`xs` must hold arrays of one shape, at least one"),
        (lambda: JumpingKnowledge("max")([X, X[:2]]), "`xs` must hold arrays of one shape"),
        (lambda: EdgeConv(MLP([6, 2, 2], key=KEY))(X, ENDS), "`state` must be given to a BatchNorm"),
        (
            lambda: GATConv(3, 2, edge_dim=2, fill_value=jnp.ones(3), key=KEY)(X, ENDS, jnp.ones((4, 2))),
            "`fill_value` must be a number or have an entry for each of the 2",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_a_batch_names_the_graph_whose_edges_have_no_nodes():
    """Shifted, they would be edges to the nodes of another graph."""
    good = Graph(x=np.ones((2, 1), np.float32), edge_index=np.asarray([[0], [1]]))
    for wrong in (2, -1):
        bad = Graph(x=np.ones((2, 1), np.float32), edge_index=np.asarray([[wrong], [1]]))
        with pytest.raises(ValueError, match=f"graph 1 holds node {wrong}, but the graph has 2"):
            batch([good, bad, good])
