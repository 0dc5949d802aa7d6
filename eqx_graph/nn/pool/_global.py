"""Readouts: one vector per graph from the vectors of its nodes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from ...data._edge_build import is_concrete
from ...data._edges import AnyArray
from ...ops import segment_max, segment_mean, segment_min, segment_sum


def _pool(
    reduce: Callable[[Array, Array, int], Array], x: AnyArray, batch: AnyArray | None, num_graphs: int | None
) -> Array:
    x = jnp.asarray(x)
    if batch is None:
        num_graphs = 1 if num_graphs is None else num_graphs
        return reduce(x, jnp.zeros(x.shape[0], jnp.int32), num_graphs)
    if num_graphs is None:
        if not is_concrete(batch):
            raise ValueError("`num_graphs` must be given when `batch` is traced (it sets the output shape).")
        num_graphs = int(batch.max()) + 1 if batch.size else 0
    return reduce(x, jnp.asarray(batch), num_graphs)


@jax.named_scope("eqx_graph.global_add_pool")
def global_add_pool(
    x: Shaped[AnyArray, " num_nodes *dims"],
    batch: Int[AnyArray, " num_nodes"] | None = None,
    num_graphs: int | None = None,
) -> Shaped[Array, " num_graphs *dims"]:
    r"""Sum over the nodes of each graph, $r_g = \sum_{i : b(i) = g} x_i$.

    **Arguments:**

    - `x`: node values, `(num_nodes, *dims)`.
    - `batch`: graph of each node; None if all nodes belong to one graph.
    - `num_graphs`: static int, PyG's `size`; default `max(batch) + 1`, needed when `batch` is traced. For a padded
        graph pass `graph.num_graphs`: the last row is then the padding graph, to be left out with `graph_mask`.

    **Returns:** `(num_graphs, *dims)`. A graph without nodes gets 0; nodes with an id outside `[0, num_graphs)` count
    nowhere.

    **Raises:** `ValueError` if `num_graphs` is missing under a transformation.
    """
    return _pool(segment_sum, x, batch, num_graphs)


@jax.named_scope("eqx_graph.global_mean_pool")
def global_mean_pool(
    x: Float[AnyArray, " num_nodes *dims"],
    batch: Int[AnyArray, " num_nodes"] | None = None,
    num_graphs: int | None = None,
) -> Float[Array, " num_graphs *dims"]:
    r"""Mean over the nodes of each graph, $r_g = \frac{1}{n_g} \sum_{i : b(i) = g} x_i$.

    **Arguments, returns, raises:** as `global_add_pool`.
    """
    return _pool(segment_mean, x, batch, num_graphs)


@jax.named_scope("eqx_graph.global_max_pool")
def global_max_pool(
    x: Shaped[AnyArray, " num_nodes *dims"],
    batch: Int[AnyArray, " num_nodes"] | None = None,
    num_graphs: int | None = None,
) -> Shaped[Array, " num_graphs *dims"]:
    r"""Elementwise maximum over the nodes of each graph, $r_g = \max_{i : b(i) = g} x_i$; ties share the gradient.

    **Arguments, returns, raises:** as `global_add_pool`.
    """
    return _pool(segment_max, x, batch, num_graphs)


@jax.named_scope("eqx_graph.global_min_pool")
def global_min_pool(
    x: Shaped[AnyArray, " num_nodes *dims"],
    batch: Int[AnyArray, " num_nodes"] | None = None,
    num_graphs: int | None = None,
) -> Shaped[Array, " num_graphs *dims"]:
    r"""Elementwise minimum over the nodes of each graph, $r_g = \min_{i : b(i) = g} x_i$; ties share the gradient.

    **Arguments, returns, raises:** as `global_add_pool`.
    """
    return _pool(segment_min, x, batch, num_graphs)
