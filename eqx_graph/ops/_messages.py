"""The messages of a graph as a source that aggregations draw from: rows of an array, or a function run over blocks."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..data._edge_index import EdgeIndex
from ._blocks import sum_edges
from ._edge_function import EdgeFunction, extend
from ._max_prod import max_edges, prod_edges
from ._segment import checked_ids, expand, segment_count, segment_mul, segment_sum, segment_top


class AbstractMessages(eqx.Module):
    """Messages grouped by receiver; every reduction leaves out edges that do not count.

    An aggregation written in these four reductions runs on both routes (`RowMessages`, `BlockMessages`).
    """

    num_receivers: eqx.AbstractVar[int]

    @abc.abstractmethod
    def count(self) -> Int[Array, " num_receivers"]:
        """Number of messages at every receiver."""

    @abc.abstractmethod
    def sum(self, transform: Callable[..., Any] = lambda m: m, *at_receiver: Array) -> Any:
        """Sum of `transform(message, *rows)`, where `rows` are the receiver's rows of the arrays `at_receiver`.

        `transform` is written for one message and may return any pytree.
        """

    @abc.abstractmethod
    def max(self, transform: Callable[[Array], Array] = lambda m: m) -> Array:
        """Elementwise maximum of `transform(message)`, -inf without messages; ties share the gradient evenly."""

    @abc.abstractmethod
    def prod(self) -> Array:
        """Product of the messages, 1 without messages."""


class RowMessages(AbstractMessages):
    """Messages that exist as the rows of an array; row `e` goes to `index[e]`, ids out of range count nowhere."""

    rows: Array
    index: Int[Array, " rows"]
    num_receivers: int = eqx.field(static=True)

    def count(self) -> Int[Array, " num_receivers"]:
        return segment_count(self.index, self.num_receivers)

    def sum(self, transform: Callable[..., Any] = lambda m: m, *at_receiver: Array) -> Any:
        rows, per_row = self.rows, []
        if at_receiver:  # of rows that count nowhere, neither value reaches `transform`: exp(m - top) could overflow
            ids = checked_ids(rows, self.index, self.num_receivers)
            rows = jnp.where(expand(ids < self.num_receivers, rows), rows, 0)
            per_row = [a.at[ids].get(mode="fill", fill_value=0) for a in at_receiver]
        values = jax.vmap(transform, axis_size=rows.shape[0])(rows, *per_row)
        return jax.tree.map(lambda v: segment_sum(v, self.index, self.num_receivers), values)

    def max(self, transform: Callable[[Array], Array] = lambda m: m) -> Array:
        return segment_top(jax.vmap(transform)(self.rows), self.index, self.num_receivers)

    def prod(self) -> Array:
        return segment_mul(self.rows, self.index, self.num_receivers)


class BlockMessages(AbstractMessages):
    """Messages that are computed block by block whenever they are reduced, and never stored together."""

    function: EdgeFunction
    num_receivers: int = eqx.field(static=True)

    def count(self) -> Int[Array, " num_receivers"]:
        edges: EdgeIndex = self.function.edges
        if edges.edge_mask is None:
            return jnp.diff(jnp.asarray(edges.receiver_ptr))
        return edges.sum_received(jnp.asarray(edges.edge_mask, jnp.int32))

    def sum(self, transform: Callable[..., Any] = lambda m: m, *at_receiver: Array) -> Any:
        return sum_edges(extend(self.function, transform, at_receiver))

    def max(self, transform: Callable[[Array], Array] = lambda m: m) -> Array:
        return max_edges(extend(self.function, transform))

    def prod(self) -> Array:
        return prod_edges(self.function)
