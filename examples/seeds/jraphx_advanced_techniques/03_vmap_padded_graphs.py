"""`vmap` over graphs: pad each to one size, stack, map the model of ONE graph.

The original imports a module that does not exist (`jraphx.data.vmap_batch`) and maps over a list of graphs. A stack of
padded graphs is again a `Graph` pytree, so `filter_vmap` needs nothing special; the results are those of the graphs one
by one. (A disjoint union, `batch`, wastes less and is faster; the stack is for code that wants one graph at a time.)
"""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from eqx_graph import Graph, pad
from eqx_graph.data import PaddingBudget
from eqx_graph.datasets import mutag
from eqx_graph.nn.conv import GCNConv


def main() -> None:
    graphs = mutag()[:5]
    budget = PaddingBudget(
        num_nodes=max(g.num_nodes for g in graphs) + 1, num_edges=max(g.num_edges for g in graphs), num_graphs=2
    )
    stack: Graph = jax.tree.map(lambda *leaves: np.stack(leaves), *[pad(g, budget) for g in graphs])
    conv = GCNConv(7, 8, key=jr.key(0))

    def process_single_graph(graph: Graph) -> Float[Array, "num_nodes 8"]:
        return jax.nn.relu(conv(graph.x, graph.edge_index))

    out = eqx.filter_jit(eqx.filter_vmap(process_single_graph))(jax.device_put(stack))
    assert out.shape == (5, budget.num_nodes, 8)
    for padded, graph in zip(out, graphs, strict=True):
        alone = eqx.filter_jit(process_single_graph)(jax.device_put(graph))
        np.testing.assert_allclose(padded[: graph.num_nodes], alone, rtol=1e-5, atol=1e-6)
    print("five graphs under one vmap equal five graphs one by one")


if __name__ == "__main__":
    main()
