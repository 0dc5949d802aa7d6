"""Dynamic graph attention."""

import functools as ft
from typing import Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, PRNGKeyArray

from ..._kernels import head_sums
from ..._linear_call import linear_call
from ..._ruled import ruled
from ...data import EdgeIndexLike
from ...ops import edge_map
from .._dropout import make_dropout
from .._linear import add_bias, check_sizes, glorot, glorot_linear, project
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow
from ._attend import (
    AttentionWeights,
    FillValue,
    attend,
    loop_features,
    loops_of,
    merge_heads,
    project_once,
    split_heads,
)
from ._neighbors import Nodes, edge_features, endpoints, inputs_of


class GATv2Conv(eqx.Module):
    r"""Dynamic graph attention.

    $x_i' = \Vert_h \sum_{j \in N(i)} \alpha_{ij}^h W_l^h x_j$ with
    $\alpha_{ij} = \mathrm{softmax}_j\, a \cdot \mathrm{LeakyReLU}(W_l x_j + W_r x_i + W_e e_{ji})$.

    ??? cite "Reference"
        Brody et al., How Attentive are Graph Attention Networks?, ICLR 2022, eq. 7. Deviation from PyTorch Geometric
        2.8: where `add_self_loops` replaces loops that were among the edges, these stay in the returned weights with
        weight 0 (PyG removes them).
    """

    lin_l: eqx.nn.Linear
    lin_r: eqx.nn.Linear | None
    lin_edge: eqx.nn.Linear | None
    res: eqx.nn.Linear | None
    att: Float[Array, "1 heads channels"]
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
        share_weights: bool = False,
        residual: bool = False,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:** those of `GATConv`, and

        - `bias`: biases in both linear maps and in the result.
        - `share_weights`: use `lin_l` for receivers too (`lin_r` is None).

        **Raises:** `ValueError` for `share_weights` with different sizes on the two sides.
        """
        check_sizes(in_features=in_features, out_features=out_features, heads=heads, edge_dim=edge_dim)
        in_src, in_dst = in_features if isinstance(in_features, tuple) else (in_features, in_features)
        if share_weights and in_src != in_dst:
            raise ValueError(f"`share_weights` needs as many features on either side; got in_features={in_features}.")
        k_l, k_r, k_edge, k_res, k_att = jr.split(key, 5)
        total = heads * out_features
        self.lin_l = glorot_linear(in_src, total, use_bias=bias, key=k_l)
        self.lin_r = None if share_weights else glorot_linear(in_dst, total, use_bias=bias, key=k_r)
        self.lin_edge = None if edge_dim is None else glorot_linear(edge_dim, total, key=k_edge)
        self.att = glorot(k_att, (1, heads, out_features))
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
    @jax.named_scope("eqx_graph.GATv2Conv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
        return_attention_weights: bool | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "num_receivers out"] | tuple[Float[Array, "num_receivers out"], AttentionWeights]:
        """**Arguments:** those of `GATConv` but `size`; receivers need features.

        **Returns:** new receiver features, `(num_receivers, heads * out_features)`, or the mean over heads.

        **Raises:** `ValueError` for wrong sizes, or if dropout is active and `key` is None.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, None, self.flow)
        if x_dst is None:
            raise ValueError("`x` must hold features of receivers too; got (x_src, None). GATConv works without them.")
        lin_r = self.lin_l if self.lin_r is None else self.lin_r
        senders = project_once(self.lin_l, x_src)
        receivers = senders if lin_r is self.lin_l and x_dst is x_src else project_once(lin_r, x_dst)
        loops = loop_logits = None
        if edge_attr is not None:
            edge_attr = edge_features(edges, edge_attr, inputs_of(self.lin_edge))
        if self.add_self_loops:
            edges = edges.remove_self_loops()
            if edge_attr is not None:
                loops = loop_features(edges, edge_attr, self.fill_value, self.flow)
            num_loops = loops_of(edges)
            of_loops = self._ends(senders[:num_loops]), self._ends(receivers[:num_loops])
            loop_logits = jax.vmap(self._logits)(*of_loops, loops)
        edge_values = None if edge_attr is None else edges.arrange(edge_attr)
        x_j, x_i = self._ends(senders), self._ends(receivers)
        logits = edge_map(edges, self._logits, x_j=x_j, x_i=x_i, edge_values=edge_values)
        values = split_heads(senders, self.heads)
        options = {"dropout": self.dropout, "key": key, "aggregation": self.aggregation}
        attended = attend(edges, logits, values, loop_logits, **options)
        out = merge_heads(attended.out, self.concat)
        if self.res is not None:
            out = out + project(self.res, x_dst)
        out = add_bias(out, self.bias)
        return (out, attended.weights(attended.dropped, self.flow)) if return_attention_weights else out

    def _ends(self, x: Float[Array, "rows total"]) -> tuple[Array, Array]:
        r"""What edges need of their ends: $z$ for the value, and $a \odot z$, which has the gradient.

        $a \cdot \mathrm{LeakyReLU}(z_j + z_i) = m \cdot (a \odot z_j + a \odot z_i)$, where the slopes $m$ have no
        gradient in $z$. So the gradient of $a$ is a sum over nodes; over edges it takes as long as the rest of a step.
        """
        return jax.lax.stop_gradient(x), x * self.att.reshape(1, -1)

    def _logits(
        self,
        x_j: tuple[Float[Array, " total"], Float[Array, " total"]],
        x_i: tuple[Float[Array, " total"], Float[Array, " total"]],
        edge_values: Float[Array, " edge_dim"] | None = None,
    ) -> Float[Array, " heads"]:
        """Logits of one edge."""
        z, weighted = x_i[0] + x_j[0], x_i[1] + x_j[1]
        if edge_values is not None and self.lin_edge is not None:
            on_edge = self.lin_edge(edge_values)
            z, weighted = z + jax.lax.stop_gradient(on_edge), weighted + on_edge * self.att.reshape(-1)
        slope = jnp.asarray(self.negative_slope, z.dtype)
        terms = _weighted_leaky_relu(z, jax.lax.stop_gradient(self.att.reshape(-1)), slope, weighted)
        return linear_call(ft.partial(_sums, self.heads), ft.partial(_spread, terms.shape[0] // self.heads), (), terms)


def _sums(heads: int, nothing: tuple, terms: Float[Array, " total"]) -> Float[Array, " heads"]:
    del nothing
    return head_sums(terms, heads)


def _spread(channels: int, nothing: tuple, ct: Float[Array, " heads"]) -> Float[Array, " total"]:
    """The transpose of `_sums`, which needs no product."""
    del nothing
    return jnp.repeat(ct, channels)


def _leaky_relu_times(z: Array, att: Array, slope: Array, weighted: Array) -> Array:
    del weighted
    return att * jnp.where(z > 0, z, slope * z)


def _leaky_relu_times_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    z, _, slope, weighted = primals
    factors = None, None, jnp.where(z > 0, 0, weighted), jnp.where(z > 0, 1, slope)
    pairs = zip(factors, tangents, strict=True)
    terms = [f * t for f, t in pairs if f is not None and not isinstance(t, SymbolicZero)]
    return _weighted_leaky_relu(*primals), sum(terms, jnp.zeros_like(z))


# $a \odot \mathrm{LeakyReLU}(z)$, whose gradient is that in `weighted` $= a \odot z$ and in `slope` alone. The value
# does not read `weighted`: gathering the rows of both takes twice as long.
_weighted_leaky_relu = ruled(_leaky_relu_times, _leaky_relu_times_jvp)
