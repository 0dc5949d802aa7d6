"""Aggregations that need all messages of a node together: order statistics and sequences."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ...ops import segment_count, segment_median, segment_quantile
from ...ops._segment import checked_ids
from ...ops._segment_order import Interpolation
from .._linear import check_features, check_sizes
from ._aggregation import AbstractAggregation


Fill = float | Float[Array, ""]


def _or_fill(value: Array, index: Array, num_segments: int, fill_value: Fill) -> Array:
    """`value`, which is 0 where a segment has no rows, with `fill_value` there."""
    if isinstance(fill_value, float) and fill_value == 0:
        return value
    empty = jnp.reshape(segment_count(index, num_segments) == 0, (-1, *[1] * (value.ndim - 1)))
    return jnp.where(empty, jnp.asarray(fill_value, value.dtype), value)


class Median(AbstractAggregation):
    """Lower median of every channel (PyG's); `fill_value` without messages. Stores and sorts all messages."""

    fill_value: Fill = 0.0

    def __call__(
        self, x: Float[Array, " rows *dims"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, " num_segments *dims"]:
        return _or_fill(segment_median(x, index, num_segments), index, num_segments, self.fill_value)


class Quantile(AbstractAggregation):
    """Quantiles of every channel, one after the other along the last axis; `fill_value` without messages.

    Stores and sorts all messages.
    """

    q: float | tuple[float, ...] = eqx.field(static=True)
    interpolation: Interpolation = eqx.field(static=True, default="linear")
    fill_value: Fill = 0.0

    def __check_init__(self) -> None:
        if not self._levels:
            raise ValueError("`q` must hold at least one level; got ().")
        for q in self._levels:
            if not 0 <= q <= 1:
                raise ValueError(f"`q` must be in [0, 1]; got {q}.")

    @property
    def _levels(self) -> tuple[float, ...]:
        return self.q if isinstance(self.q, tuple) else (self.q,)

    def __call__(
        self, x: Float[Array, " rows *dims"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, " num_segments *out"]:
        levels = [segment_quantile(x, index, num_segments, q, interpolation=self.interpolation) for q in self._levels]
        return _or_fill(jnp.concatenate(levels, axis=-1), index, num_segments, self.fill_value)


def _slots(index: Array, num_segments: int) -> tuple[Array, Array, Array]:
    """Rows in stable order of their group, each group's first place in it, and its size."""
    order = jnp.argsort(checked_ids(index, index, num_segments), stable=True)
    count = segment_count(index, num_segments)
    return order, jnp.cumsum(count) - count, count


class Sort(AbstractAggregation):
    """The `k` messages with the largest last channel, in falling order, side by side; zeros where there are fewer.

    ??? cite "Reference"
        Zhang et al., An End-to-End Deep Learning Architecture for Graph Classification, AAAI 2018 (SortPooling).
    """

    k: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        check_sizes(k=self.k)

    def __call__(
        self, x: Float[Array, "rows channels"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, "num_segments k_times_channels"]:
        if x.shape[0] == 0:
            return jnp.zeros((num_segments, self.k * x.shape[1]), x.dtype)
        falling = jnp.argsort(-jax.lax.stop_gradient(x[:, -1]), stable=True)
        order, start, count = _slots(index[falling], num_segments)
        place = jnp.arange(self.k, dtype=start.dtype)
        row = falling[order[jnp.minimum(start[:, None] + place[None], x.shape[0] - 1)]]
        taken = jnp.where((place[None] < count[:, None])[..., None], x[row], 0)
        return taken.reshape(num_segments, -1)


class LSTM(AbstractAggregation):
    """The messages of a node as a sequence, in the order of their rows, through LSTM layers; the last output.

    As in PyG the sequence of every node is padded with zeros to the longest one, so the result of a short one has seen
    the zeros too; `pad=False` stops each at its own end (0 for a node without messages), which no other node and no
    padding of the graph can change. Not permutation-invariant.

    ??? cite "Reference"
        Hamilton et al., Inductive Representation Learning on Large Graphs, NeurIPS 2017, section 3.3.
    """

    lstm: list[eqx.nn.LSTMCell]
    max_degree: int | None = eqx.field(static=True)
    pad: bool = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_layers: int = 1,
        bias: bool = True,
        max_degree: int | None = None,
        pad: bool = True,
        dtype: Any = None,
        key: PRNGKeyArray,
    ) -> None:
        """**Arguments:**

        - `in_features`, `out_features`: widths of the messages and of the result.
        - `num_layers`: layers, each on the outputs of the one before.
        - `bias`: additive biases.
        - `max_degree`: most messages a node can have (static). `None`: read from `index` where its values are known,
            else the number of rows, which is right but slow: give it under jit. Exceeding it is a run-time error.
        - `pad`: see the class.
        """
        check_sizes(in_features=in_features, out_features=out_features, num_layers=num_layers)
        widths = [in_features, *[out_features] * (num_layers - 1)]
        keys = [key] if num_layers == 1 else jr.split(key, num_layers)
        self.lstm = [
            eqx.nn.LSTMCell(width, out_features, use_bias=bias, dtype=dtype, key=k)
            for width, k in zip(widths, keys, strict=True)
        ]
        self.max_degree = max_degree
        self.pad = pad

    def __call__(
        self, x: Float[Array, "rows channels"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, "num_segments out"]:
        check_features(x, self.lstm[0].input_size)
        out_features = self.lstm[0].hidden_size
        if x.shape[0] == 0:
            return jnp.zeros((num_segments, out_features), x.dtype)
        order, start, count = _slots(index, num_segments)
        steps = self.max_degree
        if steps is None:
            steps = x.shape[0] if isinstance(count, Tracer) else int(count.max())
        else:
            too_many = f"`max_degree`={steps} is smaller than the largest group of messages; raise it."
            count = eqx.error_if(count, jnp.max(count, initial=0) > steps, too_many)
        end = jnp.broadcast_to(jnp.max(count, initial=0), count.shape) if self.pad else count

        def step(states: list[tuple[Array, Array]], place: Array) -> tuple[list[tuple[Array, Array]], None]:
            row = order[jnp.minimum(start + place, x.shape[0] - 1)]
            inputs, new = jnp.where((place < count)[:, None], x[row], 0), []
            for cell, state in zip(self.lstm, states, strict=True):
                new.append(jax.vmap(cell)(inputs, state))
                inputs = new[-1][0]
            going = (place < end)[:, None]
            return jax.tree.map(lambda n, old: jnp.where(going, n, old), new, states), None

        zeros = jnp.zeros((num_segments, out_features), x.dtype)
        states, _ = jax.lax.scan(step, [(zeros, zeros)] * len(self.lstm), jnp.arange(steps, dtype=start.dtype))
        return states[-1][0]
