"""Graphs of any size through few compiled programs, without cutting anything off.

The original pads nodes but not edges, so every new number of edges compiles again, and truncates large graphs to 1,000
nodes while keeping edges that point at the removed ones. Here batches are filled greedily up to a budget; a graph that
does not fit is an error, or is left out and counted on request.
"""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array

from eqx_graph import Graph
from eqx_graph.data import PaddingLadder, dynamic_batch
from eqx_graph.nn.conv import SAGEConv
from eqx_graph.nn.pool import global_add_pool


def random_graph(rng: np.random.Generator, num_nodes: int) -> Graph:
    edges = rng.integers(0, num_nodes, (2, 3 * num_nodes))
    return Graph.from_edge_index(edges, rng.normal(size=(num_nodes, 4)).astype(np.float32))


def main() -> None:
    rng = np.random.default_rng(0)
    graphs = [random_graph(rng, int(n)) for n in rng.integers(5, 60, size=300)]
    ladder = PaddingLadder.fit(graphs, batch_size=24, num_rungs=2)
    conv = SAGEConv(4, 8, key=jr.key(0))
    num_traces = 0

    @eqx.filter_jit
    def forward(conv: SAGEConv, graph: Graph) -> Array:
        nonlocal num_traces
        num_traces += 1  # runs while tracing only
        return global_add_pool(jax.nn.relu(conv(graph.x, graph.edge_index)), graph.batch, graph.num_graphs)

    waste = 0.0
    for _ in range(3):
        shuffled = [graphs[i] for i in rng.permutation(len(graphs))]
        batches = dynamic_batch(shuffled, ladder)
        num_graphs = sum(int(np.sum(g.graph_mask)) for g in batches if forward(conv, g) is not None)
        assert num_graphs == 300 and batches.report.num_compiles <= 2 and batches.report.waste < 0.2
        waste = max(waste, batches.report.waste)
    assert num_traces <= 2

    too_large = random_graph(rng, 5000)
    try:
        list(dynamic_batch([*graphs[:3], too_large], ladder))
        raise AssertionError("a graph larger than the budget must not pass")
    except ValueError as error:
        assert "graphs[3]" in str(error) and "num_nodes=5000" in str(error)
    lenient = dynamic_batch([*graphs[:3], too_large], ladder, oversize="skip")
    assert sum(1 for _ in lenient) >= 1 and lenient.report.num_skipped == 1
    print(f"300 graphs, 3 epochs, {num_traces} compilations, at most {waste:.0%} padding")


if __name__ == "__main__":
    main()
