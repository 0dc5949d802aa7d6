"""Attention over neighbours: the softmax runs over the edges of each receiver.

The original fails (`message` wants `edge_index_i` and `size_i`, which nobody passes; there is no `__call__`) and, if
repaired, takes the softmax over ALL edges of the batch, so that graphs compete with one another. The engine's
`attention` normalises per receiver and never builds the (num_edges, heads, channels) array of weighted values.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from eqx_graph import EdgeIndexLike, as_edges, batch
from eqx_graph.datasets import mutag
from eqx_graph.ops import attention


class AttentionConv(eqx.Module):
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    heads: int = eqx.field(static=True)

    def __init__(self, in_features: int, out_features: int, heads: int, *, key: PRNGKeyArray):
        k1, k2, k3 = jr.split(key, 3)
        self.query = eqx.nn.Linear(in_features, heads * out_features, key=k1)
        self.key = eqx.nn.Linear(in_features, heads * out_features, key=k2)
        self.value = eqx.nn.Linear(in_features, heads * out_features, key=k3)
        self.heads = heads

    def __call__(self, x: Float[Array, "num_nodes in"], edge_index: EdgeIndexLike) -> tuple[Array, Array]:
        edges = as_edges(edge_index, num_senders=x.shape[0], num_receivers=x.shape[0])
        q, k, v = (jax.vmap(lin)(x).reshape(x.shape[0], self.heads, -1) for lin in (self.query, self.key, self.value))
        scores = jnp.sum(edges.receive(q) * edges.send(k), axis=-1) / jnp.sqrt(q.shape[-1])
        out, (weights, _) = attention(edges, scores, v, return_weights=True)
        return out.reshape(x.shape[0], -1), edges.restore(weights)


def main() -> None:
    graph = jax.device_put(batch(mutag()[:6], compressed=True))
    conv = AttentionConv(7, 8, heads=4, key=jr.key(0))
    out, weights = eqx.filter_jit(conv)(graph.x, graph.edge_index)
    assert out.shape == (graph.num_nodes, 32) and weights.shape == (graph.num_edges, 4)

    senders, receivers = np.asarray(graph.edge_index.to_array())
    total = np.zeros((graph.num_nodes, 4))
    np.add.at(total, receivers, weights)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)  # every atom has a bond, so every receiver's weights sum to 1

    values = np.asarray(jax.vmap(conv.value)(graph.x)).reshape(-1, 4, 8)
    expected = np.zeros_like(values)
    np.add.at(expected, receivers, np.asarray(weights)[..., None] * values[senders])
    np.testing.assert_allclose(out, expected.reshape(graph.num_nodes, -1), rtol=1e-4, atol=1e-5)

    alone = jax.device_put(mutag()[0])
    first, _ = conv(alone.x, alone.edge_index)  # what other graphs are in the batch changes nothing
    np.testing.assert_allclose(out[: alone.num_nodes], first, rtol=1e-4, atol=1e-5)
    print("weights sum to one at every receiver; graphs of a batch do not compete")


if __name__ == "__main__":
    main()
