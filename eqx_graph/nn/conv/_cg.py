"""Crystal graph convolution."""

from typing import overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import EdgeIndexLike
from .._linear import check_features, check_sizes
from .._message_passing import MessagePassing
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ..norm import BatchNorm
from ._adjacency import Flow
from ._neighbors import NodeMask, Nodes, edge_features, endpoints


class CGConv(MessagePassing):
    r"""Crystal graph convolution.

    $x_i' = x_i + \bigoplus_{j \in N(i)} \sigma(W_f z_{ji} + b_f) \odot \mathrm{softplus}(W_s z_{ji} + b_s)$ with
    $z_{ji} = [x_i, x_j, e_{ji}]$; with `batch_norm`, the aggregate is normalised before $x_i$ is added.

    The parts of $W_f$ and $W_s$ that meet nodes are applied to nodes, so an edge only adds them up.

    ??? cite "Reference"
        Xie and Grossman, Crystal Graph Convolutional Neural Networks for an Accurate and Interpretable Prediction of
        Material Properties, PRL 2018, eq. 5.
    """

    lin_f: eqx.nn.Linear
    lin_s: eqx.nn.Linear
    bn: BatchNorm | None
    aggregation: AbstractAggregation
    dim: int = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        features: int | tuple[int, int],
        dim: int = 0,
        aggr: AggregationLike = "sum",
        *,
        batch_norm: bool = False,
        bias: bool = True,
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `features`: features per node (before and after), or (senders', receivers') of a bipartite graph.
        - `dim`: features per edge.
        - `aggr`: aggregation of the messages, or its name.
        - `batch_norm`: normalise the aggregate over nodes; then `state` must be passed at every call.
        - `bias`: learn the additive biases $b_f$ and $b_s$.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear maps.
        """
        check_sizes(features=features)
        src, dst = features if isinstance(features, tuple) else (features, features)
        k_f, k_s = jr.split(key)
        self.lin_f = eqx.nn.Linear(src + dst + dim, dst, use_bias=bias, key=k_f)
        self.lin_s = eqx.nn.Linear(src + dst + dim, dst, use_bias=bias, key=k_s)
        self.bn = BatchNorm(dst) if batch_norm else None
        self.aggregation = as_aggregation(aggr)
        self.dim = dim
        self.flow = flow

    def message(
        self,
        z_i: Float[Array, "2 dst"],
        z_j: Float[Array, "2 dst"],
        edge_attr: Float[Array, " edge_dim"] | None,
    ) -> Float[Array, " dst"]:
        gate, value = z_i + z_j
        if edge_attr is not None:
            gate = gate + self.lin_f.weight[:, -self.dim :] @ edge_attr
            value = value + self.lin_s.weight[:, -self.dim :] @ edge_attr
        return jax.nn.sigmoid(gate) * jax.nn.softplus(value)

    @overload
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
        *,
        mask: NodeMask | None = None,
    ) -> Float[Array, "num_receivers dst"]: ...
    @overload
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
        *,
        mask: NodeMask | None = None,
        state: eqx.nn.State,
    ) -> tuple[Float[Array, "num_receivers dst"], eqx.nn.State]: ...
    @jax.named_scope("eqx_graph.CGConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
        *,
        mask: NodeMask | None = None,
        state: eqx.nn.State | None = None,
    ) -> Float[Array, "num_receivers dst"] | tuple[Float[Array, "num_receivers dst"], eqx.nn.State]:
        """**Arguments:**

        - `x`: node features, or (senders', receivers').
        - `edge_index`: `(2, num_edges)` integers or an `EdgeIndex`.
        - `edge_attr`: one row of `dim` features per edge, in the caller's order; None for `dim=0`.
        - `mask`: False for receivers that `batch_norm` leaves out (padding).
        - `state`: running statistics, with `batch_norm`.

        **Returns:** new receiver features, the shape of the old ones; `(out, state)` if `state` is given.

        **Raises:** `ValueError` for wrong sizes, missing `edge_attr`, or missing `state` with `batch_norm`.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, None, self.flow)
        if x_dst is None:
            raise ValueError("`x` must hold features of receivers too; got (x_src, None).")
        dst = int(self.lin_f.out_features)
        src = int(self.lin_f.in_features) - dst - self.dim
        check_features(x_dst, dst)
        check_features(x_src, src)
        if (edge_attr is None) != (self.dim == 0):
            got = None if edge_attr is None else edge_attr.shape
            raise ValueError(f"`edge_attr` must have dim={self.dim} features per edge (None for dim=0); got {got}.")
        if edge_attr is not None:
            edge_attr = edge_features(edges, edge_attr, self.dim)
        z_i = _on_nodes(x_dst, self.lin_f.weight[:, :dst], self.lin_s.weight[:, :dst])
        if self.lin_f.bias is not None and self.lin_s.bias is not None:
            z_i = z_i + jnp.stack([self.lin_f.bias, self.lin_s.bias])[None]
        neighbour = slice(dst, dst + src)
        z_j = _on_nodes(x_src, self.lin_f.weight[:, neighbour], self.lin_s.weight[:, neighbour])
        out = self.propagate(edges, z=(z_j, z_i), edge_attr=edge_attr)
        if self.bn is not None:
            if state is None:
                raise ValueError(
                    "`state` must be given to a CGConv with `batch_norm`; got None. Build the model with "
                    "`eqx.nn.make_with_state` and pass its state."
                )
            out, state = self.bn(out, state, mask=mask)
        out = out + x_dst
        return out if state is None else (out, state)


def _on_nodes(x: Array, gate: Array, value: Array) -> Float[Array, "rows 2 dst"]:
    return jnp.stack([x @ gate.T, x @ value.T], axis=1)
