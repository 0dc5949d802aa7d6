"""Multi-layer perceptron over rows, with norms that may look across them."""

from collections.abc import Callable, Sequence
from typing import overload

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._dropout import drop, make_dropout
from .._linear import check_sizes, project
from .._rows import AbstractRowModule
from ..norm import LayerNorm
from ._resolve import Activation, Norm, apply_norm, as_activation, as_norm


class MLP(AbstractRowModule):
    """Linear maps with norm, activation and dropout between them, on all rows at once.

    Each layer but a plain last one is linear, norm, activation, dropout; with `act_first` the norm comes after the
    activation. `eqx.nn.MLP` is the tool for one row and no norm.

    ??? cite "Reference"
        Behaviour and attribute names of `MLP` in PyTorch Geometric 2.8.
    """

    lins: list[eqx.nn.Linear]
    norms: list[Norm]
    act: Activation | None
    dropouts: list[eqx.nn.Dropout]
    act_first: bool = eqx.field(static=True)
    plain_last: bool = eqx.field(static=True)

    def __init__(
        self,
        channel_list: Sequence[int] | None = None,
        *,
        in_features: int | None = None,
        hidden_features: int | None = None,
        out_features: int | None = None,
        num_layers: int | None = None,
        dropout: float | Sequence[float] = 0.0,
        act: str | Activation | None = "relu",
        act_first: bool = False,
        norm: str | Callable[[int], Norm] | None = "batch_norm",
        plain_last: bool = True,
        bias: bool | Sequence[bool] = True,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `channel_list`: features of the input, of every hidden layer and of the output; or
        - `in_features`, `hidden_features`, `out_features`, `num_layers`: the same with equal hidden layers.
        - `dropout`: probability after every layer (none after a plain last one), or one per layer.
        - `act`: activation, its name, or None.
        - `act_first`: activation before the norm.
        - `norm`: name of a norm, a function from features to one, or None.
        - `plain_last`: nothing after the last linear map.
        - `bias`: additive biases, or one choice per layer.
        - `key`: draws the linear maps.

        **Raises:** `ValueError` if sizes are missing or do not match.
        """
        sizes = _sizes(channel_list, in_features, hidden_features, out_features, num_layers)
        check_sizes(channel_list=tuple(sizes))
        layers = len(sizes) - 1
        biases = [bias] * layers if isinstance(bias, bool) else list(bias)
        rates = [dropout] * layers if isinstance(dropout, int | float) else list(dropout)
        if isinstance(dropout, int | float) and plain_last:
            rates[-1] = 0.0
        for name, values in (("bias", biases), ("dropout", rates)):
            if len(values) != layers:
                raise ValueError(f"`{name}` must have one entry for each of the {layers} layers; got {len(values)}.")
        self.lins = [
            eqx.nn.Linear(i, o, use_bias=b, key=k)
            for i, o, b, k in zip(sizes[:-1], sizes[1:], biases, jr.split(key, layers), strict=True)
        ]
        self.norms = [as_norm(norm, size) for size in (sizes[1:-1] if plain_last else sizes[1:])]
        self.act = as_activation(act)
        self.dropouts = [make_dropout(rate) for rate in rates]
        self.act_first = act_first
        self.plain_last = plain_last

    @property
    def mixes_rows(self) -> bool:
        """Whether a norm takes its statistics over rows."""
        alone = (isinstance(n, eqx.nn.Identity) or (isinstance(n, LayerNorm) and n.mode == "node") for n in self.norms)
        return not all(alone)

    @property
    def in_features(self) -> int:
        """Features of the input."""
        return int(self.lins[0].in_features)

    @overload
    def __call__(
        self,
        x: Float[Array, "rows in"],
        batch: Int[Array | np.ndarray, " rows"] | None = None,
        batch_size: int | None = None,
        *,
        mask: Bool[Array | np.ndarray, " rows"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows out"]: ...
    @overload
    def __call__(
        self,
        x: Float[Array, "rows in"],
        batch: Int[Array | np.ndarray, " rows"] | None = None,
        batch_size: int | None = None,
        *,
        mask: Bool[Array | np.ndarray, " rows"] | None = None,
        state: eqx.nn.State,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "rows out"], eqx.nn.State]: ...
    @jax.named_scope("eqx_graph.MLP")
    def __call__(
        self,
        x: Float[Array, "rows in"],
        batch: Int[Array | np.ndarray, " rows"] | None = None,
        batch_size: int | None = None,
        *,
        mask: Bool[Array | np.ndarray, " rows"] | None = None,
        state: eqx.nn.State | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "rows out"] | tuple[Float[Array, "rows out"], eqx.nn.State]:
        """**Arguments:**

        - `x`: one row per node (or whatever the rows are).
        - `batch`, `batch_size`: graph of every row and number of graphs, for norms over graphs.
        - `mask`: False for rows that norms leave out (padding).
        - `state`: running statistics of batch norms.
        - `key`: draws the dropout masks.

        **Returns:** one row of results per row; `(out, state)` if `state` is given.

        **Raises:** `ValueError` for wrong sizes, a missing `state`, or an active dropout without `key`.
        """
        x, after = self.embed(x, batch, batch_size, mask=mask, state=state, key=key)
        if self.plain_last:
            x = drop(self.dropouts[-1], project(self.lins[-1], x), self._keys(key)[-1])
        return x if after is None else (x, after)

    def embed(
        self,
        x: Float[Array, "rows in"],
        batch: Int[Array | np.ndarray, " rows"] | None = None,
        batch_size: int | None = None,
        *,
        mask: Bool[Array | np.ndarray, " rows"] | None = None,
        state: eqx.nn.State | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "rows hidden"], eqx.nn.State | None]:
        """What a plain last layer gets, or the result without one (PyG's `return_emb`), and the state after it.

        **Arguments, raises:** as the call.
        """
        for lin, norm, dropout, k in zip(self.lins, self.norms, self.dropouts, self._keys(key), strict=False):
            x = project(lin, x)
            x = self.act(x) if self.act is not None and self.act_first else x
            x, state = apply_norm(norm, x, batch, batch_size, mask, state)
            x = self.act(x) if self.act is not None and not self.act_first else x
            x = drop(dropout, x, k)
        return x, state

    def _keys(self, key: PRNGKeyArray | None) -> list[PRNGKeyArray | None]:
        return [None] * len(self.lins) if key is None else list(jr.split(key, len(self.lins)))


def _sizes(
    channel_list: Sequence[int] | None,
    in_features: int | None,
    hidden_features: int | None,
    out_features: int | None,
    num_layers: int | None,
) -> list[int]:
    if channel_list is None:
        if in_features is None or out_features is None or num_layers is None or num_layers < 1:
            raise ValueError("`channel_list`, or `in_features`, `out_features` and `num_layers` >= 1, must be given.")
        if num_layers > 1 and hidden_features is None:
            raise ValueError(f"`hidden_features` must be given for num_layers={num_layers}.")
        hidden = [] if hidden_features is None else [hidden_features] * (num_layers - 1)
        return [in_features, *hidden, out_features]
    if in_features is not None or len(channel_list) < 2:
        raise ValueError(
            f"`channel_list` must hold at least two sizes and stand alone; got {channel_list} and "
            f"in_features={in_features}."
        )
    return list(channel_list)
