"""One graph or a union: validation, joining, splitting, padding and their inverses."""

import dataclasses

import equinox as eqx
import hypothesis as hp
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_graph import EdgeIndex, EdgeList, Graph, batch, pad, unbatch, unpad
from eqx_graph.data import PaddingBudget, PaddingLadder


def make(num_nodes: int, num_edges: int, seed: int = 0, **fields) -> Graph:
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, max(num_nodes, 1), (2, num_edges if num_nodes else 0))
    x = rng.normal(size=(num_nodes, 3)).astype(np.float32)
    return Graph.from_edge_index(edges, x, **fields)


@st.composite
def graphs(draw, level: str, with_x: bool, compressed: bool) -> Graph:
    """A graph with every kind of field: no nodes, no edges, loops and repeated edges included."""
    num_nodes = draw(st.integers(0, 6))
    num_edges = draw(st.integers(0, 9)) if num_nodes else 0
    edge_index = draw(hnp.arrays(np.int32, (2, num_edges), elements=st.integers(0, max(num_nodes - 1, 0))))
    floats = st.floats(-4, 4, width=32)
    size = {"graph": 1, "node": num_nodes, "edge": num_edges}[level]
    return Graph.from_edge_index(
        EdgeIndex.from_numpy(edge_index, num_senders=num_nodes, num_receivers=num_nodes) if compressed else edge_index,
        x=draw(hnp.arrays(np.float32, (num_nodes, 2), elements=floats)) if with_x else None,
        edge_attr=draw(hnp.arrays(np.float32, (num_edges, 1, 2), elements=floats)),
        edge_weight=draw(hnp.arrays(np.float32, num_edges, elements=floats)),
        edge_type=draw(hnp.arrays(np.int32, num_edges, elements=st.integers(0, 3))),
        pos=draw(hnp.arrays(np.float32, (num_nodes, 3), elements=floats)) if with_x else None,
        y=np.arange(size, dtype=np.int32),
        u=draw(hnp.arrays(np.float32, (1, 4), elements=floats)),
        extras={"node_train": np.arange(num_nodes) % 2 == 0} if with_x else {"edge_seen": np.arange(num_edges) > 1},
        num_nodes=num_nodes,
        y_level=level,  # pyright: ignore[reportArgumentType]
    )


@st.composite
def graph_lists(draw) -> list[Graph]:
    kind = draw(st.tuples(st.sampled_from(["graph", "node", "edge"]), st.booleans(), st.booleans()))
    return draw(st.lists(graphs(*kind), min_size=1, max_size=4))


@hp.settings(max_examples=60, deadline=None, derandomize=True)
@hp.given(graph_lists(), st.integers(1, 3), st.integers(0, 5), st.integers(1, 3))
def test_round_trips(many: list[Graph], nodes: int, edges: int, graphs_more: int) -> None:
    """unbatch(batch(gs)) == gs and unpad(pad(g)) == g, leaf by leaf, dtypes and layout included."""
    union = batch(many)
    assert union.num_graphs == len(many)
    assert all(eqx.tree_equal(a, b, typematch=True) for a, b in zip(unbatch(union), many, strict=True))
    budget = PaddingBudget(union.num_nodes + nodes, union.num_edges + edges, union.num_graphs + graphs_more)
    padded = pad(union, budget)
    assert (padded.num_nodes, padded.num_edges, padded.num_graphs) == (
        budget.num_nodes,
        budget.num_edges,
        budget.num_graphs,
    )
    assert eqx.tree_equal(unpad(padded), union, typematch=True)
    assert all(eqx.tree_equal(a, b, typematch=True) for a, b in zip(unbatch(padded), many, strict=True))


def test_padding_contract() -> None:
    """Padding nodes belong to the last graph, padding edges join the last node to itself, masks count what is real."""
    g = pad(batch([make(3, 4), make(2, 5, 1)]), PaddingBudget(8, 12, 5))
    np.testing.assert_array_equal(g.batch, [0, 0, 0, 1, 1, 4, 4, 4])
    np.testing.assert_array_equal(np.asarray(g.edge_index)[:, 9:], 7)
    assert g.node_mask is not None and g.edge_mask is not None and g.graph_mask is not None
    assert (g.node_mask.sum(), g.edge_mask.sum(), g.graph_mask.sum()) == (5, 9, 2)
    assert g.x is not None and not np.asarray(g.x)[5:].any()


