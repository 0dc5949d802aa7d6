"""Graph collections on disk, in the text format of the TU Dortmund benchmark sets."""

import os
import pathlib

import numpy as np

from ..data import Graph


def read_tu_dataset(path: str | os.PathLike[str]) -> list[Graph]:
    """The graphs of a folder of TU-format text files (`NAME_A.txt`, `NAME_graph_indicator.txt`, ...).

    Node labels become one-hot columns of `x`, followed by the node attributes; edge labels one-hot columns of
    `edge_attr`, followed by the edge attributes (label values in ascending order). Graph labels become class ids
    $0, 1, \\dots$ in ascending order of the label; graph attributes, where there are no labels, float targets.

    **Arguments:**

    - `path`: the folder; its name, or the one file ending in `_A.txt` in it, gives `NAME`.

    **Returns:** one `Graph` per graph, with NumPy leaves: float32 features, `y` of shape `(1,)` int32 or
    `(1, targets)` float32. A graph without edges or with isolated nodes is kept as it is.

    **Raises:** `FileNotFoundError` for a missing folder or file, `ValueError` for files whose lengths disagree.

    ??? cite "Reference"
        Morris, Kriege, Bause, Kersting, Mutzel, Neumann, TUDataset, ICML 2020 workshop GRL+.
    """
    folder = pathlib.Path(path)
    adjacency = sorted(folder.glob("*_A.txt"))
    if len(adjacency) != 1:
        raise FileNotFoundError(f"`path` must hold exactly one file *_A.txt; got {len(adjacency)} in {folder.name!r}.")
    name = adjacency[0].name.removesuffix("_A.txt")

    def read(part: str, dtype: type, rows: int | None) -> np.ndarray | None:
        file = folder / f"{name}_{part}.txt"
        if not file.exists():
            return None
        table = np.loadtxt(file, dtype=dtype, delimiter=",", ndmin=2)
        if rows is not None and len(table) != rows:
            raise ValueError(f"`{file.name}` must have {rows} lines; got {len(table)}.")
        return table

    edge_index = np.loadtxt(adjacency[0], dtype=np.int64, delimiter=",", ndmin=2).T.reshape(2, -1) - 1
    indicator = read("graph_indicator", np.int64, None)
    if indicator is None:
        raise FileNotFoundError(f"`{name}_graph_indicator.txt` is missing in {folder.name!r}.")
    num_nodes, num_edges = len(indicator), edge_index.shape[1]
    graph_of_node = indicator[:, 0] - 1
    num_graphs = int(graph_of_node.max()) + 1
    x = _features(read("node_labels", np.int64, num_nodes), read("node_attributes", np.float32, num_nodes))
    edge_attr = _features(read("edge_labels", np.int64, num_edges), read("edge_attributes", np.float32, num_edges))
    labels = read("graph_labels", np.int64, num_graphs)
    if labels is not None:
        y = np.unique(labels[:, 0], return_inverse=True)[1].astype(np.int32)
    else:
        y = read("graph_attributes", np.float32, num_graphs)
    if np.any(np.diff(graph_of_node) < 0):
        raise ValueError(f"`{name}_graph_indicator.txt` must list the nodes graph by graph.")
    if num_edges and (edge_index.min() < 0 or edge_index.max() >= num_nodes):
        raise ValueError(f"`{adjacency[0].name}` must hold node ids from 1 to {num_nodes}.")
    return _split(edge_index, graph_of_node, num_graphs, x, edge_attr, y)


def _features(labels: np.ndarray | None, attributes: np.ndarray | None) -> np.ndarray | None:
    """One-hot labels (each column of labels on its own) beside real attributes."""
    parts = []
    if labels is not None:
        parts += [(column[:, None] == np.unique(column)).astype(np.float32) for column in labels.T]
    if attributes is not None:
        parts.append(attributes)
    return np.concatenate(parts, axis=1) if parts else None


def _split(
    edge_index: np.ndarray,
    graph_of_node: np.ndarray,
    num_graphs: int,
    x: np.ndarray | None,
    edge_attr: np.ndarray | None,
    y: np.ndarray | None,
) -> list[Graph]:
    node_ptr = np.searchsorted(graph_of_node, np.arange(num_graphs + 1))
    graph_of_edge = graph_of_node[edge_index[0]]
    if np.any(graph_of_edge != graph_of_node[edge_index[1]]):
        raise ValueError("An edge connects two graphs; the adjacency file and the graph indicator do not agree.")
    edge_order = np.argsort(graph_of_edge, kind="stable")
    edge_ptr = np.searchsorted(graph_of_edge[edge_order], np.arange(num_graphs + 1))
    graphs = []
    for k in range(num_graphs):
        nodes, edges = slice(node_ptr[k], node_ptr[k + 1]), edge_order[edge_ptr[k] : edge_ptr[k + 1]]
        graphs.append(
            Graph.from_edge_index(
                edge_index[:, edges] - node_ptr[k],
                x=None if x is None else x[nodes],
                edge_attr=None if edge_attr is None else edge_attr[edges],
                y=None if y is None else y[k : k + 1],
                num_nodes=int(node_ptr[k + 1] - node_ptr[k]),
                y_level=None if y is None else "graph",
            )
        )
    return graphs
