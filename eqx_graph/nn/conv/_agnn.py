"""Attention by cosine similarity."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...data import EdgeIndexLike
from ...ops import edge_dot
from .._unit import unit_rows
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow
from ._attend import attend
from ._neighbors import endpoints


class AGNNConv(eqx.Module):
    r"""Attention by cosine, $x_i' = \sum_j P_{ij} x_j$ with $P_{ij} = \mathrm{softmax}_j\, \beta \cos(x_i, x_j)$.

    ??? cite "Reference"
        Thekumparampil et al., Attention-based Graph Neural Network for Semi-supervised Learning, arXiv 1803.03735,
        2018, eq. 4. Deviation from PyTorch Geometric 2.8: a zero row has a zero gradient through its direction.
    """

    beta: float | Float[Array, "1"]
    aggregation: AbstractAggregation
    add_self_loops: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        requires_grad: bool = True,
        *,
        add_self_loops: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
    ):
        r"""**Arguments:**

        - `requires_grad`: learn $\beta$ (1 at first); a plain float, which no optimiser sees, if False.
        - `add_self_loops`: replace self-loops by exactly one per node.
        - `aggr`: aggregation of the weighted neighbours, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        """
        self.beta = jnp.ones(1) if requires_grad else 1.0
        self.aggregation = as_aggregation(aggr)
        self.add_self_loops = add_self_loops
        self.flow = flow

    @jax.named_scope("eqx_graph.AGNNConv")
    def __call__(
        self, x: Float[Array, "num_nodes features"], edge_index: EdgeIndexLike
    ) -> Float[Array, "num_nodes features"]:
        """**Arguments:**

        - `x`: node features.
        - `edge_index`: `(2, num_edges)` integers or an `EdgeIndex`.

        **Returns:** new node features, the shape of `x`.
        """
        edges = endpoints(x, edge_index, None, self.flow)[2]
        direction = unit_rows(x)[:, None, :]
        beta = jnp.squeeze(jnp.asarray(self.beta, x.dtype))
        loop_logits = None
        if self.add_self_loops:
            edges = edges.remove_self_loops()
            loop_logits = beta * jnp.sum(direction * direction, axis=-1)
        logits = beta * edge_dot(edges, direction, direction)
        options = {"dropout": eqx.nn.Dropout(0.0), "key": None, "aggregation": self.aggregation}
        attended = attend(edges, logits, x[:, None, :], loop_logits, **options)
        return attended.out[:, 0]