def test_unbatch_needs_no_order() -> None:
    """Nodes and edges of a union may come in any order."""
    union = Graph.from_edge_index(
        [[3, 0, 2], [1, 2, 0]], x=np.arange(4.0)[:, None], edge_weight=np.arange(3.0), batch=[1, 0, 1, 0]
    )
    first, second = unbatch(union)
    np.testing.assert_array_equal(first.x, [[1.0], [3.0]])
    np.testing.assert_array_equal(np.asarray(first.edge_index), [[1], [0]])
    np.testing.assert_array_equal(np.asarray(second.edge_index), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(second.edge_weight, [1.0, 2.0])
    with pytest.raises(ValueError, match="Edge 0 connects graphs 0 and 1"):
        unbatch(dataclasses.replace(union, edge_index=np.array([[1, 0, 2], [0, 2, 0]])))


def test_unions_join_and_layouts_compress() -> None:
    """A batch of batches is a batch; `compressed` sorts edges once; a JAX-array graph batches like a NumPy one."""
    a, b, c = make(3, 4), make(2, 2, 1), make(4, 5, 2)
    nested = batch([batch([a, b]), c])
    assert eqx.tree_equal(nested, batch([a, b, c]))
    packed = batch([a, jax.device_put(b), c], compressed=True)
    assert isinstance(packed.edge_index, EdgeIndex)
    np.testing.assert_array_equal(packed.edge_index.to_array(), np.asarray(nested.edge_index))
    assert isinstance(packed.edge_index.senders, np.ndarray)


def test_a_graph_is_a_pytree() -> None:
    """jit, vmap over a stack, tree_at and device_put see a Graph as its arrays; statics stay static."""
    graph = pad(make(3, 4, y=1), PaddingBudget(5, 6, 2))
    on_device = jax.device_put(graph)
    assert isinstance(on_device.x, jax.Array)
    total = eqx.filter_jit(lambda g: jnp.sum(jnp.where(g.node_mask[:, None], g.x, 0)))(graph)
    np.testing.assert_allclose(total, np.asarray(make(3, 4).x).sum(), rtol=1e-6)
    stack = jax.tree.map(lambda *a: np.stack(a), graph, graph)
    out = eqx.filter_vmap(lambda g: g.x[g.edge_index[0]].sum() + g.num_nodes)(jax.device_put(stack))
    np.testing.assert_allclose(out[0], out[1])
    assert eqx.tree_at(lambda g: g.x, graph, np.zeros((5, 3))).num_graphs == 2


def test_number_of_nodes_without_features() -> None:
    bare = Graph.from_edge_index([[0], [1]], num_nodes=4)
    assert bare.num_nodes == 4 and bare.num_edges == 1 and bare.num_graphs == 1
    layout = EdgeIndex.from_array(np.array([[0], [1]]), num_senders=4, num_receivers=4)
    assert Graph.from_edge_index(layout).num_nodes == 4
    assert Graph.from_edge_index([[0], [1]], extras={"node_z": [1, 2, 3]}).num_nodes == 3


def test_targets_know_their_level() -> None:
    assert Graph.from_edge_index([[0], [1]], num_nodes=2, y=1.5).y_level == "graph"
    assert Graph.from_edge_index([[0], [1]], num_nodes=2, y=[1, 0]).y_level == "node"
    assert Graph.from_edge_index([[0, 1, 1], [1, 0, 1]], num_nodes=2, y=[1, 0, 2]).y_level == "edge"
    one = Graph.from_edge_index([[0], [0]], num_nodes=1, y=[1])
    assert one.y_level == "graph"
    assert Graph.from_edge_index([[0], [0]], num_nodes=1, y=[1], y_level="node").y_level == "node"


def test_ids_are_checked_under_jit_too() -> None:
    @eqx.filter_jit
    def build(edge_index, x):
        return Graph.from_edge_index(edge_index, x, batch=jnp.zeros(3, int), num_graphs=2).edge_index

    good = jnp.array([[0, 1], [2, 2]])
    np.testing.assert_array_equal(build(good, jnp.zeros((3, 1))), good)
    with pytest.raises(eqx.EquinoxRuntimeError, match=r"`edge_index` must hold ids in \[0, num_nodes=3\)"):
        build(good + 1, jnp.zeros((3, 1)))
    with pytest.raises(ValueError, match="`num_graphs` must be given when `batch` is traced"):
        jax.jit(lambda ids: Graph.from_edge_index(good, num_nodes=3, batch=ids).batch)(jnp.zeros(3, int))


BAD = {
    "id too large": (lambda: Graph.from_edge_index([[0], [3]], np.zeros((3, 1))), r"got 3 at position \(1, 0\)"),
    "negative id": (lambda: Graph.from_edge_index([[0], [-1]], np.zeros((3, 1))), r"got -1 at position \(1, 0\)"),
    "transposed": (lambda: Graph.from_edge_index(np.ones((5, 2), int), num_nodes=3), r"got \(5, 2\). Transpose"),
    "float ids": (lambda: Graph.from_edge_index(np.zeros((2, 5)), num_nodes=3), "`edge_index` must hold integers"),
    "float batch": (lambda: make(3, 2, batch=[0.0, 0.0, 1.0]), "`batch` must hold integers"),
    "batch too large": (lambda: make(3, 2, batch=[0, 1, 2], num_graphs=2), r"`batch` must hold ids in \[0, 2\)"),
    "int64 ids": (lambda: Graph.from_edge_index(np.array([[2**40], [0]]), num_nodes=3), "must fit in 32 bits"),
    "text": (lambda: Graph.from_edge_index([[0], [1]], np.array(["1", "2"], object)), "`x` must hold numbers; got"),
    "whole weights": (lambda: make(3, 2, edge_weight=[1, 2]), "`edge_weight` must hold floats; got dtype int64"),
    "no nodes known": (lambda: Graph.from_edge_index([[0], [1]]), "`num_nodes` is needed"),
    "sizes differ": (lambda: make(3, 2, pos=np.zeros((4, 2), np.float32)), "one leading size, the number of nodes"),
    "edge_attr": (lambda: make(3, 2, edge_attr=np.zeros((3, 1))), r"`edge_attr` is per edge .* leading size 2"),
    "y": (lambda: make(3, 2, y=np.zeros(7)), "`y` must have one entry per graph, node or edge"),
    "u": (lambda: make(3, 2, u=np.zeros((5,))), r"`u` is per graph and must have leading size 1; got shape \(5,\)"),
    "y level": (lambda: Graph(x=np.zeros((2, 1)), y=np.zeros(2)), 'leading size 1; got shape .* Say `y_level="node"`'),
    "prefix": (lambda: make(3, 2, extras={"mask": [1]}), "must start with node_, edge_ or graph_"),
    "extra": (lambda: make(3, 2, extras={"edge_z": [1]}), "leading size 2"),
    "no batch": (lambda: Graph(x=np.zeros((2, 1)), num_graphs=2), "`batch` .* is needed when num_graphs=2"),
    "zero graphs": (lambda: Graph(x=np.zeros((2, 1)), num_graphs=0), "`num_graphs` must be at least 1; got 0"),
    "no node array": (lambda: Graph(), "needs one node array"),
    "batch of none": (lambda: batch([]), "a batch needs at least one graph"),
    "fields": (lambda: batch([make(2, 1), make(2, 1, y=1)]), "Graph 1 has `y` but graph 0 has not"),
    "fields again": (lambda: batch([make(2, 1, y=1), make(2, 1)]), "Graph 0 has `y` but graph 1 has not"),
    "dtype": (lambda: batch([make(2, 1, y=1), make(2, 1, y=1.0)]), "`y` of graph 1 has dtype float32"),
    "trailing": (lambda: batch([make(2, 1, u=[[1]]), make(2, 1, u=[[1, 2]])]), "trailing sizes must agree"),
    "levels": (lambda: batch([make(2, 1, y=1), make(2, 1, y=[1, 1])]), "`y` of graph 1 is per node"),
    "extras": (lambda: batch([make(2, 1), make(2, 1, extras={"node_z": [1, 2]})]), "`extras` of graph 1 are"),
    "padded twice": (lambda: pad(pad(make(2, 1), PaddingBudget(4, 4, 2)), PaddingBudget(9, 9, 3)), "call `unpad`"),
    "no room": (lambda: pad(make(4, 1), PaddingBudget(4, 4, 2)), "num_nodes=4, num_edges=1, num_graphs=1 do not fit"),
    "budget": (lambda: PaddingBudget(4, 4, 1), "num_graphs >= 2"),
    "ladder": (lambda: PaddingLadder((PaddingBudget(4, 4, 2), PaddingBudget(3, 9, 2))), "must grow in every size"),
    "no rungs": (lambda: PaddingLadder(()), "at least one PaddingBudget"),
    "all padding": (
        lambda: unpad(dataclasses.replace(pad(make(2, 1), PaddingBudget(4, 4, 2)), graph_mask=np.zeros(2, bool))),
        "no real graph left",
    ),
    "mask": (
        lambda: unpad(dataclasses.replace(make(2, 1), node_mask=np.zeros(2, bool))),
        "keeps an edge whose sender or receiver",
    ),
    "masked edges": (
        lambda: batch([Graph.from_edge_index(EdgeList(np.zeros(1, int), np.ones(1, int), np.zeros(1, bool), 2, 2))]),
        "`edge_index` masks edges",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    build, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=message):
        build()


def test_shapes_of_the_plain_constructor_are_checked() -> None:
    with pytest.raises(TypeError, match="num_nodes"):
        Graph(x=np.zeros((3, 1)), pos=np.zeros((2, 2)))


def test_batching_under_jit_is_refused() -> None:
    with pytest.raises(TypeError, match="run on the host"):
        jax.jit(lambda g: unbatch(g))(jax.device_put(batch([make(2, 1), make(2, 1)])))
