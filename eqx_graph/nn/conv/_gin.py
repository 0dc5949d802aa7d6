"""Graph isomorphism networks: a sum of neighbours, then any network on a node."""

from collections.abc import Callable
from typing import Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ...data import EdgeIndexLike
from .._linear import check_sizes
from .._message_passing import MessagePassing
from .._rows import apply_rows
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow
from ._neighbors import NodeMask, Nodes, edge_features, endpoints, inputs_of, neighbors


class GINConv(eqx.Module):
    r"""Graph isomorphism operator, $x_i' = \mathrm{nn}\left((1 + \epsilon)\, x_i + \sum_{j \in N(i)} x_j\right)$.

    ??? cite "Reference"
        Xu et al., How Powerful are Graph Neural Networks?, ICLR 2019, eq. 4.1.
    """

    nn: Callable[..., Any]
    eps: float | Float[Array, "1"]
    aggregation: AbstractAggregation
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        nn: Callable[..., Any],
        eps: float = 0.0,
        train_eps: bool = False,
        *,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
    ):
        r"""**Arguments:**

        - `nn`: network on ONE node's features (an `eqx.nn.MLP`, say), or one that takes all rows (`MLP`).
        - `eps`: initial $\epsilon$.
        - `train_eps`: learn $\epsilon$; a plain float, which no optimiser sees, if False.
        - `aggr`: aggregation of the neighbours, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        """
        self.nn = nn
        self.eps = jnp.full(1, eps) if train_eps else float(eps)
        self.aggregation = as_aggregation(aggr)
        self.flow = flow

    @overload
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        size: tuple[int, int] | None = None,
        *,
        mask: NodeMask | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "num_receivers out"]: ...
    @overload
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        size: tuple[int, int] | None = None,
        *,
        mask: NodeMask | None = None,
        state: eqx.nn.State,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "num_receivers out"], eqx.nn.State]: ...
    @jax.named_scope("eqx_graph.GINConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        size: tuple[int, int] | None = None,
        *,
        mask: NodeMask | None = None,
        state: eqx.nn.State | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "num_receivers out"] | tuple[Float[Array, "num_receivers out"], eqx.nn.State]:
        """**Arguments:** as `SAGEConv`; a pair `x` needs as many features on either side. `mask` is False for
        receivers that the norms of an `MLP` leave out (padding), `state` holds the running statistics of batch norms,
        `key` draws the masks of a dropout in `nn`.

        **Returns:** `nn`'s rows, `(num_receivers, out_features)`; `(out, state)` if `state` is given.

        **Raises:** `ValueError` for wrong sizes.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, size, self.flow)
        out = neighbors(self.aggregation, edges, x_src)
        out, state = apply_rows(self.nn, _add_root(out, self.eps, x_dst), state, mask, key)
        return out if state is None else (out, state)


class GINEConv(MessagePassing):
    r"""GIN with edge features.

    $x_i' = \mathrm{nn}\left((1 + \epsilon)\, x_i + \sum_{j \in N(i)} \mathrm{ReLU}(x_j + W e_{ji} + b)\right)$; without
    `edge_dim`, $e_{ji}$ has as many entries as $x_j$ and is added as it is.

    ??? cite "Reference"
        Hu et al., Strategies for Pre-training Graph Neural Networks, ICLR 2020, appendix A.
    """

    nn: Callable[..., Any]
    eps: float | Float[Array, "1"]
    lin: eqx.nn.Linear | None
    aggregation: AbstractAggregation
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        nn: Callable[..., Any],
        eps: float = 0.0,
        train_eps: bool = False,
        edge_dim: int | None = None,
        *,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray | None = None,
    ):
        r"""**Arguments:**

        - `nn`, `eps`, `train_eps`, `aggr`, `flow`: as `GINConv`.
        - `edge_dim`: features per edge; if given, `lin` maps them to the input features of `nn`.
        - `key`: draws `lin`; needed with `edge_dim`.

        **Raises:** `ValueError` if `edge_dim` is given without `key`, or `nn` does not tell its input features.
        """
        check_sizes(edge_dim=edge_dim)
        self.nn = nn
        self.eps = jnp.full(1, eps) if train_eps else float(eps)
        self.lin = None
        if edge_dim is not None:
            if key is None:
                raise ValueError("`key` must be given with `edge_dim`: it draws the map of edge features; got None.")
            self.lin = eqx.nn.Linear(edge_dim, _input_features(nn), key=key)
        self.aggregation = as_aggregation(aggr)
        self.flow = flow

    def message(self, x_j: Float[Array, " in"], edge_attr: Float[Array, " edge_dim"]) -> Float[Array, " in"]:
        return jax.nn.relu(x_j + (edge_attr if self.lin is None else self.lin(edge_attr)))

    @overload
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"],
        size: tuple[int, int] | None = None,
        *,
        mask: NodeMask | None = None,
        key: PRNGKeyArray | None = None,
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
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "num_receivers out"], eqx.nn.State]: ...
    @jax.named_scope("eqx_graph.GINEConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_attr: Float[Array, " num_edges *edge_dim"],
        size: tuple[int, int] | None = None,
        *,
        mask: NodeMask | None = None,
        state: eqx.nn.State | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "num_receivers out"] | tuple[Float[Array, "num_receivers out"], eqx.nn.State]:
        """**Arguments:** as `GINConv`; `edge_attr` holds one row per edge, in the caller's order.

        **Returns:** `nn`'s rows, `(num_receivers, out_features)`; `(out, state)` if `state` is given.

        **Raises:** `ValueError` for wrong sizes, among them edge features that do not fit node features.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, size, self.flow)
        if self.lin is not None:
            edge_attr = edge_features(edges, edge_attr, inputs_of(self.lin))
        elif edge_attr.shape != (edges.num_edges, x_src.shape[1]):
            raise ValueError(
                f"`edge_attr` must have shape {(edges.num_edges, x_src.shape[1])} to be added to node features; "
                f"got {edge_attr.shape}. Build the layer with `edge_dim`, the number of features per edge."
            )
        out = self.propagate(edges, x=(x_src, x_dst), edge_attr=edge_attr)
        out, state = apply_rows(self.nn, _add_root(out, self.eps, x_dst), state, mask, key)
        return out if state is None else (out, state)


def _add_root(out: Array, eps: float | Array, x_dst: Array | None) -> Array:
    if x_dst is None:
        return out
    if x_dst.shape != out.shape:
        raise ValueError(
            f"`x` must have as many features for receivers as for senders; got {x_dst.shape[1]} and {out.shape[1]}."
        )
    factor = 1.0 + eps if isinstance(eps, float) else jnp.expand_dims(1.0 + eps, 0)
    return out + factor * x_dst


def _input_features(nn: Any) -> int:
    """Input features that a network declares."""
    first = nn.layers[0] if isinstance(nn, eqx.nn.Sequential) else nn
    for name in ("in_features", "in_size"):
        size = getattr(first, name, None)
        if isinstance(size, int):
            return size
    raise ValueError(
        f"`nn` must tell its number of input features when `edge_dim` is given; got {type(nn).__name__}. "
        "Start it with an `eqx.nn.Linear`, or use an `eqx.nn.MLP`."
    )
