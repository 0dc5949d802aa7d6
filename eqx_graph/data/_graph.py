"""One graph, or a disjoint union of several, as one immutable pytree."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from ._edge_build import in_range, is_concrete
from ._edges import AbstractEdges, AnyArray


T = TypeVar("T")
if TYPE_CHECKING:
    # Which fields a graph has, and whether in NumPy or JAX, is known to whoever built it: static checkers do not make
    # readers prove it. At run time it is checked.
    FieldArray = Any
    Maybe = Annotated[T, "or None"]
else:
    FieldArray = AnyArray
    Maybe = Optional

Level = Literal["node", "edge", "graph"]

# Which axis a field follows when graphs are joined, split or padded; `y` follows `y_level`, extras their prefix.
LEVELS: dict[Level, tuple[str, ...]] = {
    "node": ("x", "pos", "batch", "node_mask"),
    "edge": ("edge_attr", "edge_weight", "edge_type", "edge_mask"),
    "graph": ("u", "graph_mask"),
}


class Graph(eqx.Module):
    r"""A directed graph with features, or a disjoint union of `num_graphs` graphs told apart by `batch`.

    Row 0 of `edge_index` holds the sender $j$ of each edge, row 1 its receiver $i$ (PyG's convention). Fields keep the
    kind of array they were given: datasets, batching and padding stay on the host in NumPy, and `jax.device_put(graph)`
    or any jitted function moves the whole pytree to a device. To change a field use `dataclasses.replace` or
    `eqx.tree_at`.

    Build one with `Graph.from_edge_index`, which converts and validates; the plain constructor checks shapes only.

    !!! note "Padding"
        `pad` adds one more graph at the end. Padding nodes belong to it and padding edges connect the last node to
        itself, so convolutions and pools of real graphs need no mask; whatever mixes graphs (losses, batch statistics)
        reads `node_mask`, `edge_mask` and `graph_mask`. A mask of None means that everything is real.
    """

    x: Maybe[Shaped[FieldArray, "num_nodes ..."]] = None
    edge_index: AbstractEdges | Int[FieldArray, "2 num_edges"] = eqx.field(
        default_factory=lambda: np.zeros((2, 0), np.int32)
    )
    edge_attr: Maybe[Shaped[FieldArray, "num_edges ..."]] = None
    edge_weight: Maybe[Float[FieldArray, " num_edges"]] = None
    edge_type: Maybe[Int[FieldArray, " num_edges"]] = None
    pos: Maybe[Float[FieldArray, "num_nodes space"]] = None
    y: Maybe[Shaped[FieldArray, "..."]] = None
    u: Maybe[Shaped[FieldArray, "num_graphs ..."]] = None
    batch: Maybe[Int[FieldArray, " num_nodes"]] = None
    node_mask: Maybe[Bool[FieldArray, " num_nodes"]] = None
    edge_mask: Maybe[Bool[FieldArray, " num_edges"]] = None
    graph_mask: Maybe[Bool[FieldArray, " num_graphs"]] = None
    extras: dict[str, FieldArray] = eqx.field(default_factory=dict)
    num_graphs: int = eqx.field(static=True, default=1)
    y_level: Level = eqx.field(static=True, default="graph")

    def __check_init__(self):
        if self.num_graphs < 1:
            raise ValueError(f"`num_graphs` must be at least 1; got {self.num_graphs}.")
        if self.num_graphs > 1 and self.batch is None:
            raise ValueError(f"`batch` (graph of each node) is needed when num_graphs={self.num_graphs}; got None.")
        counts = {"node": self.num_nodes, "edge": self.num_edges, "graph": self.num_graphs}
        for level in ("edge", "graph"):
            for name in LEVELS[level]:
                if (value := getattr(self, name)) is not None:
                    _check_leading(name, value, level, counts)
        _check_leading("y", self.y, self.y_level, counts)
        for name, value in self.extras.items():
            _check_leading(f"extras[{name!r}]", value, extra_level(name), counts)

    @property
    def num_nodes(self) -> int:
        """Number of nodes, padding included; read from the first node array."""
        for value in (self.x, self.pos, self.batch, self.node_mask):
            if value is not None:
                return value.shape[0]
        for name, value in self.extras.items():
            if extra_level(name) == "node":
                return value.shape[0]
        if isinstance(self.edge_index, AbstractEdges):
            return self.edge_index.num_receivers
        raise ValueError("`Graph` needs one node array (x, pos, batch or a node_* extra) to know its number of nodes.")

    @property
    def num_edges(self) -> int:
        """Number of directed edges, padding included."""
        return self.edge_index.num_edges if isinstance(self.edge_index, AbstractEdges) else self.edge_index.shape[1]

    @staticmethod
    def from_edge_index(
        edge_index: Any,
        x: Any = None,
        edge_attr: Any = None,
        *,
        edge_weight: Any = None,
        edge_type: Any = None,
        pos: Any = None,
        y: Any = None,
        u: Any = None,
        batch: Any = None,
        extras: Mapping[str, Any] | None = None,
        num_nodes: int | None = None,
        num_graphs: int | None = None,
        y_level: Level | None = None,
    ) -> "Graph":
        """A validated graph from arrays, nested lists or an edge layout.

        **Arguments:**

        - `edge_index`: integers of shape `(2, num_edges)` (senders, receivers), or an `EdgeIndex`.
        - `x`, `pos`: node features `(num_nodes, ...)`, node positions `(num_nodes, space)`.
        - `edge_attr`, `edge_weight`, `edge_type`: per edge, in the order of `edge_index`; features of any trailing
            shape, one float, one integer.
        - `y`: targets per graph, node or edge; a number is the target of a single graph. See `y_level`.
        - `u`: features per graph, `(num_graphs, ...)`.
        - `batch`: graph of each node, integers `(num_nodes,)`; None for one graph.
        - `extras`: further arrays; the prefix `node_`, `edge_` or `graph_` of a name says which axis it follows.
        - `num_nodes`: needed only when no node array is given.
        - `num_graphs`: default `max(batch) + 1`; needed when `batch` is traced.
        - `y_level`: "node", "edge" or "graph"; default: the first of graph, node, edge whose count is `len(y)`.

        **Returns:** a `Graph`; integer arrays become int32, everything else keeps its dtype, NumPy stays NumPy.

        **Raises:** `TypeError` for a wrong dtype, `ValueError` for a wrong shape, an id out of range or sizes that do
        not agree; ids of traced arrays are checked at run time.
        """
        edges = edge_index if isinstance(edge_index, AbstractEdges) else _integers("edge_index", edge_index)
        if not isinstance(edges, AbstractEdges) and (edges.ndim != 2 or edges.shape[0] != 2):
            hint = " Transpose it." if edges.ndim == 2 and edges.shape[1] == 2 else ""
            raise ValueError(f"`edge_index` must have shape (2, num_edges); got {edges.shape}.{hint}")
        x, edge_attr, y, u = (_array(*named) for named in (("x", x), ("edge_attr", edge_attr), ("y", y), ("u", u)))
        pos, edge_weight = _floats("pos", pos), _floats("edge_weight", edge_weight)
        edge_type = None if edge_type is None else _integers("edge_type", edge_type)
        batch = None if batch is None else _integers("batch", batch)
        values = {name: _array(f"extras[{name!r}]", value) for name, value in (extras or {}).items()}

        node_arrays = {"x": x, "pos": pos, "batch": batch}
        node_arrays |= {name: value for name, value in values.items() if extra_level(name) == "node"}
        num_nodes = _count_nodes(node_arrays, edges, num_nodes)
        edges = edges if isinstance(edges, AbstractEdges) else in_range("edge_index", edges, num_nodes, "num_nodes")
        num_graphs = _count_graphs(batch, num_graphs)
        if batch is not None:
            batch = in_range("batch", batch, num_graphs, "num_graphs")
        has_node_array = any(value is not None for name, value in node_arrays.items() if name != "batch")
        if num_graphs == 1:
            batch = None if has_node_array else np.zeros(num_nodes, np.int32)
        num_edges = edges.num_edges if isinstance(edges, AbstractEdges) else edges.shape[1]
        for name, value in {"edge_attr": edge_attr, "edge_weight": edge_weight, "edge_type": edge_type}.items():
            _check_leading(name, value, "edge", {"edge": num_edges})
        if y is not None:
            y = y[None] if y.ndim == 0 else y
            y_level = y_level or _level_of_y(y.shape[0], {"graph": num_graphs, "node": num_nodes, "edge": num_edges})
        return Graph(
            x=x, edge_index=edges, edge_attr=edge_attr, edge_weight=edge_weight, edge_type=edge_type, pos=pos, y=y,
            u=u, batch=batch, extras=values, num_graphs=num_graphs, y_level=y_level or "graph",
        )  # fmt: skip


def extra_level(name: str) -> Level:
    """The axis an extra follows, from the prefix of its name."""
    for level in LEVELS:
        if name.startswith(f"{level}_"):
            return level
    raise ValueError(f"`extras` names must start with node_, edge_ or graph_; got {name!r}.")


def _check_leading(name: str, value: Any, level: Level, counts: Mapping[Any, int]) -> None:
    if value is not None and (value.ndim == 0 or value.shape[0] != counts[level]):
        remedy = ' Say `y_level="node"`, "edge" or "graph"; `Graph.from_edge_index` tells by itself.' * (name == "y")
        raise ValueError(
            f"`{name}` is per {level} and must have leading size {counts[level]}; got shape {tuple(value.shape)}."
            + remedy
        )


def _array(name: str, value: Any) -> Any:
    """JAX arrays as they are, everything else as NumPy (Python floats as float32: JAX's default)."""
    if value is None or isinstance(value, jax.Array):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "OSUMm":
        raise TypeError(
            f"`{name}` must hold numbers; got dtype {array.dtype}. Convert it, e.g. with .astype(np.float32)."
        )
    is_given = isinstance(value, np.ndarray | np.generic)
    return array.astype(np.float32) if array.dtype == np.float64 and not is_given else array


def _floats(name: str, value: Any) -> Any:
    array = _array(name, value)
    if array is not None and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"`{name}` must hold floats; got dtype {array.dtype}. Convert it, as by .astype(np.float32).")
    return array


def _integers(name: str, value: Any) -> Any:
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`{name}` must hold integers; got dtype {array.dtype}. Convert it, e.g. with .astype(int).")
    if isinstance(array, np.ndarray) and array.size and array.dtype.itemsize > 4:
        for extreme in (array.min(), array.max()):
            if not -(2**31) <= extreme < 2**31:
                raise ValueError(f"`{name}` must fit in 32 bits; got {extreme}.")
    return array.astype(np.int32)


def _count_nodes(node_arrays: Mapping[str, Any], edges: Any, num_nodes: int | None) -> int:
    counts = {name: value.shape[0] if value.ndim else None for name, value in node_arrays.items() if value is not None}
    if isinstance(edges, AbstractEdges):
        counts |= {"edge_index.num_senders": edges.num_senders, "edge_index.num_receivers": edges.num_receivers}
    if num_nodes is not None:
        counts["num_nodes"] = num_nodes
    if not counts:
        raise ValueError("`num_nodes` is needed when no node array (x, pos, batch or a node_* extra) is given.")
    if len(set(counts.values())) != 1 or None in counts.values():
        raise ValueError(f"Node arrays must have one leading size, the number of nodes; got {counts}.")
    return next(iter(counts.values()))  # pyright: ignore[reportReturnType]


def _count_graphs(batch: Any, num_graphs: int | None) -> int:
    if num_graphs is None and not is_concrete(batch):
        raise ValueError("`num_graphs` must be given when `batch` is traced (it sets shapes).")
    if num_graphs is None:
        return 1 if batch is None or batch.size == 0 else int(batch.max()) + 1
    return num_graphs


def _level_of_y(size: int, counts: Mapping[Level, int]) -> Level:
    for level, count in counts.items():
        if size == count:
            return level
    raise ValueError(f"`y` must have one entry per graph, node or edge ({dict(counts)}); got leading size {size}.")


def sizes(graphs: Sequence[Graph]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of nodes and of edges of each graph."""
    return np.array([g.num_nodes for g in graphs], np.int64), np.array([g.num_edges for g in graphs], np.int64)
