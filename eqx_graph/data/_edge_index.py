"""The compressed layout: edges sorted by receiver, with the way back by sender."""

import dataclasses
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from .. import _primitives as prim
from ._edge_build import check_host_range, compress, is_concrete, rows_in_range, split_rows
from ._edges import AbstractEdges, AnyArray, check_one_set, check_rows


T = TypeVar("T")
Kernel = Literal["auto", "csr", "segment"]


class EdgeIndex(AbstractEdges):
    """Compressed edges: sorted by receiver with pointers, and the way back by sender. Build once, reuse.

    Both compressed orders are stored, so that a product with the adjacency matrix and its transpose (hence every
    derivative) need no sort and no scatter: seven integers per edge and one per node of either kind.
    Build it with `EdgeIndex.from_array`; `reverse`, masks and self-loops are derived without sorting again.
    """

    senders: Int[AnyArray, " num_edges"]
    receivers: Int[AnyArray, " num_edges"]
    edge_mask: Bool[AnyArray, " num_edges"] | None
    receiver_ptr: Int[AnyArray, " num_receivers_plus_1"]
    sender_ptr: Int[AnyArray, " num_senders_plus_1"]
    permutation: Int[AnyArray, " num_edges"]  # layout position -> caller's position
    inverse_permutation: Int[AnyArray, " num_edges"]  # caller's position -> layout position
    by_sender: Int[AnyArray, " num_edges"]  # position in sender-sorted order -> layout position
    by_receiver: Int[AnyArray, " num_edges"]  # layout position -> position in sender-sorted order
    receivers_by_sender: Int[AnyArray, " num_edges"]  # receivers, in sender-sorted order
    num_senders: int = eqx.field(static=True)
    num_receivers: int = eqx.field(static=True)
    kernel: Kernel = eqx.field(static=True, default="auto")

    @classmethod
    def from_numpy(
        cls,
        edge_index: Int[np.ndarray, "2 num_edges"],
        *,
        num_senders: int,
        num_receivers: int,
        edge_mask: Bool[np.ndarray, " num_edges"] | None = None,
    ) -> "EdgeIndex":
        """Host fast path for data pipelines, in NumPy; the leaves stay NumPy arrays.

        Put the result on the device once (`jax.device_put`) before calling a jitted function with it many times:
        `from_array` does that. Arguments and errors are those of `from_array`.
        """
        senders, receivers = (row.astype(np.int32, copy=False) for row in split_rows(edge_index))
        check_host_range(edge_index[0], num_senders, 0, "num_senders")
        check_host_range(edge_index[1], num_receivers, 1, "num_receivers")
        return cls._from_rows(senders, receivers, num_senders, num_receivers, edge_mask)

    @classmethod
    def from_array(
        cls,
        edge_index: Int[AnyArray, "2 num_edges"],
        *,
        num_senders: int,
        num_receivers: int,
        edge_mask: Bool[AnyArray, " num_edges"] | None = None,
        check: bool = True,
    ) -> "EdgeIndex":
        """Sorts a `(2, num_edges)` edge list, on the host if its values are known, else under jit (static sizes).

        **Arguments:**

        - `edge_index`: row 0 the sender j, row 1 the receiver i of each edge.
        - `num_senders`, `num_receivers`: static ints; equal for an ordinary graph, different for a bipartite one.
        - `edge_mask`: False for edges that contribute nothing (padding), in the same order; `None`: all count.
        - `check`: under jit, check the range of the ids at run time (`eqx.error_if`: one pass over the edges), unless
            sizes are left open for an export. Values known now are always checked.

        **Returns:** the layout, as JAX arrays.

        **Raises:** `ValueError` for a wrong shape or an id out of range, `TypeError` for a dtype that is not an
        integer's. Under jit, `eqx.EquinoxRuntimeError` for an id out of range; without `check` the layout is then
        meaningless.
        """
        if is_concrete(edge_index, edge_mask):
            mask = None if edge_mask is None else np.asarray(edge_mask)
            host = cls.from_numpy(
                np.asarray(edge_index), num_senders=num_senders, num_receivers=num_receivers, edge_mask=mask
            )
            return jax.device_put(host)
        senders, receivers = rows_in_range(edge_index, num_senders, num_receivers, check=check)
        return cls._from_rows(senders, receivers, num_senders, num_receivers, edge_mask)

    @classmethod
    def _from_rows(
        cls, senders: Any, receivers: Any, num_senders: int, num_receivers: int, edge_mask: Any
    ) -> "EdgeIndex":
        c = compress(senders, receivers, num_senders, num_receivers)
        mask = None if edge_mask is None else edge_mask[c.permutation]
        return cls(
            senders=c.senders,
            receivers=c.receivers,
            edge_mask=mask,
            receiver_ptr=c.receiver_ptr,
            sender_ptr=c.sender_ptr,
            permutation=c.permutation,
            inverse_permutation=c.inverse_permutation,
            by_sender=c.by_sender,
            by_receiver=c.by_receiver,
            receivers_by_sender=c.receivers_by_sender,
            num_senders=num_senders,
            num_receivers=num_receivers,
        )

    def send(self, x: Shaped[Array, " num_senders *dims"]) -> Shaped[Array, " num_edges *dims"]:
        check_rows("x", x, self.num_senders, "senders")
        return prim.take_rows(x, self.senders, self.by_sender, self.sender_ptr, self.kernel)

    def receive(self, x: Shaped[Array, " num_receivers *dims"]) -> Shaped[Array, " num_edges *dims"]:
        check_rows("x", x, self.num_receivers, "receivers")
        in_order = jnp.arange(self.num_edges, dtype=jnp.int32)
        return prim.take_rows(x, self.receivers, in_order, self.receiver_ptr, self.kernel)

    def arrange(self, edge_values: T) -> T:
        check_rows("edge_values", edge_values, self.num_edges, "edges")
        return jax.tree.map(lambda a: prim.permute(a, self.permutation, self.inverse_permutation), edge_values)

    def restore(self, edge_values: T) -> T:
        check_rows("edge_values", edge_values, self.num_edges, "edges")
        return jax.tree.map(lambda a: prim.permute(a, self.inverse_permutation, self.permutation), edge_values)

    def sum_received(self, edge_values: Shaped[Array, " num_edges *dims"]) -> Shaped[Array, " num_receivers *dims"]:
        check_rows("edge_values", edge_values, self.num_edges, "edges")
        in_order = jnp.arange(self.num_edges, dtype=jnp.int32)
        return prim.sum_rows(edge_values, self.receivers, in_order, self.receiver_ptr, self.kernel)

    @property
    def layout(self) -> prim.Layout:
        """The index operands of the sparse primitives."""
        forward = self.senders, self.receivers, self.receiver_ptr
        return prim.Layout(*forward, self.by_sender, self.receivers_by_sender, self.sender_ptr, self.by_receiver)

    def with_edge_mask(self, edge_mask: Bool[AnyArray, " num_edges"]) -> "EdgeIndex":
        check_rows("edge_mask", edge_mask, self.num_edges, "edges")
        return dataclasses.replace(self, edge_mask=edge_mask)

    def with_kernel(self, kernel: Kernel) -> "EdgeIndex":
        """The same layout, computed by another sparse kernel (see docs/engine.md; `"auto"` is right almost always)."""
        return dataclasses.replace(self, kernel=kernel)

    def reverse(self) -> "EdgeIndex":
        permutation = self.permutation[self.by_sender]
        return EdgeIndex(
            senders=self.receivers_by_sender,
            receivers=self.senders[self.by_sender],
            edge_mask=None if self.edge_mask is None else self.edge_mask[self.by_sender],
            receiver_ptr=self.sender_ptr,
            sender_ptr=self.receiver_ptr,
            permutation=permutation,
            inverse_permutation=self.by_receiver[self.inverse_permutation],
            by_sender=self.by_receiver,
            by_receiver=self.by_sender,
            receivers_by_sender=self.senders,
            num_senders=self.num_receivers,
            num_receivers=self.num_senders,
            kernel=self.kernel,
        )

    def append_self_loops(self) -> "EdgeIndex":
        check_one_set(self, "append_self_loops")
        nodes = jnp.arange(self.num_senders, dtype=jnp.int32)
        edges = jnp.arange(self.num_edges, dtype=jnp.int32)
        senders, receivers = jnp.asarray(self.senders), jnp.asarray(self.receivers)
        # A row's loop goes behind its edges, so an edge moves on by its row's number of earlier loops: its row id.
        place = edges + receivers, self.receiver_ptr[1:] + nodes  # layout positions of the edges, of the loops
        sender_place = self.by_receiver + senders, self.sender_ptr[1:] + nodes  # positions in sender-sorted order

        def merge(at: Any, values: Any, loop_values: Any) -> Any:
            out = jnp.zeros(self.num_edges + self.num_senders, jnp.asarray(values).dtype)
            out = out.at[at[0]].set(values, unique_indices=True)
            return out.at[at[1]].set(loop_values, unique_indices=True)

        mask = None if self.edge_mask is None else merge(place, self.edge_mask, jnp.ones(self.num_senders, bool))
        return EdgeIndex(
            senders=merge(place, senders, nodes),
            receivers=merge(place, receivers, nodes),
            edge_mask=mask,
            receiver_ptr=self.receiver_ptr + jnp.arange(self.num_senders + 1, dtype=jnp.int32),
            sender_ptr=self.sender_ptr + jnp.arange(self.num_senders + 1, dtype=jnp.int32),
            permutation=merge(place, self.permutation, self.num_edges + nodes),
            inverse_permutation=jnp.concatenate([place[0][self.inverse_permutation], place[1]]),
            by_sender=merge(sender_place, place[0], place[1]),
            by_receiver=merge(place, *sender_place),
            receivers_by_sender=merge(sender_place, receivers, nodes),
            num_senders=self.num_senders,
            num_receivers=self.num_receivers,
            kernel=self.kernel,
        )

    def to_undirected(self) -> "EdgeIndex":
        """Every edge in both directions, once: `with_reversed().coalesce()`."""
        edges = self.with_reversed()
        return edges.with_edge_mask(edges._duplicate_groups()[1])

    def with_reversed(self) -> "EdgeIndex":
        """The edges and, behind them in the caller's order, the same edges turned round; duplicates are kept.

        For an undirected graph with the values of edges that are there both ways added up, as in PyG:

            both = edges.with_reversed()
            values = both.sum_duplicates(both.arrange(jnp.concatenate([edge_values, edge_values])))
            both = both.coalesce()

        **Raises:** `ValueError` for a bipartite layout.
        """
        check_one_set(self, "with_reversed")
        edge_index = self.to_array()
        both = jnp.concatenate([edge_index, edge_index[::-1]], axis=1)
        mask = None
        if self.edge_mask is not None:
            one = self.restore(jnp.asarray(self.edge_mask))
            mask = jnp.concatenate([one, one])
        edges = EdgeIndex.from_array(
            both, num_senders=self.num_senders, num_receivers=self.num_receivers, edge_mask=mask, check=False
        )
        return edges.with_kernel(self.kernel)
