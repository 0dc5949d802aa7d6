"""Gated graph networks: recurrent, and with gates on edges."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import EdgeIndexLike
from .._linear import add_bias, check_features, check_sizes, project, uniform
from .._message_passing import MessagePassing
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow
from ._neighbors import Nodes, edge_features, endpoints, neighbors


class GatedGraphConv(eqx.Module):
    r"""Gated graph sequence network.

    $h_i \leftarrow \mathrm{GRU}\left(\bigoplus_{j \in N(i)} w_{ji} h_j \Theta_l,\; h_i\right)$ for $l = 1, \dots, L$,
    from $h_i = [x_i, 0]$, padded to `out_features`.

    ??? cite "Reference"
        Li et al., Gated Graph Sequence Neural Networks, ICLR 2016, eqs. 1-6.
    """

    weight: Float[Array, "num_layers out out"]
    rnn: eqx.nn.GRUCell
    aggregation: AbstractAggregation
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        out_features: int,
        num_layers: int,
        aggr: AggregationLike = "sum",
        *,
        bias: bool = True,
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `out_features`: features per node of the state; at least those of the input.
        - `num_layers`: number of steps, at least 1.
        - `aggr`: aggregation of the neighbours, or its name.
        - `bias`: biases of the recurrent cell.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws all weights.

        **Raises:** `ValueError` for `num_layers` below 1.
        """
        check_sizes(out_features=out_features)
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be at least 1; got {num_layers}.")
        k_weight, k_rnn = jr.split(key)
        self.weight = uniform(k_weight, (num_layers, out_features, out_features), out_features**-0.5)
        self.rnn = eqx.nn.GRUCell(out_features, out_features, use_bias=bias, key=k_rnn)
        self.aggregation = as_aggregation(aggr)
        self.flow = flow

    @jax.named_scope("eqx_graph.GatedGraphConv")
    def __call__(
        self,
        x: Float[Array, "num_nodes in"],
        edge_index: EdgeIndexLike,
        edge_weight: Float[Array, " num_edges"] | None = None,
    ) -> Float[Array, "num_nodes out"]:
        """**Arguments:** as `GraphConv`. **Returns:** the last state, `(num_nodes, out_features)`.

        **Raises:** `ValueError` if `x` has more features than the state.
        """
        missing = self.weight.shape[1] - x.shape[1]
        if missing < 0:
            raise ValueError(f"`x` must have at most out_features={self.weight.shape[1]} features; got {x.shape}.")
        edges = endpoints(x, edge_index, None, self.flow)[2]

        def step(h: Array, weight: Array) -> tuple[Array, None]:
            return jax.vmap(self.rnn)(neighbors(self.aggregation, edges, h @ weight, edge_weight), h), None

        return jax.lax.scan(step, jnp.pad(x, ((0, 0), (0, missing))), self.weight)[0]


class ResGatedGraphConv(MessagePassing):
    r"""Residual gated graph convolution.

    $x_i' = W_1 x_i + \bigoplus_j \mathrm{act}(W_3 [x_i, e_{ji}] + W_4 [x_j, e_{ji}]) \odot W_2 [x_j, e_{ji}] + b$;
    $W_1$ is `lin_skip`, $W_2$ `lin_value`, $W_3$ `lin_key`, $W_4$ `lin_query`. What meets nodes is applied to nodes.

    ??? cite "Reference"
        Bresson and Laurent, Residual Gated Graph ConvNets, arXiv 1711.07553, 2017, eq. 11.
    """

    lin_key: eqx.nn.Linear
    lin_query: eqx.nn.Linear
    lin_value: eqx.nn.Linear
    lin_skip: eqx.nn.Linear | None
    bias: Float[Array, " out"] | None
    aggregation: AbstractAggregation
    act: Callable[[Array], Array]
    edge_dim: int | None = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int | tuple[int, int],
        out_features: int,
        act: Callable[[Array], Array] = jax.nn.sigmoid,
        *,
        edge_dim: int | None = None,
        root_weight: bool = True,
        bias: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`: features per node, or (senders', receivers') of a bipartite graph.
        - `out_features`: features per node of the result.
        - `act`: the gate's activation.
        - `edge_dim`: features per edge, if there are any; then `edge_attr` must be given.
        - `root_weight`: add a linear map of the node itself.
        - `bias`: learn an additive bias, zero at first.
        - `aggr`: aggregation of the messages, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear maps.
        """
        check_sizes(in_features=in_features, out_features=out_features, edge_dim=edge_dim)
        src, dst = in_features if isinstance(in_features, tuple) else (in_features, in_features)
        extra = 0 if edge_dim is None else edge_dim
        keys = jr.split(key, 4)
        self.lin_key = eqx.nn.Linear(dst + extra, out_features, key=keys[0])
        self.lin_query = eqx.nn.Linear(src + extra, out_features, key=keys[1])
        self.lin_value = eqx.nn.Linear(src + extra, out_features, key=keys[2])
        self.lin_skip = eqx.nn.Linear(dst, out_features, use_bias=False, key=keys[3]) if root_weight else None
        self.bias = jnp.zeros(out_features) if bias else None
        self.aggregation = as_aggregation(aggr)
        self.act = act
        self.edge_dim = edge_dim
        self.flow = flow

    def message(
        self,
        gate_i: Float[Array, " out"],
        sent_j: Float[Array, "2 out"],
        edge_attr: Float[Array, " edge_dim"] | None,
    ) -> Float[Array, " out"]:
        query, value = sent_j
        gate = gate_i + query
        if edge_attr is not None and self.edge_dim is not None:
            on_edge = (lin.weight[:, -self.edge_dim :] @ edge_attr for lin in (self.lin_key, self.lin_query))
            gate = gate + sum(on_edge, start=jnp.zeros((), gate.dtype))
            value = value + self.lin_value.weight[:, -self.edge_dim :] @ edge_attr
        return self.act(gate) * value

    @jax.named_scope("eqx_graph.ResGatedGraphConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
    ) -> Float[Array, "num_receivers out"]:
        """**Arguments:**

        - `x`: node features, or (senders', receivers').
        - `edge_index`: `(2, num_edges)` integers or an `EdgeIndex`.
        - `edge_attr`: one row per edge, in the caller's order.

        **Returns:** new receiver features, `(num_receivers, out_features)`.

        **Raises:** `ValueError` for wrong sizes or missing `edge_attr`.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, None, self.flow)
        if x_dst is None:
            raise ValueError("`x` must hold features of receivers too; got (x_src, None).")
        if self.edge_dim is not None and edge_attr is None:
            raise ValueError("`edge_attr` must be given: the layer was built with `edge_dim`; got None.")
        if edge_attr is not None:
            edge_attr = edge_features(edges, edge_attr, self.edge_dim)
        gate = self._on_nodes(self.lin_key, x_dst)
        sent = jnp.stack([self._on_nodes(self.lin_query, x_src), self._on_nodes(self.lin_value, x_src)], axis=1)
        out = self.propagate(edges, gate=(None, gate), sent=(sent, None), edge_attr=edge_attr)
        out = out if self.lin_skip is None else out + project(self.lin_skip, x_dst)
        return add_bias(out, self.bias)

    def _on_nodes(self, linear: Any, x: Array) -> Array:
        width = int(linear.in_features) - (0 if self.edge_dim is None else self.edge_dim)
        check_features(x, width)
        return add_bias(x @ linear.weight[:, :width].T, linear.bias)
