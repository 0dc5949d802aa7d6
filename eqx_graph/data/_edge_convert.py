"""Edge layouts to and from sparse matrices, as operators: rows receive, columns send, so that `A @ x` aggregates.

Both libraries are imported when a function here needs them: they take longer to import than this package.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Shaped

from ._edge_index import EdgeIndex
from ._edges import AbstractEdges, check_rows


EdgeWeight = Shaped[Array, " num_edges"] | Shaped[np.ndarray, " num_edges"]


def edges_from_scipy(matrix: Any) -> tuple[EdgeIndex, Shaped[Array, " num_edges"]]:
    """The layout and weights (in its caller's order) of a SciPy sparse matrix `A`, with $A_{ij}$ the edge j to i.

    For a matrix whose rows are sources (PyG's and networkx's adjacency), pass its transpose.

    **Arguments:**

    - `matrix`: any SciPy sparse array or matrix, `(num_receivers, num_senders)`; stored zeros are edges too.

    **Raises:** `TypeError` if it is not one.
    """
    import scipy.sparse

    if not scipy.sparse.issparse(matrix):
        raise TypeError(f"`matrix` must be a SciPy sparse array; got {type(matrix).__name__}.")
    coo = matrix.tocoo()
    edge_index = np.stack([coo.col, coo.row]).astype(np.int32)
    edges = EdgeIndex.from_array(edge_index, num_senders=coo.shape[1], num_receivers=coo.shape[0])
    return edges, jnp.asarray(coo.data)


def edges_to_scipy(edges: AbstractEdges, edge_weight: EdgeWeight | None = None) -> Any:
    """The `(num_receivers, num_senders)` SciPy matrix of the layout; edges between the same nodes are added up.

    **Arguments:**

    - `edge_weight`: in the caller's order; ones if `None`. Masked edges are left out.
    """
    import scipy.sparse

    senders, receivers = np.asarray(edges.to_array())
    check_rows("edge_weight", edge_weight, edges.num_edges, "edges")
    weight = np.ones(edges.num_edges, np.float32) if edge_weight is None else np.asarray(edge_weight)
    if edges.edge_mask is not None:
        keep = np.asarray(edges.restore(jnp.asarray(edges.edge_mask)))
        senders, receivers, weight = senders[keep], receivers[keep], weight[keep]
    shape = (edges.num_receivers, edges.num_senders)
    return scipy.sparse.coo_array((weight, (receivers, senders)), shape=shape).tocsr()


def edges_from_bcsr(matrix: Any) -> tuple[EdgeIndex, Shaped[Array, " num_edges"]]:
    """The layout and weights of JAX's compressed matrix, with $A_{ij}$ the edge j to i; works under jit.

    **Raises:** `ValueError` if the matrix has batch or dense dimensions.
    """
    if matrix.n_batch or matrix.n_dense:
        raise ValueError(
            f"`matrix` must be a plain two-dimensional BCSR; got n_batch={matrix.n_batch}, n_dense={matrix.n_dense}."
        )
    num_receivers, num_senders = matrix.shape
    positions = jnp.arange(matrix.nse)
    receivers = jnp.searchsorted(matrix.indptr, positions, side="right") - 1
    edge_index = jnp.stack([matrix.indices, receivers.astype(matrix.indices.dtype)])
    if not isinstance(edge_index, Tracer):
        edge_index = np.asarray(edge_index)
    return EdgeIndex.from_array(edge_index, num_senders=num_senders, num_receivers=num_receivers), matrix.data


def edges_to_bcsr(edges: EdgeIndex, edge_weight: EdgeWeight | None = None) -> Any:
    """JAX's compressed matrix of the layout; shares its pointers and indices, and works under jit.

    **Arguments:**

    - `edge_weight`: in the caller's order; ones if `None`. Masked edges get weight 0.
    """
    from jax.experimental.sparse import BCSR

    check_rows("edge_weight", edge_weight, edges.num_edges, "edges")
    weight = jnp.ones(edges.num_edges) if edge_weight is None else edges.arrange(jnp.asarray(edge_weight))
    if edges.edge_mask is not None:
        weight = jnp.where(jnp.asarray(edges.edge_mask), weight, 0)
    buffers = weight, jnp.asarray(edges.senders), jnp.asarray(edges.receiver_ptr)
    return BCSR(buffers, shape=(edges.num_receivers, edges.num_senders))
