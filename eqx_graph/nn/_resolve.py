"""From PyG's words to objects: aggregations by name."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from . import aggr as _aggr
from .aggr import AbstractAggregation


AggregationLike = AbstractAggregation | str | Sequence[AbstractAggregation | str]


def as_aggregation(
    aggr: AggregationLike, in_features: int | None = None, *, key: PRNGKeyArray | None = None
) -> AbstractAggregation:
    """The aggregation that `aggr` means.

    **Arguments:**

    - `aggr`: an aggregation (returned as it is), its name in any case (`"add"` is `"sum"`), or several of either, whose
        results are concatenated.
    - `in_features`: features per message, needed by `"lstm"` only.
    - `key`: draws the parameters of `"lstm"`.

    **Raises:** `ValueError` for an unknown name, listing those that can be built by name.
    """
    if isinstance(aggr, AbstractAggregation):
        return aggr
    if not isinstance(aggr, str):
        return _aggr.Multi([as_aggregation(a, in_features, key=key) for a in aggr])
    name = aggr.lower().replace("_", "").removesuffix("aggregation")
    if name == "lstm":
        if in_features is None or key is None:
            raise ValueError(
                "`aggr='lstm'` needs sizes and a key; build `aggr.LSTM(in_features, out_features, key=...)`."
            )
        return _aggr.LSTM(in_features, in_features, key=key)
    by_name = _by_name()
    if name not in by_name:
        raise ValueError(f"`aggr` must be an aggregation or one of {sorted({*by_name, 'lstm'})}; got {aggr!r}.")
    return by_name[name]()


def _by_name() -> dict[str, type[AbstractAggregation]]:
    """Aggregations that need no arguments."""
    names = ("Sum", "Mean", "Max", "Min", "Mul", "Var", "Std", "Softmax", "PowerMean", "LogSumExp", "Median")
    found = {name.lower(): getattr(_aggr, name) for name in names if hasattr(_aggr, name)}
    return found | {"add": _aggr.Sum}


def aggregated_features(aggregation: AbstractAggregation, in_features: int) -> int:
    """Features of the aggregate of messages with `in_features` features."""
    rows = jax.ShapeDtypeStruct((1, in_features), jnp.result_type(float))
    ids = jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(lambda x, index: aggregation(x, index, 1), rows, ids).shape[-1]
