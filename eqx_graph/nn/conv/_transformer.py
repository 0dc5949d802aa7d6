"""Dot-product attention over edges."""

import math
from typing import Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import EdgeIndexLike
from ...ops import edge_dot, edge_map
from .._dropout import make_dropout
from .._linear import check_features, check_sizes, project
from .._message_passing import MessagePassing
from ..aggr import AbstractAggregation, Sum
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow
from ._attend import AttentionWeights, attend, merge_heads, project_heads, split_heads
from ._neighbors import Nodes, edge_features, endpoints, inputs_of


class TransformerConv(eqx.Module):
    r"""Graph transformer layer.

    $x_i' = W_1 x_i + \Vert_h \sum_{j \in N(i)} \alpha_{ij}^h (W_2^h x_j + W_6^h e_{ji})$ with
    $\alpha_{ij} = \mathrm{softmax}_j \frac{(W_3 x_i) \cdot (W_4 x_j + W_6 e_{ji})}{\sqrt{d}}$; with `beta`,
    $x_i' = \beta_i W_1 x_i + (1 - \beta_i) m_i$, $\beta_i = \sigma(w_5 \cdot [m_i, W_1 x_i, m_i - W_1 x_i])$.

    $W_1$ is `lin_skip`, $W_2$ `lin_value`, $W_3$ `lin_query`, $W_4$ `lin_key`, $W_6$ `lin_edge`. Edge features are
    mapped on the nodes' side of the products: $q \cdot W_6 e = (W_6^\top q) \cdot e$ and
    $\sum_j \alpha_{ij} W_6 e_{ji} = W_6 \sum_j \alpha_{ij} e_{ji}$, so no edge holds `heads * channels` numbers.

    ??? cite "Reference"
        Shi et al., Masked Label Prediction: Unified Message Passing Model for Semi-Supervised Classification, IJCAI
        2021, eqs. 3-5. As in PyTorch Geometric 2.8, `lin_skip` exists without `root_weight` too.
    """

    lin_key: eqx.nn.Linear
    lin_query: eqx.nn.Linear
    lin_value: eqx.nn.Linear
    lin_edge: eqx.nn.Linear | None
    lin_skip: eqx.nn.Linear
    lin_beta: eqx.nn.Linear | None
    dropout: eqx.nn.Dropout
    aggregation: AbstractAggregation
    heads: int = eqx.field(static=True)
    concat: bool = eqx.field(static=True)
    root_weight: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int | tuple[int, int],
        out_features: int,
        heads: int = 1,
        *,
        concat: bool = True,
        beta: bool = False,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        bias: bool = True,
        root_weight: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`: features per node, or (senders', receivers') of a bipartite graph.
        - `out_features`: features per head.
        - `heads`: number of attention heads.
        - `concat`: put heads side by side; their mean if False.
        - `beta`: mix the node itself and its neighbours by a learned gate (only with `root_weight`).
        - `dropout`: probability of dropping an attention weight; active outside `eqx.nn.inference_mode`.
        - `edge_dim`: features per edge, if there are any; then `edge_attr` must be given.
        - `bias`: learn additive biases.
        - `root_weight`: add a linear map of the node itself.
        - `aggr`: aggregation of the weighted values, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear maps.
        """
        check_sizes(in_features=in_features, out_features=out_features, heads=heads, edge_dim=edge_dim)
        in_src, in_dst = in_features if isinstance(in_features, tuple) else (in_features, in_features)
        keys = jr.split(key, 6)
        total = heads * out_features
        self.lin_key = eqx.nn.Linear(in_src, total, use_bias=bias, key=keys[0])
        self.lin_query = eqx.nn.Linear(in_dst, total, use_bias=bias, key=keys[1])
        self.lin_value = eqx.nn.Linear(in_src, total, use_bias=bias, key=keys[2])
        self.lin_edge = None if edge_dim is None else eqx.nn.Linear(edge_dim, total, use_bias=False, key=keys[3])
        out = total if concat else out_features
        self.lin_skip = eqx.nn.Linear(in_dst, out, use_bias=bias, key=keys[4])
        gated = beta and root_weight
        self.lin_beta = eqx.nn.Linear(3 * out, 1, use_bias=False, key=keys[5]) if gated else None
        self.dropout = make_dropout(dropout)
        self.aggregation = as_aggregation(aggr)
        self.heads = heads
        self.concat = concat
        self.root_weight = root_weight
        self.flow = flow

    @overload
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
        return_attention_weights: Literal[False] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "num_receivers out"]: ...
    @overload
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
        *,
        return_attention_weights: Literal[True],
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "num_receivers out"], AttentionWeights]: ...
    @jax.named_scope("eqx_graph.TransformerConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
        return_attention_weights: bool | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "num_receivers out"] | tuple[Float[Array, "num_receivers out"], AttentionWeights]:
        """**Arguments:**

        - `x`: node features, or (senders', receivers').
        - `edge_index`: `(2, num_edges)` integers or an `EdgeIndex`.
        - `edge_attr`: one row per edge, in the caller's order.
        - `return_attention_weights`: return `(out, AttentionWeights)`, weights before dropout.
        - `key`: draws the dropout mask.

        **Returns:** new receiver features, `(num_receivers, heads * out_features)`, or the mean over heads.

        **Raises:** `ValueError` for wrong sizes, missing `edge_attr`, or if dropout is active and `key` is None.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, None, self.flow)
        if self.lin_edge is not None and edge_attr is None:
            raise ValueError("`edge_attr` must be given: the layer was built with `edge_dim`; got None.")
        if x_dst is None:
            raise ValueError("`x` must hold features of receivers too, which ask the queries; got (x_src, None).")
        scale = math.sqrt(self.lin_query.weight.shape[0] // self.heads)
        query = project_heads(jax.tree.map(lambda a: a / scale, self.lin_query), x_dst, self.heads)
        values = project_heads(self.lin_value, x_src, self.heads)
        check_features(x_src, int(self.lin_key.in_features))
        # Without the bias of the keys: it adds the same to all logits of a receiver, which their softmax does not see.
        keys = split_heads(x_src @ self.lin_key.weight.T, self.heads)
        logits = edge_dot(edges, keys, query)
        if edge_attr is not None:
            edge_attr = edge_features(edges, edge_attr, inputs_of(self.lin_edge))
            logits = logits + edge_map(
                edges, _edge_logits, x_i=self._to_edge_space(query), edge_values=edges.arrange(edge_attr)
            )
        options = {"dropout": self.dropout, "key": key, "aggregation": self.aggregation}
        terms = None if edge_attr is None or self.lin_edge is None else (self.lin_edge, edge_attr)
        attended = attend(edges, logits, values, edge_terms=terms, **options)
        out = attended.out
        if edge_attr is not None and isinstance(self.aggregation, Sum):
            alpha = edges.restore(attended.dropped[0])
            mean = _WeightedEdges().propagate(edges, alpha=alpha, edge_attr=edge_attr)
            out = out + jnp.einsum("nhd,hcd->nhc", mean, self._edge_weight())
        out = merge_heads(out, self.concat)
        if self.root_weight:
            root = project(self.lin_skip, x_dst)
            if self.lin_beta is None:
                out = out + root
            else:
                beta = jax.nn.sigmoid(project(self.lin_beta, jnp.concatenate([out, root, out - root], axis=-1)))
                out = beta * root + (1.0 - beta) * out
        return (out, attended.weights(attended.softmax, self.flow)) if return_attention_weights else out

    def _edge_weight(self) -> Float[Array, "heads channels edge_dim"]:
        assert self.lin_edge is not None
        return self.lin_edge.weight.reshape(self.heads, -1, self.lin_edge.weight.shape[1])

    def _to_edge_space(self, query: Float[Array, "rows heads channels"]) -> Float[Array, "rows heads edge_dim"]:
        return jnp.einsum("nhc,hcd->nhd", query, self._edge_weight())


def _edge_logits(x_i: Float[Array, "heads edge_dim"], edge_values: Float[Array, " edge_dim"]) -> Float[Array, " heads"]:
    return x_i @ edge_values


class _WeightedEdges(MessagePassing):
    """Edge features, weighted by every head and summed at the receiver."""

    aggregation: AbstractAggregation = Sum()

    def message(self, alpha: Float[Array, " heads"], edge_attr: Float[Array, " edge_dim"]) -> Array:
        return alpha[:, None] * edge_attr[None, :]
