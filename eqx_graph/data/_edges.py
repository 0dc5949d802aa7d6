"""Edge layouts: who sends to whom, in which order the edges are stored, and the way back to the caller's order."""

import abc
import dataclasses
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from .. import _primitives as prim
from ._edge_build import check_host_range, compress, is_concrete, rows_in_range, split_rows


T = TypeVar("T")
Kernel = Literal["auto", "csr", "segment"]
# A layout built by the host fast path holds NumPy arrays until it is put on a device.
AnyArray = Array | np.ndarray


def check_rows(name: str, value: Any, count: int, what: str) -> None:
    """Raises `ValueError` unless every array of the pytree `value` has `count` rows, one for each of `what`."""
    for leaf in jax.tree.leaves(value):
        if jnp.shape(leaf)[:1] != (count,):
            raise ValueError(f"`{name}` must have a row for each of the {count} {what}; got shape {jnp.shape(leaf)}.")


class AbstractEdges(eqx.Module):
    """A directed edge list from `num_senders` nodes (row 0, `j`) to `num_receivers` nodes (row 1, `i`).

    A layer computes in the layout's own edge order: `arrange` brings per-edge arguments from the caller's order into
    it, `restore` brings per-edge results back. Edges whose `edge_mask` is False contribute nothing on any route.
    """

    senders: eqx.AbstractVar[Int[AnyArray, " num_edges"]]
    receivers: eqx.AbstractVar[Int[AnyArray, " num_edges"]]
    edge_mask: eqx.AbstractVar[Bool[AnyArray, " num_edges"] | None]
    num_senders: eqx.AbstractVar[int]
    num_receivers: eqx.AbstractVar[int]

    @property
    def num_edges(self) -> int:
        """Number of edges, masked ones included."""
        return self.senders.shape[0]

    @abc.abstractmethod
    def send(self, x: Shaped[Array, " num_senders *dims"]) -> Shaped[Array, " num_edges *dims"]:
        """The sender's row of `x` for every edge, in layout order."""

    @abc.abstractmethod
    def receive(self, x: Shaped[Array, " num_receivers *dims"]) -> Shaped[Array, " num_edges *dims"]:
        """The receiver's row of `x` for every edge, in layout order."""

    @abc.abstractmethod
    def sum_received(self, edge_values: Shaped[Array, " num_edges *dims"]) -> Shaped[Array, " num_receivers *dims"]:
        """Sum of per-edge values (layout order) over the edges entering each receiver, masked ones included."""

    @abc.abstractmethod
    def arrange(self, edge_values: T) -> T:
        """Per-edge arrays (any pytree) from the caller's order into the layout's order."""

    @abc.abstractmethod
    def restore(self, edge_values: T) -> T:
        """Per-edge arrays (any pytree) from the layout's order back into the caller's order."""

    @abc.abstractmethod
    def with_edge_mask(self, edge_mask: Bool[AnyArray, " num_edges"]) -> "AbstractEdges":
        """The same edges with `edge_mask` (layout order) in place of the present one."""

    @abc.abstractmethod
    def reverse(self) -> "AbstractEdges":
        """Every edge turned round: receivers send to senders. The caller's order is kept, and nothing is sorted."""

    @abc.abstractmethod
    def append_self_loops(self) -> "AbstractEdges":
        """One loop per node after the edges (which keep their places): the caller's order is [edges, loops 0..n-1]."""

    def to_array(self) -> Int[Array, "2 num_edges"]:
        """The edges in the caller's order as a `(2, num_edges)` array, masked ones included."""
        return jnp.stack(self.restore((jnp.asarray(self.senders), jnp.asarray(self.receivers))))

    def remove_self_loops(self) -> "AbstractEdges":
        """Masks every edge whose two ends are the same node; shapes stay."""
        keep = jnp.asarray(self.senders) != jnp.asarray(self.receivers)
        return self.with_edge_mask(keep if self.edge_mask is None else keep & jnp.asarray(self.edge_mask))

    def with_self_loops(self, existing: Literal["mask", "keep"] = "mask") -> "AbstractEdges":
        """One self-loop per node, at the end of the caller's order: edges first, then loops 0 to n-1.

        Takes O(num_edges) position arithmetic and no sort. Per-edge arguments grow to match:
        `edges.arrange(jnp.concatenate([edge_values, loop_values]))`. Inside a training step the diagonal terms
        of `attention(..., self_logits=)` and of a plain `+ weight[:, None] * x` are cheaper: they add no edges.

        **Arguments:**

        - `existing`: what happens to loops already there. `"mask"` masks them (PyG's `remove_self_loops` then
            `add_self_loops`; with their weights from `self_loop_values` it is `add_remaining_self_loops`),
            `"keep"` leaves them beside the new ones (PyG's `add_self_loops`).

        **Returns:** a layout of `num_edges + num_senders` edges.

        **Raises:** `ValueError` if senders and receivers are different nodes (bipartite).
        """
        if self.num_senders != self.num_receivers:
            raise ValueError(
                f"`with_self_loops` needs one set of nodes; got num_senders={self.num_senders} and "
                f"num_receivers={self.num_receivers}. Add loops before splitting the graph, or turn them off."
            )
        return (self.remove_self_loops() if existing == "mask" else self).append_self_loops()

    def self_loop_values(
        self, edge_values: Shaped[Array, " num_edges *dims"], fill_value: Any
    ) -> Shaped[Array, " num_receivers *dims"]:
        """Value of each node's own loop (the caller's last one if there are several), `fill_value` where it has none.

        **Arguments:**

        - `edge_values`: one value per edge, in layout order.
        - `fill_value`: scalar, or anything that broadcasts to the result.
        """
        check_rows("edge_values", edge_values, self.num_edges, "edges")
        is_loop = jnp.asarray(self.senders) == jnp.asarray(self.receivers)
        is_loop = is_loop if self.edge_mask is None else is_loop & jnp.asarray(self.edge_mask)
        positions = jnp.arange(self.num_edges, dtype=jnp.int32)
        last = jnp.full(self.num_receivers, -1, jnp.int32)
        last = last.at[self.receivers].max(jnp.where(is_loop, positions, -1))
        found = (
            edge_values[jnp.maximum(last, 0)]
            if self.num_edges
            else jnp.zeros_like(edge_values, shape=(self.num_receivers, *edge_values.shape[1:]))
        )
        has_loop = (last >= 0).reshape(-1, *[1] * (edge_values.ndim - 1))
        return jnp.where(has_loop, found, jnp.asarray(fill_value, edge_values.dtype))

    def _duplicate_groups(self) -> tuple[Array, Array]:
        """For every edge, the group of edges with its ends that count, and whether it is the first of the group."""
        senders, receivers = jnp.asarray(self.senders), jnp.asarray(self.receivers)
        masked = jnp.zeros(self.num_edges, bool) if self.edge_mask is None else ~jnp.asarray(self.edge_mask)
        order = jnp.lexsort((senders, receivers, masked))  # stable: the first of a run is the first of the edges
        runs = [a[order] for a in (senders, receivers, masked)]
        changes = [a[1:] != a[:-1] for a in runs]
        starts = jnp.concatenate([jnp.ones(min(1, self.num_edges), bool), changes[0] | changes[1] | changes[2]])
        group = jnp.cumsum(starts, dtype=jnp.int32) - 1
        zeros = jnp.zeros(self.num_edges, jnp.int32)
        first = starts & ~runs[2]
        return zeros.at[order].set(group), jnp.zeros(self.num_edges, bool).at[order].set(first)

    def coalesce(self) -> "AbstractEdges":
        """Masks all but the first of the edges with the same two ends; shapes and order stay (one sort).

        `sum_duplicates`, called before, gives the edges that remain the sum of their duplicates' values.
        """
        return self.with_edge_mask(self._duplicate_groups()[1])

    def sum_duplicates(self, edge_values: Shaped[Array, " num_edges *dims"]) -> Shaped[Array, " num_edges *dims"]:
        """Per-edge values (layout order) summed over the edges with the same two ends, for each of them."""
        check_rows("edge_values", edge_values, self.num_edges, "edges")
        group, _ = self._duplicate_groups()
        return jnp.zeros_like(edge_values).at[group].add(edge_values)[group]


