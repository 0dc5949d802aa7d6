"""Stacks of one layer: convolution, norm, activation, dropout, jumping knowledge."""

import abc
import functools as ft
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ...data import EdgeIndexLike
from .._dropout import drop, make_dropout
from .._linear import check_sizes, project
from ..aggr import AggregationLike
from ..conv import Adjacency, GATConv, GATv2Conv, GCNConv, GINConv, SAGEConv
from ..conv._adjacency import Flow
from ..conv._attend import FillValue
from ..conv._neighbors import Nodes
from ._jumping_knowledge import JumpingKnowledge
from ._mlp import MLP
from ._resolve import Activation, Norm, apply_norm, as_activation, as_norm


JumpMode = Literal["last", "cat", "max", "lstm"] | None
NormLike = str | Callable[[int], Norm] | None


class _Parts(NamedTuple):
    """The fields of a stack, by name."""

    convs: list[Any]
    norms: list[Norm]
    act: Activation | None
    dropout: eqx.nn.Dropout
    jk: JumpingKnowledge | None
    lin: eqx.nn.Linear | None
    act_first: bool


def _assemble(
    make_conv: Callable[[Any, int, bool, PRNGKeyArray], Any],
    in_features: int | tuple[int, int],
    hidden_features: int,
    num_layers: int,
    out_features: int | None,
    dropout: float,
    act: str | Activation | None,
    act_first: bool,
    norm: NormLike,
    jk: JumpMode,
    key: PRNGKeyArray,
) -> dict[str, Any]:
    """The parts of a stack; `make_conv(in_features, out_features, is_last, key)` builds one layer."""
    if num_layers < 1:
        raise ValueError(f"`num_layers` must be at least 1; got {num_layers}.")
    check_sizes(in_features=in_features, hidden_features=hidden_features, out_features=out_features)
    keys = jr.split(key, num_layers + 2)
    ends_in_conv = out_features is not None and jk is None
    last = out_features if out_features is not None and ends_in_conv else hidden_features
    between = (hidden_features, hidden_features) if isinstance(in_features, tuple) else hidden_features
    inputs = [in_features, *[between] * (num_layers - 1)]
    outputs = [*[hidden_features] * (num_layers - 1), last]
    final = [False] * (num_layers - 1) + [ends_in_conv]
    normed = num_layers if jk is not None else num_layers - 1
    wide = num_layers * hidden_features if jk == "cat" else hidden_features
    out = hidden_features if out_features is None else out_features
    parts = _Parts(
        convs=[make_conv(*row) for row in zip(inputs, outputs, final, keys[2:], strict=True)],
        norms=[as_norm(norm, hidden_features) for _ in range(normed)],
        act=as_activation(act),
        dropout=make_dropout(dropout),
        jk=None if jk is None or jk == "last" else JumpingKnowledge(jk, hidden_features, num_layers, key=keys[0]),
        lin=None if jk is None else eqx.nn.Linear(wide, out, key=keys[1]),
        act_first=act_first,
    )
    return parts._asdict()


class AbstractBasicGNN(eqx.Module):
    """A stack of convolutions of one kind.

    After every layer but the last (with jumping knowledge, after every layer): norm, activation, dropout; with
    `act_first` the activation comes before the norm. With jumping knowledge, a linear map makes the result.
    """

    convs: eqx.AbstractVar[list[Any]]
    norms: eqx.AbstractVar[list[Norm]]
    act: eqx.AbstractVar[Activation | None]
    dropout: eqx.AbstractVar[eqx.nn.Dropout]
    jk: eqx.AbstractVar[JumpingKnowledge | None]
    lin: eqx.AbstractVar[eqx.nn.Linear | None]
    act_first: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def convolve(
        self, conv: Any, x: Any, edge_index: Any, edge_weight: Any, edge_attr: Any, mask: Any, state: Any, key: Any
    ) -> tuple[Array, Any]:
        """One layer on what it takes of the arguments, and the state after it."""

    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike | Adjacency,
        edge_weight: Float[Array, " num_edges"] | None = None,
        edge_attr: Float[Array, " num_edges *edge_dim"] | None = None,
        batch: Int[Array | np.ndarray, " num_nodes"] | None = None,
        batch_size: int | None = None,
        *,
        mask: Bool[Array | np.ndarray, " num_nodes"] | None = None,
        state: eqx.nn.State | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "num_nodes out"] | tuple[Float[Array, "num_nodes out"], eqx.nn.State]:
        """**Arguments:**

        - `x`, `edge_index`, `edge_weight`, `edge_attr`: as the layers take them; what they do not take must be None.
            After the first layer its result serves senders and receivers.
        - `batch`, `batch_size`: graph of every node and number of graphs, for norms over graphs.
        - `mask`: False for nodes that norms leave out (padding).
        - `state`: running statistics of batch norms.
        - `key`: draws the dropout masks.

        **Returns:** new node features; `(out, state)` if `state` is given.

        **Raises:** `ValueError` for wrong sizes, a missing `state`, or an active dropout without `key`.
        """
        keys = [None] * len(self.convs) if key is None else list(jr.split(key, len(self.convs)))
        h: Any = x
        results = []
        with jax.named_scope(f"eqx_graph.{type(self).__name__}"):
            for i, (conv, layer_key) in enumerate(zip(self.convs, keys, strict=True)):
                conv_key, drop_key = (None, None) if layer_key is None else jr.split(layer_key)
                h, state = self.convolve(conv, h, edge_index, edge_weight, edge_attr, mask, state, conv_key)
                if i < len(self.norms):
                    h = self.act(h) if self.act is not None and self.act_first else h
                    h, state = apply_norm(self.norms[i], h, batch, batch_size, mask, state)
                    h = self.act(h) if self.act is not None and not self.act_first else h
                    h = drop(self.dropout, h, drop_key)
                    results.append(h)
            h = h if self.jk is None else self.jk(results)
            h = h if self.lin is None else project(self.lin, h)
        return h if state is None else (h, state)


