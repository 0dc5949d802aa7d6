"""Graphs that ship with the package, and the reader of the format they come in."""

import pathlib

import numpy as np
import pytest

from eqx_graph.datasets import mutag, read_tu_dataset


def test_mutag() -> None:
    """The published sizes: 188 graphs, 3,371 nodes, 7,442 directed edges, 125 mutagenic."""
    graphs = mutag()
    assert len(graphs) == 188
    assert sum(g.num_nodes for g in graphs) == 3371
    assert sum(g.num_edges for g in graphs) == 7442
    y, x = np.concatenate([np.asarray(g.y) for g in graphs]), np.concatenate([np.asarray(g.x) for g in graphs])
    bonds = np.concatenate([np.asarray(g.edge_attr) for g in graphs])
    assert (y == 1).sum() == 125 and (y == 0).sum() == 63 and all(g.y_level == "graph" for g in graphs)
    np.testing.assert_array_equal(x.sum(0), [2395, 345, 593, 12, 1, 23, 2])
    assert (x.sum(1) == 1).all() and (bonds.sum(1) == 1).all() and bonds.shape == (7442, 4)
    for g in graphs:  # every bond is there in both directions
        pairs = set(map(tuple, np.asarray(g.edge_index).T.tolist()))
        assert pairs == {(j, i) for i, j in pairs} and len(pairs) == g.num_edges


def write(folder: pathlib.Path, **parts: str) -> pathlib.Path:
    for name, text in parts.items():
        (folder / f"TOY_{name}.txt").write_text(text)
    return folder


def test_tu_reader_reads_every_optional_file(tmp_path: pathlib.Path) -> None:
    """Three graphs: two joined nodes, one isolated node, a triangle whose edges are not listed together."""
    graphs = read_tu_dataset(
        write(
            tmp_path,
            A="1, 2\n4, 5\n2, 1\n5, 6\n6, 4\n",
            graph_indicator="1\n1\n2\n3\n3\n3\n",
            graph_labels="7\n-1\n7\n",
            node_labels="0\n2\n2\n0\n0\n2\n",
            node_attributes="0.5, 1\n1, 2\n3, 4\n5, 6\n7, 8\n9, 10\n",
            edge_labels="1\n1\n0\n0\n1\n",
            edge_attributes="1\n2\n3\n4\n5\n",
        )
    )
    assert [g.num_nodes for g in graphs] == [2, 1, 3] and [g.num_edges for g in graphs] == [2, 0, 3]
    np.testing.assert_array_equal(graphs[2].edge_index, [[0, 1, 2], [1, 2, 0]])
    np.testing.assert_array_equal(graphs[0].x, [[1, 0, 0.5, 1], [0, 1, 1, 2]])
    np.testing.assert_array_equal(graphs[2].edge_attr, [[0, 1, 2], [1, 0, 4], [0, 1, 5]])
    assert [int(np.asarray(g.y)[0]) for g in graphs] == [1, 0, 1]


def test_tu_reader_needs_only_edges_and_indicator(tmp_path: pathlib.Path) -> None:
    write(tmp_path, A="1, 2\n", graph_indicator="1\n1\n", graph_attributes="0.25\n")
    (graph,) = read_tu_dataset(tmp_path)
    assert graph.x is None and graph.num_nodes == 2 and graph.edge_attr is None
    np.testing.assert_array_equal(graph.y, [[0.25]])


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({}, FileNotFoundError, r"exactly one file \*_A.txt; got 0"),
        ({"A": "1, 2\n"}, FileNotFoundError, "TOY_graph_indicator.txt` is missing"),
        ({"A": "1, 2\n", "graph_indicator": "1\n1\n", "node_labels": "1\n"}, ValueError, "must have 2 lines; got 1"),
        ({"A": "1, 3\n", "graph_indicator": "1\n1\n"}, ValueError, "node ids from 1 to 2"),
        ({"A": "1, 2\n", "graph_indicator": "1\n2\n"}, ValueError, "connects two graphs"),
        ({"A": "1, 2\n", "graph_indicator": "2\n1\n"}, ValueError, "graph by graph"),
    ],
)
def test_tu_reader_names_what_is_wrong(
    tmp_path: pathlib.Path, parts: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_tu_dataset(write(tmp_path, **parts))
