"""Aggregations by name, and several of them at once."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ._aggregation import AbstractAggregation
from ._ordered import LSTM, Median
from ._streaming import LogSumExp, Max, Mean, Min, Mul, PowerMean, Softmax, Std, Sum, Var


AggregationLike = AbstractAggregation | str | Sequence[AbstractAggregation | str]
Combination = Literal["cat", "proj", "attn", "sum", "mean", "max", "min", "std", "var", "logsumexp"]

_BY_NAME: dict[str, type[AbstractAggregation]] = {
    "add": Sum,
    **{c.__name__.lower(): c for c in (Sum, Mean, Max, Min, Mul, Var, Std, LogSumExp, Softmax, PowerMean, Median)},
}


def plain_name(name: str) -> str:
    """`"layernorm"` for `"LayerNorm"`, `"layer_norm"`, `"Layer Norm"`, ...: PyG's names in any spelling."""
    return name.lower().translate(str.maketrans("", "", "-_ "))


def as_aggregation(
    aggr: AggregationLike, in_features: int | None = None, *, key: PRNGKeyArray | None = None
) -> AbstractAggregation:
    """The aggregation that `aggr` means.

    **Arguments:**

    - `aggr`: an aggregation (returned as it is), its name in any case (`"add"` is `"sum"`), or several of either, whose
        results are put side by side.
    - `in_features`: features per message, needed by `"lstm"` only.
    - `key`: draws the parameters of `"lstm"`.

    **Raises:** `ValueError` for an unknown name, listing those that can be built by name.
    """
    if isinstance(aggr, AbstractAggregation):
        return aggr
    if not isinstance(aggr, str):
        return Multi(aggr, in_features=in_features, key=key)
    name = plain_name(aggr).removesuffix("aggregation")
    if name == "lstm":
        if in_features is None or key is None:
            raise ValueError("`aggr='lstm'` needs sizes and a key here; pass `aggr.LSTM(in_features, ..., key=key)`.")
        return LSTM(in_features, in_features, key=key)
    if name not in _BY_NAME:
        raise ValueError(f"`aggr` must be an aggregation or one of {sorted([*_BY_NAME, 'lstm'])}; got {aggr!r}.")
    return _BY_NAME[name]()


def aggregated_features(aggregation: AbstractAggregation, in_features: int) -> int:
    """Features of the aggregate of messages with `in_features` features."""
    rows = jax.ShapeDtypeStruct((1, in_features), jnp.result_type(float))
    ids = jax.ShapeDtypeStruct((1,), jnp.int32)
    return eqx.filter_eval_shape(lambda a, x, index: a(x, index, 1), aggregation, rows, ids).shape[-1]


class _Heads(eqx.Module):
    """A linear map for every aggregation."""

    lins: list[eqx.nn.Linear]


class Multi(AbstractAggregation):
    """Several aggregations of the same messages, combined.

    ??? cite "Reference"
        Corso et al., Principal Neighbourhood Aggregation for Graph Nets, NeurIPS 2020; the ways of combining are those
        of `MultiAggregation` in PyTorch Geometric 2.8.
    """

    aggrs: tuple[AbstractAggregation, ...]
    lin: eqx.nn.Linear | None
    lin_heads: _Heads | None
    multihead_attn: eqx.nn.MultiheadAttention | None
    mode: Combination = eqx.field(static=True)

    def __init__(
        self,
        aggrs: Sequence[AbstractAggregation | str],
        mode: Combination = "cat",
        *,
        in_features: int | None = None,
        out_features: int | None = None,
        num_heads: int = 1,
        bias: bool = True,
        key: PRNGKeyArray | None = None,
    ):
        """**Arguments:**

        - `aggrs`: aggregations, or their names.
        - `mode`: `"cat"` puts results side by side, `"proj"` maps these linearly, `"attn"` lets them attend to another
            and takes the mean, the others reduce them elementwise.
        - `in_features`: features per message, needed by `"proj"`, `"attn"` and `"lstm"`.
        - `out_features`: features of the result, needed by `"proj"` and `"attn"`.
        - `num_heads`: heads of `"attn"`.
        - `bias`: additive biases of `"proj"` and of the attention of `"attn"`.
        - `key`: draws the parameters of `"proj"`, `"attn"` and `"lstm"`.

        **Raises:** `ValueError` for no aggregation, an unknown mode, or missing sizes.
        """
        if isinstance(aggrs, str) or len(aggrs) == 0:
            raise ValueError(f"`aggrs` must hold at least one aggregation; got {aggrs!r}.")
        if mode not in ("cat", "proj", "attn", *_REDUCE):
            raise ValueError(f"`mode` must be one of {['cat', 'proj', 'attn', *_REDUCE]}; got {mode!r}.")
        keys = [None if key is None else jr.fold_in(key, i) for i in range(len(aggrs))]
        self.aggrs = tuple(as_aggregation(a, in_features, key=k) for a, k in zip(aggrs, keys, strict=True))
        self.mode = mode
        self.lin = self.lin_heads = self.multihead_attn = None
        if mode in ("proj", "attn"):
            if in_features is None or out_features is None or key is None:
                raise ValueError(f"`in_features`, `out_features` and `key` must be given with mode={mode!r}.")
            widths = [aggregated_features(a, in_features) for a in self.aggrs]
            k_lin, k_attn = jr.split(jr.fold_in(key, len(aggrs)))
            if mode == "proj":
                self.lin = eqx.nn.Linear(sum(widths), out_features, use_bias=bias, key=k_lin)
            else:
                lin_keys = jr.split(k_lin, len(widths))
                lins = [eqx.nn.Linear(w, out_features, key=k) for w, k in zip(widths, lin_keys, strict=True)]
                self.lin_heads = _Heads(lins)
                biases = {f"use_{name}_bias": bias for name in ("query", "key", "value", "output")}
                self.multihead_attn = eqx.nn.MultiheadAttention(num_heads, out_features, **biases, key=k_attn)

    def combine(self, results: Sequence[Float[Array, "num_segments ..."]]) -> Float[Array, " num_segments *out"]:
        """The results of the single aggregations, combined."""
        if len(results) == 1:
            return results[0]
        attend = self.multihead_attn
        if self.lin_heads is not None and attend is not None:
            tokens = jnp.stack([jax.vmap(lin)(r) for lin, r in zip(self.lin_heads.lins, results, strict=True)], axis=1)
            return jnp.mean(jax.vmap(lambda t: attend(t, t, t))(tokens), axis=1)
        if self.mode in _REDUCE:
            return _REDUCE[self.mode](jnp.stack(results))
        together = jnp.concatenate(results, axis=-1)
        return together if self.lin is None else jax.vmap(self.lin)(together)

    def __call__(
        self, x: Float[Array, " rows *dims"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, " num_segments *out"]:
        return self.combine([a(x, index, num_segments) for a in self.aggrs])


def _root(variance: Array) -> Array:
    """Square root, with gradient 0 (not NaN) where all aggregations agree."""
    return jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)


_REDUCE = {
    "sum": lambda stack: jnp.sum(stack, axis=0),
    "mean": lambda stack: jnp.mean(stack, axis=0),
    "max": lambda stack: jnp.max(stack, axis=0),
    "min": lambda stack: jnp.min(stack, axis=0),
    "std": lambda stack: _root(jnp.var(stack, axis=0, ddof=1)),
    "var": lambda stack: jnp.var(stack, axis=0, ddof=1),
    "logsumexp": lambda stack: jax.nn.logsumexp(stack, axis=0),
}
