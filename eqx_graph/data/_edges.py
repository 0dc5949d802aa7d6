"""Edge layouts: who sends to whom, in which order the edges are stored, and the way back to the caller's order."""

import abc
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped


T = TypeVar("T")


class AbstractEdges(eqx.Module):
    """A directed edge list from `num_senders` nodes (row 0, `j`) to `num_receivers` nodes (row 1, `i`).

    A layer computes in the layout's own edge order: `arrange` brings per-edge arguments from the caller's order into
    it, `restore` brings per-edge results back. Edges whose `edge_mask` is False contribute nothing on any route.
    """

    senders: eqx.AbstractVar[Int[Array, " num_edges"]]
    receivers: eqx.AbstractVar[Int[Array, " num_edges"]]
    edge_mask: eqx.AbstractVar[Bool[Array, " num_edges"] | None]
    num_senders: eqx.AbstractVar[int]
    num_receivers: eqx.AbstractVar[int]

    @property
    def num_edges(self) -> int:
        """Number of edges, masked ones included."""
        return self.senders.shape[0]

    def send(self, x: Shaped[Array, " num_senders *dims"]) -> Shaped[Array, " num_edges *dims"]:
        """The sender's row of `x` for every edge."""
        return x[self.senders]

    def receive(self, x: Shaped[Array, " num_receivers *dims"]) -> Shaped[Array, " num_edges *dims"]:
        """The receiver's row of `x` for every edge."""
        return x[self.receivers]

    @abc.abstractmethod
    def arrange(self, edge_values: T) -> T:
        """Per-edge arrays (any pytree) from the caller's order into the layout's order."""

    @abc.abstractmethod
    def restore(self, edge_values: T) -> T:
        """Per-edge arrays (any pytree) from the layout's order back into the caller's order."""


class EdgeList(AbstractEdges):
    """Edges in the caller's order: the plain route (gather, then segment reduction)."""

    senders: Int[Array, " num_edges"]
    receivers: Int[Array, " num_edges"]
    edge_mask: Bool[Array, " num_edges"] | None
    num_senders: int = eqx.field(static=True)
    num_receivers: int = eqx.field(static=True)

    def arrange(self, edge_values: T) -> T:
        return edge_values

    def restore(self, edge_values: T) -> T:
        return edge_values


class EdgeIndex(AbstractEdges):
    """Compressed edges: sorted by receiver with pointers, and the way back by sender. Build once, reuse."""

    senders: Int[Array, " num_edges"]
    receivers: Int[Array, " num_edges"]
    edge_mask: Bool[Array, " num_edges"] | None
    receiver_ptr: Int[Array, " num_receivers_plus_1"]
    sender_ptr: Int[Array, " num_senders_plus_1"]
    permutation: Int[Array, " num_edges"]  # layout position -> caller's position
    inverse_permutation: Int[Array, " num_edges"]  # caller's position -> layout position
    by_sender: Int[Array, " num_edges"]  # position in sender-sorted order -> layout position
    num_senders: int = eqx.field(static=True)
    num_receivers: int = eqx.field(static=True)

    def arrange(self, edge_values: T) -> T:
        return jax.tree.map(lambda a: a[self.permutation], edge_values)

    def restore(self, edge_values: T) -> T:
        return jax.tree.map(lambda a: a[self.inverse_permutation], edge_values)


EdgeIndexLike = AbstractEdges | Int[Array, "2 num_edges"] | Int[np.ndarray, "2 num_edges"]


def as_edges(edge_index: EdgeIndexLike, *, num_senders: int, num_receivers: int) -> AbstractEdges:
    """`edge_index` as a layout: a layout is returned as it is (sizes checked), an array becomes an `EdgeList`."""
    if isinstance(edge_index, AbstractEdges):
        if (edge_index.num_senders, edge_index.num_receivers) != (num_senders, num_receivers):
            raise ValueError(
                f"`edge_index` was built for num_senders={edge_index.num_senders}, "
                f"num_receivers={edge_index.num_receivers}; got x with {num_senders} and {num_receivers} rows. "
                "Rebuild the EdgeIndex for this graph."
            )
        return edge_index
    edge_index = jnp.asarray(edge_index)
    return EdgeList(edge_index[0], edge_index[1], None, num_senders, num_receivers)
