"""An edge-conditioned convolution: the message is a function of ONE edge.

The original runs, silently wrong: JraphX calls `message` positionally as (x_j, x_i, edge_attr), so a method written
`message(self, x_i, x_j, edge_attr)`, PyG's order, sees sender and receiver swapped. Here arguments are passed by name:
`_i` is the receiver, `_j` the sender, anything else belongs to the edge, in whatever order they are written.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from eqx_graph import EdgeIndexLike
from eqx_graph.nn import MessagePassing
from eqx_graph.nn.aggr import AbstractAggregation, Mean


class EdgeConditionedConv(MessagePassing):
    mlp: eqx.nn.MLP
    aggregation: AbstractAggregation

    def __init__(self, in_features: int, out_features: int, edge_dim: int, *, key: PRNGKeyArray):
        self.mlp = eqx.nn.MLP(2 * in_features + edge_dim, out_features, out_features, depth=1, key=key)
        self.aggregation = Mean()

    def message(self, x_i: Array, x_j: Array, edge_attr: Array) -> Array:
        return self.mlp(jnp.concatenate([x_i, x_j, edge_attr]))

    def __call__(
        self, x: Float[Array, "num_nodes in"], edge_index: EdgeIndexLike, edge_attr: Float[Array, "num_edges d"]
    ) -> Float[Array, "num_nodes out"]:
        return self.propagate(edge_index, x=x, edge_attr=edge_attr)


def main() -> None:
    rng = np.random.default_rng(0)
    senders, receivers = rng.integers(0, 20, (2, 60))  # directed, with loops, repeated edges and isolated nodes
    x, edge_attr = jr.normal(jr.key(1), (20, 7)), jr.normal(jr.key(2), (60, 4))
    edge_index = np.stack([senders, receivers])
    conv = EdgeConditionedConv(7, 5, 4, key=jr.key(0))
    out = eqx.filter_jit(conv)(x, edge_index, edge_attr)

    def formula(x_i: Array, x_j: Array) -> np.ndarray:
        messages = np.asarray(jax.vmap(conv.mlp)(jnp.concatenate([x_i, x_j, edge_attr], axis=1)))
        return np.stack([messages[receivers == i].mean(0) if i in receivers else np.zeros(5) for i in range(20)])

    np.testing.assert_allclose(out, formula(x[receivers], x[senders]), rtol=1e-4, atol=1e-5)
    swapped = formula(x[senders], x[receivers])  # what the original computes
    assert np.abs(np.asarray(out) - swapped).max() > 0.1
    print("x_i is the receiver, x_j the sender, as the formula says")


if __name__ == "__main__":
    main()