class EdgeList(AbstractEdges):
    """Edges in the caller's order: the plain route (gather, then segment reduction)."""

    senders: Int[AnyArray, " num_edges"]
    receivers: Int[AnyArray, " num_edges"]
    edge_mask: Bool[AnyArray, " num_edges"] | None
    num_senders: int = eqx.field(static=True)
    num_receivers: int = eqx.field(static=True)

    @classmethod
    def from_array(
        cls,
        edge_index: Int[AnyArray, "2 num_edges"],
        *,
        num_senders: int,
        num_receivers: int,
        edge_mask: Bool[AnyArray, " num_edges"] | None = None,
        check: bool = True,
    ) -> "EdgeList":
        """The edges as they are: arguments and errors of `EdgeIndex.from_array`, but nothing is sorted."""
        senders, receivers = rows_in_range(edge_index, num_senders, num_receivers, check=check)
        mask = None if edge_mask is None else jnp.asarray(edge_mask)
        return cls(
            senders=senders, receivers=receivers, edge_mask=mask, num_senders=num_senders, num_receivers=num_receivers
        )

    def send(self, x: Shaped[Array, " num_senders *dims"]) -> Shaped[Array, " num_edges *dims"]:
        check_rows("x", x, self.num_senders, "senders")
        return x[self.senders]

    def receive(self, x: Shaped[Array, " num_receivers *dims"]) -> Shaped[Array, " num_edges *dims"]:
        check_rows("x", x, self.num_receivers, "receivers")
        return x[self.receivers]

    def arrange(self, edge_values: T) -> T:
        check_rows("edge_values", edge_values, self.num_edges, "edges")
        return edge_values

    def restore(self, edge_values: T) -> T:
        check_rows("edge_values", edge_values, self.num_edges, "edges")
        return edge_values

    def sum_received(self, edge_values: Shaped[Array, " num_edges *dims"]) -> Shaped[Array, " num_receivers *dims"]:
        check_rows("edge_values", edge_values, self.num_edges, "edges")
        out = jnp.zeros((self.num_receivers, *edge_values.shape[1:]), edge_values.dtype)
        return out.at[self.receivers].add(edge_values, mode="drop")

    def with_edge_mask(self, edge_mask: Bool[AnyArray, " num_edges"]) -> "EdgeList":
        return dataclasses.replace(self, edge_mask=edge_mask)

    def reverse(self) -> "EdgeList":
        return EdgeList(
            senders=self.receivers,
            receivers=self.senders,
            edge_mask=self.edge_mask,
            num_senders=self.num_receivers,
            num_receivers=self.num_senders,
        )

    def append_self_loops(self) -> "EdgeList":
        loops = jnp.arange(self.num_senders, dtype=self.senders.dtype)
        mask = None
        if self.edge_mask is not None:
            mask = jnp.concatenate([jnp.asarray(self.edge_mask), jnp.ones(self.num_senders, bool)])
        senders, receivers = (jnp.concatenate([jnp.asarray(ids), loops]) for ids in (self.senders, self.receivers))
        return dataclasses.replace(self, senders=senders, receivers=receivers, edge_mask=mask)


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
        if self.num_senders != self.num_receivers:
            raise ValueError(
                f"`with_reversed` needs one set of nodes; got num_senders={self.num_senders} and "
                f"num_receivers={self.num_receivers}."
            )
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


EdgeIndexLike = AbstractEdges | Int[Array, "2 num_edges"] | Int[np.ndarray, "2 num_edges"]


def as_edges(edge_index: EdgeIndexLike, *, num_senders: int, num_receivers: int) -> AbstractEdges:
    """`edge_index` as a layout: a layout is returned as it is (sizes checked), an array becomes an `EdgeList`.

    Ids of an array out of range are an error, now or under jit at run time (see `EdgeIndex.from_array`).
    """
    if isinstance(edge_index, AbstractEdges):
        if (edge_index.num_senders, edge_index.num_receivers) != (num_senders, num_receivers):
            raise ValueError(
                f"`edge_index` was built for num_senders={edge_index.num_senders}, "
                f"num_receivers={edge_index.num_receivers}; got x with {num_senders} and {num_receivers} rows. "
                "Rebuild the EdgeIndex for this graph."
            )
        return edge_index
    return EdgeList.from_array(edge_index, num_senders=num_senders, num_receivers=num_receivers)
