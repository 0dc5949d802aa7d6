"""What an aggregation is: a reduction of the messages that reach one node."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, Int

from ...ops import AbstractMessages, RowMessages


class AbstractAggregation(eqx.Module):
    """A reduction of rows grouped by `index`; a pytree, so that it may hold parameters."""

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, " rows *dims"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, " num_segments *out"]:
        """Reduces the rows of each group.

        **Arguments:**

        - `x`: one row per message.
        - `index`: the group of each row, in any order; ids outside `[0, num_segments)` count nowhere.
        - `num_segments`: static int; the number of rows of the result.
        """


class AbstractStreamingAggregation(AbstractAggregation):
    """An aggregation made of sums, maxima and products over messages, so that it needs no array of all of them.

    A subclass writes `reduce` against `AbstractMessages`; `propagate` then runs it over blocks of edges, and calling
    it runs the same formula on rows that exist.
    """

    @abc.abstractmethod
    def reduce(self, messages: AbstractMessages) -> Float[Array, " num_segments *out"]:
        """The aggregate at every receiver, `(num_receivers, ...)`."""

    def __call__(
        self, x: Float[Array, " rows *dims"], index: Int[Array, " rows"], num_segments: int
    ) -> Float[Array, " num_segments *out"]:
        return self.reduce(RowMessages(rows=x, index=index, num_receivers=num_segments))
