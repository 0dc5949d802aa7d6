"""Means over the nodes of every graph of a batch."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ...data._edge_build import is_concrete
from ...ops import segment_mean


Batch = Int[Array | np.ndarray, " num_nodes"]


def num_graphs(batch: Batch, batch_size: int | None) -> int:
    """Number of graphs: given, or read from `batch` where its values are known."""
    if batch_size is not None:
        return batch_size
    if not is_concrete(batch):
        raise ValueError("`batch_size` (number of graphs, a Python int) must be given under jit; got None.")
    return int(np.max(np.asarray(batch), initial=-1)) + 1


def graph_mean(x: Float[Array, "num_nodes features"], batch: Batch, batch_size: int | None) -> Array:
    """Mean of every feature over the nodes of every graph; 0 for a graph without nodes."""
    return segment_mean(x, jnp.asarray(batch), num_graphs(batch, batch_size))


def at_nodes(per_graph: Float[Array, " num_graphs *dims"], batch: Batch) -> Float[Array, " num_nodes *dims"]:
    """Every node's graph's value."""
    return per_graph[jnp.asarray(batch)]
