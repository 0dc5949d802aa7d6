"""Ready-made stacks of one layer: which one, and what it takes of the arguments."""

import functools as ft
from typing import Any

import equinox as eqx
from jaxtyping import Array, PRNGKeyArray

from ..aggr import AggregationLike
from ..conv import GATConv, GATv2Conv, GCNConv, GINConv, SAGEConv
from ..conv._adjacency import Flow
from ..conv._attend import FillValue
from ._jumping_knowledge import JumpingKnowledge
from ._mlp import MLP
from ._resolve import Activation, Norm
from ._stack import AbstractBasicGNN, JumpMode, NormLike, Surroundings, assemble


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
        for name, part in assemble(make, *sizes, dropout, act, act_first, norm, jk, key).items():
            setattr(self, name, part)

    def convolve(self, conv: GCNConv, x: Any, given: Surroundings, state: Any, key: Any) -> tuple[Array, Any]:
        """One `GCNConv`, with edge weights."""
        given.refuse("edge_attr", model="GCN")
        return conv(x, given.edge_index, given.edge_weight), state


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
        for name, part in assemble(make, *sizes, dropout, act, act_first, norm, jk, key).items():
            setattr(self, name, part)

    def convolve(self, conv: SAGEConv, x: Any, given: Surroundings, state: Any, key: Any) -> tuple[Array, Any]:
        """One `SAGEConv`."""
        given.refuse("edge_weight", "edge_attr", model="GraphSAGE")
        return conv(x, given.edge_index), state


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
        for name, part in assemble(make, *sizes, dropout, act, act_first, norm, jk, key).items():
            setattr(self, name, part)

    def convolve(self, conv: GINConv, x: Any, given: Surroundings, state: Any, key: Any) -> tuple[Array, Any]:
        """One `GINConv`."""
        given.refuse("edge_weight", "edge_attr", model="GIN")
        out = conv(x, given.edge_index, mask=given.mask, state=state)
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
        for name, part in assemble(make, *sizes, dropout, act, act_first, norm, jk, key).items():
            setattr(self, name, part)

    def convolve(self, conv: Any, x: Any, given: Surroundings, state: Any, key: Any) -> tuple[Array, Any]:
        """One layer of attention, with edge features."""
        given.refuse("edge_weight", model="GAT")
        return conv(x, given.edge_index, given.edge_attr, key=key), state
