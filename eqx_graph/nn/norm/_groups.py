"""Means over the nodes of every graph of a batch."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...data._edge_build import in_range, is_concrete
from ...ops import segment_count, segment_mean


Batch = Int[Array | np.ndarray, " num_nodes"]


class Groups(NamedTuple):
    """The nodes of every graph."""

    ids: Int[Array | np.ndarray, " num_nodes"]
    size: int

    def mean(self, x: Float[Array, " num_nodes *dims"]) -> Float[Array, " num_graphs *dims"]:
        """Mean over the nodes of every graph; 0 for a graph without nodes."""
        return segment_mean(x, jnp.asarray(self.ids), self.size)

    def num_nodes(self) -> Int[Array, " num_graphs"]:
        """Number of nodes of every graph."""
        return segment_count(jnp.asarray(self.ids), self.size)

    def at_nodes(self, per_graph: Float[Array, " num_graphs *dims"]) -> Float[Array, " num_nodes *dims"]:
        """Every node's graph's value."""
        return per_graph[jnp.asarray(self.ids)]


def groups_of(batch: Batch | None, batch_size: int | None, num_nodes: int) -> Groups:
    """Groups of nodes: one without `batch`; as many as there can be where their number is not known under jit.

    **Raises:** `ValueError` (at run time under jit) for a graph outside `[0, batch_size)`.
    """
    if batch is None:
        return Groups(np.zeros(num_nodes, np.int32), 1)
    if batch_size is None and is_concrete(batch):
        batch_size = int(np.max(np.asarray(batch), initial=-1)) + 1
    if batch_size is not None:
        known = isinstance(num_nodes, int)  # left open for an export, which no check can be part of
        return Groups(in_range("batch", batch, batch_size, "batch_size") if known else batch, batch_size)
    _, ids = jnp.unique(batch, return_inverse=True, size=num_nodes)
    return Groups(ids.astype(jnp.int32), num_nodes)
