"""Graph attention."""

from typing import Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import EdgeIndexLike
from ...ops import edge_map
from .._activation import leaky_relu
from .._dropout import make_dropout
from .._linear import add_bias, check_features, check_sizes, glorot, glorot_linear, project
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow
from ._attend import (
    AttentionWeights,
    FillValue,
    attend,
    head_dots,
    loop_features,
    loops_of,
    merge_heads,
    project_heads,
)
from ._neighbors import Nodes, edge_features, endpoints, inputs_of


class GATConv(eqx.Module):
    r"""Graph attention.

    $x_i' = \Vert_h \sum_{j \in N(i)} \alpha_{ij}^h W^h x_j$ with
    $\alpha_{ij} = \mathrm{softmax}_j\, \mathrm{LeakyReLU}(a_s \cdot W x_j + a_t \cdot W x_i + a_e \cdot W_e e_{ji})$.

    ??? cite "Reference"
        Veličković et al., Graph Attention Networks, ICLR 2018, eqs. 1-6. Deviations from PyTorch Geometric 2.8: edge
        features without `edge_dim` are an error (PyG ignores them); where `add_self_loops` replaces loops that were
        among the edges, these stay in the returned weights with weight 0 (PyG removes them).
    """

    lin: eqx.nn.Linear | None
    lin_src: eqx.nn.Linear | None
    lin_dst: eqx.nn.Linear | None
    lin_edge: eqx.nn.Linear | None
    res: eqx.nn.Linear | None
    att_src: Float[Array, "1 heads channels"]
    att_dst: Float[Array, "1 heads channels"]
    att_edge: Float[Array, "1 heads channels"] | None
    bias: Float[Array, " out"] | None
    dropout: eqx.nn.Dropout
    negative_slope: float | Float[Array, ""]
    fill_value: FillValue
    aggregation: AbstractAggregation
    heads: int = eqx.field(static=True)
    concat: bool = eqx.field(static=True)
    add_self_loops: bool = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int | tuple[int, int],
        out_features: int,
        heads: int = 1,
        *,
        concat: bool = True,
        negative_slope: float | Float[Array, ""] = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: FillValue = "mean",
        bias: bool = True,
        residual: bool = False,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`: features per node, or (senders', receivers') of a bipartite graph (two linear maps).
        - `out_features`: features per head.
        - `heads`: number of attention heads.
        - `concat`: put heads side by side (`heads * out_features` in all); their mean if False.
        - `negative_slope`: slope of LeakyReLU below zero.
        - `dropout`: probability of dropping an attention weight; active outside `eqx.nn.inference_mode`.
        - `add_self_loops`: replace self-loops by exactly one per node.
        - `edge_dim`: features per edge, if there are any.
        - `fill_value`: edge features of added self-loops: a number, a vector, or the name of an aggregation of the
            features of the edges that enter the node (`"mean"`, `"add"`, `"min"`, `"max"`, `"mul"`).
        - `bias`: learn an additive bias, zero at first.
        - `residual`: add a linear map of the receiver's features.
        - `aggr`: aggregation of the weighted values, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the Glorot-uniform weights.
        """
        check_sizes(in_features=in_features, out_features=out_features, heads=heads, edge_dim=edge_dim)
        k_src, k_dst, k_edge, k_res, k_att = jr.split(key, 5)
        in_dst = in_features[1] if isinstance(in_features, tuple) else in_features
        total = heads * out_features
        self.lin = self.lin_src = self.lin_dst = None
        if isinstance(in_features, tuple):
            self.lin_src = glorot_linear(in_features[0], total, key=k_src)
            self.lin_dst = glorot_linear(in_dst, total, key=k_dst)
        else:
            self.lin = glorot_linear(in_features, total, key=k_src)
        self.lin_edge = None if edge_dim is None else glorot_linear(edge_dim, total, key=k_edge)
        a_src, a_dst, a_edge = (glorot(k, (1, heads, out_features)) for k in jr.split(k_att, 3))
        self.att_src, self.att_dst = a_src, a_dst
        self.att_edge = None if edge_dim is None else a_edge
        out = total if concat else out_features
        self.res = glorot_linear(in_dst, out, key=k_res) if residual else None
        self.bias = jnp.zeros(out) if bias else None
        self.dropout = make_dropout(dropout)
        self.negative_slope = negative_slope
        self.fill_value = fill_value
        self.aggregation = as_aggregation(aggr)
        self.heads = heads
        self.concat = concat
        self.add_self_loops = add_self_loops
        self.flow = flow

    @overload
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
        size: tuple[int, int] | None = None,
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
        size: tuple[int, int] | None = None,
        *,
        return_attention_weights: Literal[True],
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "num_receivers out"], AttentionWeights]: ...
    @jax.named_scope("eqx_graph.GATConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
        size: tuple[int, int] | None = None,
        return_attention_weights: bool | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "num_receivers out"] | tuple[Float[Array, "num_receivers out"], AttentionWeights]:
        """**Arguments:**

        - `x`: node features, or (senders', receivers') with None for receivers that have none.
        - `edge_index`: `(2, num_edges)` integers or an `EdgeIndex`.
        - `edge_attr`: one row per edge, in the caller's order.
        - `size`: (number of senders, number of receivers), needed only with `(x, None)` and an array of edges.
        - `return_attention_weights`: return `(out, AttentionWeights)`.
        - `key`: draws the dropout mask.

        **Returns:** new receiver features, `(num_receivers, heads * out_features)`, or the mean over heads.

        **Raises:** `ValueError` for wrong sizes, or if dropout is active and `key` is None.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, size, self.flow)
        lin_src, lin_dst = (self.lin_src, self.lin_dst) if self.lin is None else (self.lin, self.lin)
        assert lin_src is not None and lin_dst is not None
        values = project_heads(lin_src, x_src, self.heads)
        if x_dst is None:
            (source,) = head_dots(lin_src, x_src, values, self.att_src)
            target = jnp.zeros((edges.num_receivers, self.heads), source.dtype)
        elif lin_src is lin_dst and x_dst is x_src:
            source, target = head_dots(lin_src, x_src, values, self.att_src, self.att_dst)
        else:
            (source,) = head_dots(lin_src, x_src, values, self.att_src)
            check_features(x_dst, int(lin_dst.in_features))
            (target,) = head_dots(lin_dst, x_dst, None, self.att_dst)
        if self.add_self_loops:
            edges = edges.remove_self_loops()
        loop_logits = on_edges = None
        if self.add_self_loops:
            loop_logits = source[: loops_of(edges)] + target[: loops_of(edges)]
        if edge_attr is not None:
            edge_attr = edge_features(edges, edge_attr, inputs_of(self.lin_edge))
            on_edges = edges.arrange(self._edge_logits(edge_attr))
            if loop_logits is not None:
                loop_logits = loop_logits + self._edge_logits(
                    loop_features(edges, edge_attr, self.fill_value, self.flow)
                )
        logits = edge_map(edges, self._logits, x_j=source, x_i=target, edge_values=on_edges)
        if loop_logits is not None:
            loop_logits = leaky_relu(loop_logits, self.negative_slope)
        options = {"dropout": self.dropout, "key": key, "aggregation": self.aggregation}
        attended = attend(edges, logits, values, loop_logits, **options)
        out = merge_heads(attended.out, self.concat)
        if self.res is not None and x_dst is not None:
            out = out + project(self.res, x_dst)
        out = add_bias(out, self.bias)
        return (out, attended.weights(attended.dropped, self.flow)) if return_attention_weights else out

    def _logits(
        self,
        x_j: Float[Array, " heads"],
        x_i: Float[Array, " heads"],
        edge_values: Float[Array, " heads"] | None = None,
    ) -> Float[Array, " heads"]:
        """Logits of one edge."""
        z = x_j + x_i if edge_values is None else x_j + x_i + edge_values
        return leaky_relu(z, self.negative_slope)

    def _edge_logits(self, edge_attr: Float[Array, "rows edge_dim"]) -> Float[Array, "rows heads"]:
        """$a_e \\cdot W_e e$ per head."""
        assert self.lin_edge is not None and self.att_edge is not None
        (dots,) = head_dots(self.lin_edge, edge_attr, None, self.att_edge)
        return dots
