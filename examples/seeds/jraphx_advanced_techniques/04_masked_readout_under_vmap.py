"""One vector per graph under `vmap`: the mean must not count padding.

The original averages over the padded rows too, and its last line then averages over the graphs, so that what is called
`graph_features` is one vector for the whole batch. The readout of a padded graph uses its `batch` vector: the padding
nodes are a graph of their own, whose row is dropped.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from eqx_graph import Graph, pad
from eqx_graph.data import PaddingBudget
from eqx_graph.datasets import mutag
from eqx_graph.nn.conv import GCNConv
from eqx_graph.nn.pool import global_mean_pool


def main() -> None:
    graphs = mutag()[:4]
    budget = PaddingBudget(num_nodes=40, num_edges=80, num_graphs=2)
    stack: Graph = jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *[pad(g, budget) for g in graphs]))
    conv = GCNConv(7, 8, key=jr.key(0))

    def graph_features(graph: Graph) -> Float[Array, " 8"]:
        x = jax.nn.relu(conv(graph.x, graph.edge_index))
        return global_mean_pool(x, graph.batch, graph.num_graphs)[0]

    features = eqx.filter_jit(eqx.filter_vmap(graph_features))(stack)
    assert features.shape == (4, 8)  # one vector a graph, not one for all

    mean = eqx.filter_jit(lambda g: jax.nn.relu(conv(g.x, g.edge_index)).mean(axis=0))
    one_by_one = jnp.stack([mean(g) for g in graphs])
    np.testing.assert_allclose(features, one_by_one, rtol=1e-5, atol=1e-6)

    padded_mean = eqx.filter_vmap(mean)(stack)
    error = float(jnp.max(jnp.abs(padded_mean - one_by_one)))
    assert error > 0.01  # what the original computes
    print(f"masked readout exact; the unmasked mean would be off by up to {error:.2f}")


if __name__ == "__main__":
    main()
