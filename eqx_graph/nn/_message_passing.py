"""Message passing: the function of one edge, run for every edge, aggregated at every receiver."""

import abc
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..data._edge_index import EdgeIndex
from ..data._edges import AbstractEdges, EdgeIndexLike, as_edges
from ..ops._edge_function import Side, edge_function
from ..ops._messages import BlockMessages
from .aggr import AbstractAggregation, AbstractStreamingAggregation


class MessagePassing(eqx.Module):
    r"""Base of layers that are a function on one edge and an aggregation: $y_i = \bigoplus_{e : r(e) = i} m_e$.

    A subclass has a field `aggregation`, writes `message` for ONE edge, and calls `propagate` with whole arrays:

        class Distance(MessagePassing):
            mlp: eqx.nn.MLP
            aggregation: AbstractAggregation = Max()

            def message(self, x_i, x_j, edge_attr):                       # one edge: (f,), (f,), (d,)
                return self.mlp(jnp.concatenate([x_i, x_j, edge_attr]))

            def __call__(self, x, edge_index, edge_attr):
                return self.propagate(edge_index, x=x, edge_attr=edge_attr)

        Distance(mlp=eqx.nn.MLP(...))  # by name: to type checkers `aggregation` is the first field

    The names of the arguments of `message` say what it gets:

    - `foo_i`: the receiver's row, and `foo_j`: the sender's row, of the node argument `foo`;
    - any other name: the edge's row of the per-edge argument of that name, given in the caller's edge order.

    A node argument is an array with a row per node, any pytree of such arrays (except a pair), or a pair `(senders',
    receivers')` of either for a bipartite graph. `None` reaches `message` as `None`. What `message` reads from `self`
    (parameters) or closes over gets gradients like everything else.

    With an `EdgeIndex` and an aggregation that streams, `message` runs over blocks of edges and no array of all
    messages exists in either pass; otherwise (a `(2, num_edges)` array, or Median, Quantile, Sort, LSTM and
    aggregations of your own that are only callable) it runs on all edges at once. Both give the same numbers.
    """

    aggregation: eqx.AbstractVar[AbstractAggregation]

    @abc.abstractmethod
    def message(self, *args: Any, **kwargs: Any) -> Array:
        """The message of one edge, from its rows of the arguments of `propagate`."""

    def propagate(
        self,
        edge_index: EdgeIndexLike,
        *,
        size: tuple[int, int] | None = None,
        block_size: int | None = None,
        **arguments: Any,
    ) -> Array:
        """Messages of all edges, aggregated at their receivers.

        **Arguments:**

        - `edge_index`: a layout, or a `(2, num_edges)` integer array.
        - `size`: `(num_senders, num_receivers)`; read from the layout or the node arguments if not given.
        - `block_size`: edges computed together; by default as many as keep a block's arguments and messages within
            8 MiB (CPU) or 512 MiB (other backends). No effect on the numbers beyond rounding.
        - the rest: node and per-edge arguments of `message`, by name.

        **Returns:** `(num_receivers, ...)`.

        **Raises:** `ValueError` for an argument that `message` does not take or lacks, a leading size that does not
        fit, or a size that nothing tells.
        """
        names = list(inspect.signature(self.message).parameters)
        _check_names(type(self).__name__, names, arguments)
        edges = _as_edges(edge_index, names, size, arguments)
        slices = [_slice_of(edges, name, arguments) for name in names]

        def message(*rows: Any) -> Array:
            return self.message(**dict(zip(names, rows, strict=True)))

        aggregation = self.aggregation
        if isinstance(edges, EdgeIndex) and isinstance(aggregation, AbstractStreamingAggregation):
            function = edge_function(edges, message, slices, block_size)
            return aggregation.reduce(BlockMessages(function=function, num_receivers=edges.num_receivers))
        rows = [_gather(edges, side, value) for side, value in slices]
        messages = jax.vmap(message, axis_size=edges.num_edges)(*rows)
        receivers = jnp.asarray(edges.receivers)
        if edges.edge_mask is not None:
            receivers = jnp.where(jnp.asarray(edges.edge_mask), receivers, edges.num_receivers)
        return aggregation(messages, receivers, edges.num_receivers)


def _node_name(name: str) -> str | None:
    """`foo` for `foo_i` and `foo_j`."""
    return name[:-2] if name.endswith(("_i", "_j")) and len(name) > 2 else None


def _check_names(layer: str, names: Sequence[str], arguments: Mapping[str, Any]) -> None:
    wanted = {_node_name(name) or name for name in names}
    missing, unused = sorted(wanted - set(arguments)), sorted(set(arguments) - wanted)
    if missing:
        raise ValueError(f"`propagate` lacks {missing}: `{layer}.message` takes {list(names)}. Pass them by name.")
    if unused:
        raise ValueError(
            f"`propagate` got {unused}, which `{layer}.message` does not take: it takes {list(names)}. "
            "A node argument `foo` is taken as `foo_i` or `foo_j`, a per-edge argument by its own name."
        )


def _sides(value: Any) -> tuple[Any, Any]:
    """(senders' values, receivers' values): a pair is split, anything else serves both."""
    return value if type(value) is tuple and len(value) == 2 else (value, value)


def _as_edges(
    edge_index: EdgeIndexLike, names: Sequence[str], size: tuple[int, int] | None, arguments: Mapping[str, Any]
) -> AbstractEdges:
    if size is None and isinstance(edge_index, AbstractEdges):
        size = edge_index.num_senders, edge_index.num_receivers
    if size is None:
        found: list[int | None] = [None, None]
        for name in names:
            node_name = _node_name(name)
            if node_name is not None:
                for k, value in enumerate(_sides(arguments[node_name])):
                    leaves = jax.tree.leaves(value)
                    found[k] = leaves[0].shape[0] if leaves else found[k]
        if found[0] is None or found[1] is None:
            raise ValueError(
                "`size` is needed: nothing else tells the number of senders and receivers. Pass "
                "`size=(num_senders, num_receivers)` or build an `EdgeIndex`."
            )
        size = found[0], found[1]
    return as_edges(edge_index, num_senders=size[0], num_receivers=size[1])


def _slice_of(edges: AbstractEdges, name: str, arguments: Mapping[str, Any]) -> tuple[Side, Any]:
    """Which rows the argument `name` of `message` is, and of what."""
    node_name = _node_name(name)
    if node_name is None:
        side, rows, value = "caller", edges.num_edges, arguments[name]
    elif name.endswith("_j"):
        side, rows, value = "sender", edges.num_senders, _sides(arguments[node_name])[0]
    else:
        side, rows, value = "receiver", edges.num_receivers, _sides(arguments[node_name])[1]
    for leaf in jax.tree.leaves(value):
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != rows:
            what = {"caller": "edge", "sender": "sender", "receiver": "receiver"}[side]
            raise ValueError(
                f"`{node_name or name}` must have a row for each of the {rows} {what}s; got shape {jnp.shape(leaf)}. "
                "Constants belong in the layer's fields."
            )
    return side, value


def _gather(edges: AbstractEdges, side: Side, value: Any) -> Any:
    if side == "caller":
        return edges.arrange(value)
    return jax.tree.map(edges.send if side == "sender" else edges.receive, value)
