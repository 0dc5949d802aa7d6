"""Messages modulated by their receiver, one map per relation."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ...data import AbstractEdges, EdgeIndexLike
from ...data._edge_build import in_range
from .._linear import check_sizes, project
from .._message_passing import MessagePassing
from .._rows import apply_rows
from ..aggr import AbstractAggregation
from ..aggr._multi import AggregationLike, as_aggregation
from ._adjacency import Flow
from ._neighbors import Nodes, endpoints


class FiLMConv(MessagePassing):
    r"""Feature-wise linear modulation.

    $x_i' = \sigma(\gamma_i \odot W x_i + \beta_i) + \sum_r \bigoplus_{j \in N_r(i)}
    \sigma(\gamma_{r,i} \odot W_r x_j + \beta_{r,i})$ with $[\beta_i, \gamma_i] = g(x_i)$ and
    $[\beta_{r,i}, \gamma_{r,i}] = g_r(x_i)$, one `film` $g_r$ and one map $W_r$ per relation.

    ??? cite "Reference"
        Brockschmidt, GNN-FiLM: Graph Neural Networks with Feature-wise Linear Modulation, ICML 2020, eq. 4.
    """

    lins: list[eqx.nn.Linear]
    films: list[Callable[..., Any]]
    lin_skip: eqx.nn.Linear
    film_skip: Callable[..., Any]
    act: Callable[[Array], Array] | None
    aggregation: AbstractAggregation
    flow: Flow = eqx.field(static=True)

    def __init__(
        self,
        in_features: int | tuple[int, int],
        out_features: int,
        num_relations: int = 1,
        nn: Callable[..., Any] | None = None,
        act: Callable[[Array], Array] | None = jax.nn.relu,
        *,
        aggr: AggregationLike = "mean",
        flow: Flow = "source_to_target",
        key: PRNGKeyArray,
    ):
        r"""**Arguments:**

        - `in_features`: features per node, or (senders', receivers') of a bipartite graph.
        - `out_features`: features per node of the result.
        - `num_relations`: number of edge types.
        - `nn`: network on ONE receiver's features with `2 * out_features` outputs; every $g$ starts as a copy
            of it. Linear maps if None.
        - `act`: $\sigma$, or None.
        - `aggr`: aggregation of the messages of a relation, or its name.
        - `flow`: `"source_to_target"` or `"target_to_source"`.
        - `key`: draws the linear maps.

        **Raises:** `ValueError` for `num_relations` below 1.
        """
        check_sizes(in_features=in_features, out_features=out_features, num_relations=num_relations)
        src, dst = in_features if isinstance(in_features, tuple) else (in_features, in_features)
        k_lins, k_films, k_lin, k_film = jr.split(key, 4)
        out = 2 * out_features
        self.lins = [eqx.nn.Linear(src, out_features, use_bias=False, key=k) for k in jr.split(k_lins, num_relations)]
        self.films = [eqx.nn.Linear(dst, out, key=k) if nn is None else nn for k in jr.split(k_films, num_relations)]
        self.lin_skip = eqx.nn.Linear(dst, out_features, use_bias=False, key=k_lin)
        self.film_skip = eqx.nn.Linear(dst, out, use_bias=False, key=k_film) if nn is None else nn
        self.act = act
        self.aggregation = as_aggregation(aggr)
        self.flow = flow

    def message(
        self, x_j: Float[Array, " out"], beta_i: Float[Array, " out"], gamma_i: Float[Array, " out"]
    ) -> Float[Array, " out"]:
        out = gamma_i * x_j + beta_i
        return out if self.act is None else self.act(out)

    @jax.named_scope("eqx_graph.FiLMConv")
    def __call__(
        self,
        x: Nodes,
        edge_index: EdgeIndexLike,
        edge_type: Int[Array | np.ndarray, " num_edges"] | None = None,
    ) -> Float[Array, "num_receivers out"]:
        """**Arguments:**

        - `x`: node features, or (senders', receivers').
        - `edge_index`: `(2, num_edges)` integers or an `EdgeIndex`.
        - `edge_type`: relation of every edge, in the order of `edge_index`; needed for several relations.

        **Returns:** new receiver features, `(num_receivers, out_features)`.

        **Raises:** `ValueError` for wrong sizes, or an `edge_type` that is missing or no relation.
        """
        x_src, x_dst, edges = endpoints(x, edge_index, None, self.flow)
        if x_dst is None:
            raise ValueError("`x` must hold features of receivers too; got (x_src, None).")
        if len(self.lins) > 1 and edge_type is None:
            raise ValueError(f"`edge_type` must be given for {len(self.lins)} relations; got None.")
        if len(self.lins) > 1:
            edge_type = in_range("edge_type", edge_type, len(self.lins), "num_relations")
        beta, gamma = jnp.split(apply_rows(self.film_skip, x_dst)[0], 2, axis=-1)
        out = gamma * project(self.lin_skip, x_dst) + beta
        out = out if self.act is None else self.act(out)
        for relation, (lin, film) in enumerate(zip(self.lins, self.films, strict=True)):
            beta, gamma = jnp.split(apply_rows(film, x_dst)[0], 2, axis=-1)
            within = edges if len(self.lins) == 1 else _of_relation(edges, edge_type, relation)
            sent = project(lin, x_src)
            out = out + self.propagate(within, x=(sent, None), beta=(None, beta), gamma=(None, gamma))
        return out


def _of_relation(edges: AbstractEdges, edge_type: Array | np.ndarray | None, relation: int) -> AbstractEdges:
    """The edges with all but those of one relation masked."""
    mask = edges.arrange(jnp.asarray(edge_type) == relation)
    return edges.with_edge_mask(mask if edges.edge_mask is None else mask & edges.edge_mask)
