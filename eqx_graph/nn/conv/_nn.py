"""Edge-conditioned convolution: a network maps an edge's features to the matrix that its message goes through."""

from collections.abc import Callable
from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import EdgeIndexLike
from .._linear import add_bias, check_features, check_sizes, project
from .._message_passing import MessagePassing
from .._rows import apply_row, apply_rows, mixes_rows
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow
from ._first_last import split_last
from ._neighbors import NodeMask, Nodes, counted_edges, edge_features, endpoints, reduce_messages


class NNConv(eqx.Module):
    r"""Edge-conditioned convolution, $x_i' = W x_i + \bigoplus_{j \in N(i)} x_j \Theta(e_{ji}) + b$.

    $\Theta(e)$ is `nn(e)` read as an `(in_features, out_features)` matrix. Where `nn` ends with a linear map,
    $\Theta(e) = B + \sum_k h_k(e) M_k$, every node is multiplied with the matrices $M_k$ and $B$ once, and an edge only
    mixes the results with its $h(e)$: no matrix per edge exists. Any other `nn` is run edge by edge, in blocks; one
    whose norms take statistics over rows (`MLP` with `batch_norm`, say) on all edges at once, and its matrices exist.

    ??? cite "Reference"
        Gilmer et al., Neural Message Passing for Quantum Chemistry, ICML 2017, section 5 (edge network);
        Simonovsky and Komodakis, Dynamic Edge-Conditioned Filters in Convolutional Neural Networks on Graphs, CVPR
        2017, eq. 1.
    """

    nn: Callable[..., Any]
    lin: eqx.nn.Linear | None
    bias: Float[Array, " out"] | None
    aggregation: AbstractAggregation
    in_features: int = eqx.field(static=True)
    out_features: int = eqx.field(static=True)
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int | tuple[int, int],
        out_features: int,
        nn: Callable[..., Any],
        aggr: AggregationLike = "sum",
        *,
        root_weight: bool = True,
        bias: bool = True,
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`: features per node, or (senders', receivers') of a bipartite graph.
        - `out_features`: features per node of the result.
        - `nn`: network on ONE edge's features, with `in_features * out_features` outputs (senders' features vary
            slowest).
        - `aggr`: aggregation of the messages, or its name.
        - `root_weight`: add a linear map of the node itself.
        - `bias`: learn an additive bias, zero at first.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the root's linear map.
        """
        check_sizes(in_features=in_features, out_features=out_features)
        in_src, in_dst = in_features if isinstance(in_features, tuple) else (in_features, in_features)
        self.nn = nn
        self.lin = eqx.nn.Linear(in_dst, out_features, use_bias=False, key=key) if root_weight else None
        self.bias = jnp.zeros(out_features) if bias else None
        self.aggregation = as_aggregation(aggr)
        self.in_features = in_src
        self.out_features = out_features
        self.flow = flow

    @overload
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"],
        size: tuple[int, int] | None = None,
        *,
        mask: NodeMask | None = None,
    ) -> Float[Array, "num_receivers out"]: ...
    @overload
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"],
        size: tuple[int, int] | None = None,
        *,
        mask: NodeMask | None = None,
        state: eqx.nn.State,
    ) -> tuple[Float[Array, "num_receivers out"], eqx.nn.State]: ...
    @jax.named_scope("eqx_graph.NNConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"],
        size: tuple[int, int] | None = None,
        *,
        mask: NodeMask | None = None,
        state: eqx.nn.State | None = None,
    ) -> Float[Array, "num_receivers out"] | tuple[Float[Array, "num_receivers out"], eqx.nn.State]:
        """**Arguments:** as `SAGEConv`; `edge_attr` holds one row per edge, in the caller's order; `mask` is False for
        receivers (padding) whose edges the norms of an `MLP` leave out, `state` holds the running statistics of its
        batch norms.

        **Returns:** new receiver features, `(num_receivers, out_features)`; `(out, state)` if `state` is given.

        **Raises:** `ValueError` for wrong sizes, among them the number of outputs of `nn`.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, size, self.flow)
        check_features(x_src, self.in_features)
        edge_attr = edge_features(edges, edge_attr, -1)
        trunk, last = split_last(self.nn)
        if mixes_rows(self.nn):
            matrices, state = apply_rows(self.nn, edges.arrange(edge_attr), state, counted_edges(edges, mask))
            self._check_outputs(matrices.shape[1:])
            matrices = matrices.reshape(-1, self.in_features, self.out_features)
            sent = jnp.einsum("ei,eio->eo", edges.send(x_src), matrices)
            out = reduce_messages(self.aggregation, edges, sent)
        elif last is None:
            self._check_network(edge_attr)
            out = _MatrixPerEdge(self.aggregation, self.nn).propagate(edges, x=(x_src, None), edge_attr=edge_attr)
        else:
            self._check_network(edge_attr)
            products = self._products(last, x_src)
            out = _MixPerEdge(self.aggregation, trunk).propagate(edges, p=(products, None), edge_attr=edge_attr)
        if self.lin is not None and x_dst is not None:
            out = out + project(self.lin, x_dst)
        out = add_bias(out, self.bias)
        return out if state is None else (out, state)

    def _products(
        self, last: eqx.nn.Linear, x: Float[Array, "num_senders in"]
    ) -> tuple[Float[Array, "num_senders hidden out"], Float[Array, "num_senders out"] | None]:
        r"""$x_j M_k$ for every $k$, and $x_j B$."""
        matrices = last.weight.reshape(self.in_features, self.out_features, -1)
        products = jnp.einsum("ni,iok->nko", x, matrices)
        if last.bias is None:
            return products, None
        return products, x @ last.bias.reshape(self.in_features, self.out_features)

    def _check_network(self, edge_attr: Float[Array, "num_edges edge_dim"]) -> None:
        row = jax.ShapeDtypeStruct(edge_attr.shape[1:], edge_attr.dtype)
        self._check_outputs(eqx.filter_eval_shape(lambda nn, e: apply_row(nn, e), self.nn, row).shape)

    def _check_outputs(self, outputs: tuple[int, ...]) -> None:
        if outputs != (self.in_features * self.out_features,):
            raise ValueError(
                f"`nn` must have in_features * out_features = {self.in_features * self.out_features} outputs; "
                f"got shape {outputs} for one edge."
            )


class _MatrixPerEdge(MessagePassing):
    """Messages through the matrix that `nn` gives."""

    aggregation: AbstractAggregation
    nn: Callable[..., Any]

    def message(self, x_j: Float[Array, " in"], edge_attr: Float[Array, " edge_dim"]) -> Float[Array, " out"]:
        return x_j @ apply_row(self.nn, edge_attr).reshape(x_j.shape[0], -1)


class _MixPerEdge(MessagePassing):
    """Messages mixed from the sender's products by the hidden layer that `trunk` gives."""

    aggregation: AbstractAggregation
    trunk: Callable[..., Any]

    def message(
        self,
        p_j: tuple[Float[Array, "hidden out"], Float[Array, " out"] | None],
        edge_attr: Float[Array, " edge_dim"],
    ) -> Float[Array, " out"]:
        products, constant = p_j
        mixed = self.trunk(edge_attr) @ products
        return mixed if constant is None else mixed + constant