def _refuse(name: str, value: Any, model: str) -> None:
    if value is not None:
        raise ValueError(f"`{name}` must be None: the layers of {model} take none; got shape {value.shape}.")


class GCN(AbstractBasicGNN):
    """A stack of `GCNConv`.

    ??? cite "Reference"
        Kipf and Welling, Semi-Supervised Classification with Graph Convolutional Networks, ICLR 2017.
    """

    convs: list[GCNConv]
    norms: list[Norm]
    act: Activation | None
    dropout: eqx.nn.Dropout
    jk: JumpingKnowledge | None
    lin: eqx.nn.Linear | None
    act_first: bool = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_layers: int,
        out_features: int | None = None,
        *,
        dropout: float = 0.0,
        act: str | Activation | None = "relu",
        act_first: bool = False,
        norm: NormLike = None,
        jk: JumpMode = None,
        improved: bool = False,
        add_self_loops: bool | None = None,
        normalize: bool = True,
        bias: bool = True,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_features`, `hidden_features`, `num_layers`, `out_features`: sizes; without `out_features` the result has
            `hidden_features`.
        - `dropout`: probability after every hidden layer; active outside `eqx.nn.inference_mode`.
        - `act`, `norm`: an activation and a norm, or their names; None for none.
        - `act_first`: activation before the norm.
        - `jk`: jumping knowledge, `"last"`, `"cat"`, `"max"` or `"lstm"`.
        - `improved`, `add_self_loops`, `normalize`, `bias`, `aggr`, `flow`: as `GCNConv`.
        - `key`: draws all weights.
        """

        def make(i: int, o: int, last: bool, key: PRNGKeyArray) -> GCNConv:
            return GCNConv(
                i,
                o,
                improved=improved,
                add_self_loops=add_self_loops,
                normalize=normalize,
                bias=bias,
                aggr=aggr,
                flow=flow,
                key=key,
            )

        sizes = in_features, hidden_features, num_layers, out_features
        for name, part in _assemble(make, *sizes, dropout, act, act_first, norm, jk, key).items():
            setattr(self, name, part)

    def convolve(
        self, conv: GCNConv, x: Any, edge_index: Any, edge_weight: Any, edge_attr: Any, mask: Any, state: Any, key: Any
    ) -> tuple[Array, Any]:
        """One `GCNConv`, with edge weights."""
        _refuse("edge_attr", edge_attr, "GCN")
        return conv(x, edge_index, edge_weight), state


class GraphSAGE(AbstractBasicGNN):
    """A stack of `SAGEConv`.

    ??? cite "Reference"
        Hamilton et al., Inductive Representation Learning on Large Graphs, NeurIPS 2017.
    """

    convs: list[SAGEConv]
    norms: list[Norm]
    act: Activation | None
    dropout: eqx.nn.Dropout
    jk: JumpingKnowledge | None
    lin: eqx.nn.Linear | None
    act_first: bool = eqx.field(static=True)

    def __init__(
        self,
        in_features: int | tuple[int, int],
        hidden_features: int,
        num_layers: int,
        out_features: int | None = None,
        *,
        dropout: float = 0.0,
        act: str | Activation | None = "relu",
        act_first: bool = False,
        norm: NormLike = None,
        jk: JumpMode = None,
        aggr: AggregationLike = "mean",
        normalize: bool = False,
        root_weight: bool = True,
        project: bool = False,
        bias: bool = True,
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:** those of `GCN`; `aggr`, `normalize`, `root_weight`, `project`, `bias`, `flow` as `SAGEConv`;
        `in_features` may be a pair, with a pair `x` of as many senders as receivers (of any number with one layer).
        """

        def make(i: int | tuple[int, int], o: int, last: bool, key: PRNGKeyArray) -> SAGEConv:
            return SAGEConv(
                i,
                o,
                aggr,
                normalize=normalize,
                root_weight=root_weight,
                project=project,
                bias=bias,
                flow=flow,
                key=key,
            )

        sizes = in_features, hidden_features, num_layers, out_features
        for name, part in _assemble(make, *sizes, dropout, act, act_first, norm, jk, key).items():
            setattr(self, name, part)

    def convolve(
        self, conv: SAGEConv, x: Any, edge_index: Any, edge_weight: Any, edge_attr: Any, mask: Any, state: Any, key: Any
    ) -> tuple[Array, Any]:
        """One `SAGEConv`."""
        _refuse("edge_weight", edge_weight, "GraphSAGE")
        _refuse("edge_attr", edge_attr, "GraphSAGE")
        return conv(x, edge_index), state


class GIN(AbstractBasicGNN):
    """A stack of `GINConv`, each with a perceptron of two layers.

    ??? cite "Reference"
        Xu et al., How Powerful are Graph Neural Networks?, ICLR 2019.
    """

    convs: list[GINConv]
    norms: list[Norm]
    act: Activation | None
    dropout: eqx.nn.Dropout
    jk: JumpingKnowledge | None
    lin: eqx.nn.Linear | None
    act_first: bool = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        num_layers: int,
        out_features: int | None = None,
        *,
        dropout: float = 0.0,
        act: str | Activation | None = "relu",
        act_first: bool = False,
        norm: NormLike = None,
        jk: JumpMode = None,
        eps: float = 0.0,
        train_eps: bool = False,
        aggr: AggregationLike = "sum",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:** those of `GCN`; `norm` and `act` serve inside the perceptrons too; `eps`, `train_eps`,
        `aggr`, `flow` as `GINConv`.
        """

        def make(i: int, o: int, last: bool, key: PRNGKeyArray) -> GINConv:
            mlp = MLP([i, o, o], act=act, act_first=act_first, norm=norm, key=key)
            return GINConv(mlp, eps, train_eps, aggr=aggr, flow=flow)

        sizes = in_features, hidden_features, num_layers, out_features
        for name, part in _assemble(make, *sizes, dropout, act, act_first, norm, jk, key).items():
            setattr(self, name, part)

    def convolve(
        self, conv: GINConv, x: Any, edge_index: Any, edge_weight: Any, edge_attr: Any, mask: Any, state: Any, key: Any
    ) -> tuple[Array, Any]:
        """One `GINConv`."""
        _refuse("edge_weight", edge_weight, "GIN")
        _refuse("edge_attr", edge_attr, "GIN")
        out = conv(x, edge_index, mask=mask, state=state)
        return out if isinstance(out, tuple) else (out, state)


class GAT(AbstractBasicGNN):
    """A stack of `GATConv` or `GATv2Conv`; heads are put side by side, and averaged in a last convolution.

    ??? cite "Reference"
        Veličković et al., Graph Attention Networks, ICLR 2018; Brody et al., How Attentive are Graph Attention
        Networks?, ICLR 2022.
    """

    convs: list[GATConv | GATv2Conv]
    norms: list[Norm]
    act: Activation | None
    dropout: eqx.nn.Dropout
    jk: JumpingKnowledge | None
    lin: eqx.nn.Linear | None
    act_first: bool = eqx.field(static=True)

    def __init__(
        self,
        in_features: int | tuple[int, int],
        hidden_features: int,
        num_layers: int,
        out_features: int | None = None,
        *,
        dropout: float = 0.0,
        act: str | Activation | None = "relu",
        act_first: bool = False,
        norm: NormLike = None,
        jk: JumpMode = None,
        v2: bool = False,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: FillValue = "mean",
        bias: bool = True,
        share_weights: bool = False,
        residual: bool = False,
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        """**Arguments:** those of `GCN` (`dropout` drops attention weights too); `v2` takes `GATv2Conv`, for which
        alone `share_weights` is; the rest as `GATConv`, with `hidden_features` counting all heads where they are put
        side by side. `in_features` may be a pair as in `GraphSAGE`.

        **Raises:** `ValueError` if `heads` does not divide the features, or for `share_weights` without `v2`.
        """
        if share_weights and not v2:
            raise ValueError("`share_weights` needs `v2=True`: GATConv has one linear map already; got v2=False.")
        conv = ft.partial(GATv2Conv, share_weights=share_weights) if v2 else GATConv

        def make(i: int | tuple[int, int], o: int, last: bool, key: PRNGKeyArray) -> GATConv | GATv2Conv:
            together = concat and not last
            if together and o % heads != 0:
                raise ValueError(f"`hidden_features` must be a multiple of `heads`; got {o} and {heads}.")
            return conv(
                i,
                o // heads if together else o,
                heads,
                concat=together,
                negative_slope=negative_slope,
                dropout=dropout,
                add_self_loops=add_self_loops,
                edge_dim=edge_dim,
                fill_value=fill_value,
                bias=bias,
                residual=residual,
                flow=flow,
                key=key,
            )

        sizes = in_features, hidden_features, num_layers, out_features
        for name, part in _assemble(make, *sizes, dropout, act, act_first, norm, jk, key).items():
            setattr(self, name, part)

    def convolve(
        self, conv: Any, x: Any, edge_index: Any, edge_weight: Any, edge_attr: Any, mask: Any, state: Any, key: Any
    ) -> tuple[Array, Any]:
        """One layer of attention, with edge features."""
        _refuse("edge_weight", edge_weight, "GAT")
        return conv(x, edge_index, edge_attr, key=key), state
