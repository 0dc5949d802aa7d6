"""Budgets, ladders and dynamic batches: few shapes, little waste, nothing lost silently."""

import importlib
import sys

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_graph import EdgeIndex, Graph, unbatch
from eqx_graph.data import PaddingBudget, PaddingLadder, PaddingReport, dynamic_batch
from eqx_graph.nn.pool import global_add_pool


def random_graphs(num: int, seed: int, largest: int = 40) -> list[Graph]:
    """Graphs with 5 to `largest` nodes and one to four edges a node."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(num):
        nodes = int(rng.integers(5, largest + 1))
        edges = rng.integers(0, nodes, (2, int(nodes * rng.uniform(1, 4))))
        out.append(Graph.from_edge_index(edges, np.full((nodes, 1), i, np.float32), y=i))
    return out


@pytest.fixture(scope="module")
def thousand() -> list[Graph]:
    return random_graphs(1000, seed=0)


@pytest.mark.parametrize("num_rungs", [1, 2, 4])
def test_an_epoch_compiles_few_programs_and_wastes_little(thousand: list[Graph], num_rungs: int) -> None:
    """1,000 random graphs in three shuffled orders: at most as many programs as rungs, waste under 20 %, all there."""
    ladder = PaddingLadder.fit(thousand, batch_size=32, num_rungs=num_rungs, max_waste=0.2)
    assert len(ladder.rungs) <= num_rungs
    traces = []

    @eqx.filter_jit
    def step(graph: Graph):
        traces.append(graph.num_nodes)
        return global_add_pool(jnp.asarray(graph.node_mask, jnp.float32), graph.batch, graph.num_graphs)

    for epoch in range(3):
        order = np.random.default_rng(epoch + 1).permutation(1000)
        batches = dynamic_batch((thousand[i] for i in order), ladder)
        seen, nodes = [], 0.0
        for graph in batches:
            assert graph.y is not None and graph.graph_mask is not None
            seen += graph.y[graph.graph_mask].tolist()
            nodes += float(step(graph)[:-1].sum())
        assert seen == order.tolist()
        assert nodes == sum(g.num_nodes for g in thousand) == batches.report.nodes
        assert batches.report.num_graphs == 1000 and batches.report.num_skipped == 0
        assert batches.report.waste < 0.2
        assert batches.report.num_compiles <= num_rungs
        assert 1000 / 32 * 0.8 < batches.report.num_batches < 1000 / 32 * 1.3
    assert len(traces) <= num_rungs


def test_report_counts_slots() -> None:
    graphs = random_graphs(4, 1, largest=9)
    budget = PaddingBudget(100, 300, 5)
    batches = dynamic_batch(graphs, budget)
    (only,) = batches
    nodes, edges = sum(g.num_nodes for g in graphs), sum(g.num_edges for g in graphs)
    report = batches.report
    assert (report.nodes, report.node_slots, report.edges, report.edge_slots) == (nodes, 100, edges, 300)
    assert report.node_waste == pytest.approx(1 - nodes / 100) and report.edge_waste == pytest.approx(1 - edges / 300)
    assert report.shapes == {(100, 300, 5)} and PaddingReport().waste == 0
    assert all(eqx.tree_equal(a, b) for a, b in zip(unbatch(only), graphs, strict=True))


def test_no_count_exceeds_the_budget() -> None:
    """Nodes, edges and graphs are each a limit."""
    graphs = random_graphs(60, 2)
    for budget in (PaddingBudget(90, 10_000, 99), PaddingBudget(10_000, 200, 99), PaddingBudget(9999, 9999, 4)):
        batches = list(dynamic_batch(graphs, budget, compressed=True))
        assert len(batches) > 10
        assert all(isinstance(b.edge_index, EdgeIndex) for b in batches)
        assert {(b.num_nodes, b.num_edges, b.num_graphs) for b in batches} == {
            (budget.num_nodes, budget.num_edges, budget.num_graphs)
        }


def test_a_graph_too_large_is_an_error_or_counted() -> None:
    """The error names size, index and budget; skipping counts; nothing is dropped silently."""
    graphs = random_graphs(5, 3, largest=10)
    graphs.insert(2, Graph.from_edge_index(np.zeros((2, 7), int), np.zeros((50, 1), np.float32), y=9))
    budget = PaddingBudget(32, 128, 5)
    message = r"`graphs\[2\]` has num_nodes=50, num_edges=7, .* PaddingBudget\(\s*num_nodes=32"
    with pytest.raises(ValueError, match=message):
        list(dynamic_batch(graphs, budget))
    batches = dynamic_batch(graphs, budget, oversize="skip")
    kept = sum(len(unbatch(b)) for b in batches)
    assert (kept, batches.report.num_graphs, batches.report.num_skipped) == (5, 5, 1)


def test_ladder_takes_the_smallest_rung() -> None:
    ladder = PaddingLadder((PaddingBudget(8, 8, 2), PaddingBudget(16, 16, 3), PaddingBudget(32, 64, 9)))
    assert ladder.choose(7, 8, 1) == ladder.rungs[0]
    assert ladder.choose(8, 8, 1) == ladder.rungs[1]  # one node is the padding's
    assert ladder.choose(3, 17, 1) == ladder.choose(3, 3, 3) == ladder.rungs[2] == ladder.largest
    with pytest.raises(ValueError, match="num_nodes=32, num_edges=1, num_graphs=1 do not fit the budget"):
        ladder.choose(32, 1, 1)


def test_fit_grows_to_the_largest_graph_and_handles_no_edges() -> None:
    graphs = [*random_graphs(50, 4, largest=6), *random_graphs(1, 5, largest=400)]
    big = Graph.from_edge_index(np.zeros((2, 900), int), np.zeros((300, 1), np.float32), y=1)
    budget = PaddingBudget.fit([*graphs, big], batch_size=4, max_waste=0.9)
    assert budget.num_nodes > 300 and budget.num_edges >= 900
    edgeless = [Graph.from_edge_index(np.zeros((2, 0), int), np.zeros((3, 1)), y=0) for _ in range(20)]
    assert PaddingBudget.fit(edgeless, batch_size=10, max_waste=0.5).num_edges <= 8


def test_bad_input_is_named() -> None:
    graphs = random_graphs(10, 6)
    with pytest.raises(ValueError, match="`graphs` is empty"):
        PaddingBudget.fit([], 4)
    with pytest.raises(ValueError, match="`graphs` is empty"):
        next(dynamic_batch([], PaddingBudget(8, 8, 2)))
    with pytest.raises(ValueError, match="`batch_size` and `multiple` must be at least 1; got 0"):
        PaddingBudget.fit(graphs, 0)
    with pytest.raises(ValueError, match=r"`max_waste`=0.001 cannot be kept with batch_size=2"):
        PaddingBudget.fit(graphs, 2, max_waste=0.001)
    with pytest.raises(ValueError, match="`num_rungs` must be at least 1"):
        PaddingLadder.fit(graphs, 2, num_rungs=0)


def test_loader_position_can_be_saved() -> None:
    """Every graph once an epoch, in a new order; a saved position continues the identical stream."""
    grain = pytest.importorskip("grain")
    from eqx_graph.loader import graph_loader

    graphs = random_graphs(60, 7)
    budget = PaddingBudget.fit(graphs, 8, max_waste=0.6)
    batches = list(graph_loader(graphs, budget, seed=0, num_epochs=2))
    seen = np.concatenate([np.asarray(b.y)[np.asarray(b.graph_mask)] for b in batches])
    assert sorted(seen[:60]) == sorted(seen[60:]) == list(range(60)) and not np.array_equal(seen[:60], seen[60:])
    grain.experimental.assert_equal_output_after_checkpoint(graph_loader(graphs, budget, seed=0, num_epochs=1))

    endless = graph_loader(graphs, budget, seed=0, compressed=True)
    first = iter(endless)
    for _ in range(5):
        next(first)
    state = first.get_state()
    second = iter(endless)
    second.set_state(state)
    assert all(eqx.tree_equal(next(first), next(second)) for _ in range(20))


@pytest.mark.slow
def test_loader_with_workers() -> None:
    """Two worker processes: all graphs, a position that can be saved, and the same stream at every run."""
    pytest.importorskip("grain")
    from eqx_graph.loader import graph_loader

    graphs = random_graphs(40, 8)
    loader = graph_loader(graphs, PaddingBudget.fit(graphs, 8, max_waste=0.6), seed=0, num_workers=2)
    first, second = iter(loader), iter(loader)
    try:
        for _ in range(3):
            next(first)
        second.set_state(first.get_state())
        assert all(eqx.tree_equal(next(first), next(second)) for _ in range(10))
    finally:
        first.close()
        second.close()


def test_loader_names_bad_input() -> None:
    pytest.importorskip("grain")
    from eqx_graph.loader import graph_loader

    with pytest.raises(ValueError, match="a loader needs at least one graph"):
        graph_loader([], PaddingBudget(8, 8, 2), seed=0)
    with pytest.raises(ValueError, match="does not fit the budget"):
        next(iter(graph_loader(random_graphs(3, 9), PaddingBudget(4, 8, 2), seed=0)))


def test_loader_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grain", None)
    for name in [name for name in sys.modules if name.startswith("eqx_graph.loader")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"eqx-graph-dynamics\[data\]"):
        importlib.import_module("eqx_graph.loader")
