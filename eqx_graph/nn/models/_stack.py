"""What stacks of one layer share: norm, activation, dropout and jumping knowledge around its convolutions."""

import abc
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, overload

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ...data import EdgeIndexLike
from .._dropout import drop, make_dropout
from .._linear import check_sizes, project
from ..conv import Adjacency
from ..conv._neighbors import Nodes
from ._jumping_knowledge import JumpingKnowledge
from ._resolve import Activation, Norm, apply_norm, as_activation, as_norm


JumpMode = Literal["last", "cat", "max", "lstm"] | None
NormLike = str | Callable[[int], Norm] | None


class Surroundings(NamedTuple):
    """What the layers of a stack are given besides node features."""

    edge_index: Any
    edge_weight: Array | None
    edge_attr: Array | None
    mask: Any

    def refuse(self, *names: str, model: str) -> None:
        """Raise `ValueError` for the first of `names` that is given: the layers take none."""
        for name in names:
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"`{name}` must be None: the layers of {model} take none; got shape {value.shape}.")


def assemble(
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
    """The fields of a stack, by name; `make_conv(in_features, out_features, is_last, key)` builds one layer."""
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
    return {
        "convs": [make_conv(*row) for row in zip(inputs, outputs, final, keys[2:], strict=True)],
        "norms": [as_norm(norm, hidden_features) for _ in range(normed)],
        "act": as_activation(act),
        "dropout": make_dropout(dropout),
        "jk": None if jk is None or jk == "last" else JumpingKnowledge(jk, hidden_features, num_layers, key=keys[0]),
        "lin": None if jk is None else eqx.nn.Linear(wide, out, key=keys[1]),
        "act_first": act_first,
    }


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
    def convolve(self, conv: Any, x: Any, given: Surroundings, state: Any, key: Any) -> tuple[Array, Any]:
        """One layer on what it takes of the arguments, and the state after it."""

    @overload
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
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "num_nodes out"]: ...
    @overload
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
        state: eqx.nn.State,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "num_nodes out"], eqx.nn.State]: ...
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
        given = Surroundings(edge_index, edge_weight, edge_attr, mask)
        h: Any = x
        results = []
        with jax.named_scope(f"eqx_graph.{type(self).__name__}"):
            for i, (conv, layer_key) in enumerate(zip(self.convs, keys, strict=True)):
                conv_key, drop_key = (None, None) if layer_key is None else jr.split(layer_key)
                h, state = self.convolve(conv, h, given, state, conv_key)
                if i < len(self.norms):
                    h = self.act(h) if self.act is not None and self.act_first else h
                    h, state = apply_norm(self.norms[i], h, batch, batch_size, mask, state)
                    h = self.act(h) if self.act is not None and not self.act_first else h
                    h = drop(self.dropout, h, drop_key)
                    results.append(h)
            h = h if self.jk is None else self.jk(results)
            h = h if self.lin is None else project(self.lin, h)
        return h if state is None else (h, state)
