"""Edge layouts: who sends to whom, in which order the edges are stored, and the way back to the caller's order."""

import abc
import dataclasses
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from .._kernels import accumulator_dtype
from ._edge_build import rows_in_range


T = TypeVar("T")
# A layout built by the host fast path holds NumPy arrays until it is put on a device.
AnyArray = Array | np.ndarray


def check_rows(name: str, value: Any, count: int, what: str) -> None:
    """Raises `ValueError` unless every array of the pytree `value` has `count` rows, one for each of `what`."""
    for leaf in jax.tree.leaves(value):
        if jnp.shape(leaf)[:1] != (count,):
            raise ValueError(f"`{name}` must have a row for each of the {count} {what}; got shape {jnp.shape(leaf)}.")


def check_one_set(
    edges: "AbstractEdges", name: str, remedy: str = "Call it before splitting the graph, or leave it out."
) -> None:
    """Raises `ValueError` naming the method or argument `name` unless senders and receivers can be the same nodes."""
    if edges.num_senders != edges.num_receivers:
        raise ValueError(
            f"`{name}` needs one set of nodes; got num_senders={edges.num_senders} and "
            f"num_receivers={edges.num_receivers}. {remedy}"
        )


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
        """One loop per node after the edges (which keep their places): the caller's order is [edges, loops 0..n-1].

        **Raises:** `ValueError` if senders and receivers are different nodes (bipartite).
        """

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
        check_one_set(self, "with_self_loops")
        return (self.remove_self_loops() if existing == "mask" else self).append_self_loops()

    def self_loop_values(
        self, edge_values: Shaped[Array, " num_edges *dims"], fill_value: Any
    ) -> Shaped[Array, " num_receivers *dims"]:
        """Value of each node's own loop (the caller's last one if there are several), `fill_value` where it has none.

        **Arguments:**

        - `edge_values`: one value per edge, in layout order.
        - `fill_value`: scalar, or anything that broadcasts to the result.

        **Raises:** `ValueError` for a wrong number of rows, or a bipartite layout.
        """
        check_one_set(self, "self_loop_values")
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
        wide = accumulator_dtype(edge_values.dtype)
        out = jnp.zeros((self.num_receivers, *edge_values.shape[1:]), wide)
        return out.at[self.receivers].add(jnp.asarray(edge_values, wide), mode="drop").astype(edge_values.dtype)

    def with_edge_mask(self, edge_mask: Bool[AnyArray, " num_edges"]) -> "EdgeList":
        check_rows("edge_mask", edge_mask, self.num_edges, "edges")
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
        check_one_set(self, "append_self_loops")
        loops = jnp.arange(self.num_senders, dtype=self.senders.dtype)
        mask = None
        if self.edge_mask is not None:
            mask = jnp.concatenate([jnp.asarray(self.edge_mask), jnp.ones(self.num_senders, bool)])
        senders, receivers = (jnp.concatenate([jnp.asarray(ids), loops]) for ids in (self.senders, self.receivers))
        return dataclasses.replace(self, senders=senders, receivers=receivers, edge_mask=mask)


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
