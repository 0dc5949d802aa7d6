"""Joining 64 graphs of MUTAG's size into one batch, and padding it: milliseconds per shuffled batch.

    python benchmarks/collate.py [--graphs 64] [--repeats 200] --peer {ours,ours-compressed,numpy,pyg,jraphx,jraph}

prints one line of JSON: median and minimum over shuffled batches, and the first batch. `ours` pads to a fixed budget;
`ours-compressed` also sorts the edges into an `EdgeIndex`; `numpy` is the bare work (concatenate, shift, fill padding)
without checks; `jraph` joins and pads; `pyg` and `jraphx` only join, they have no padding. Peers: extra `bench`.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np


NODES, EDGES = 1600, 3584  # room for 64 graphs of at most 25 nodes and 56 edges


def make_graphs(num: int, rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    """Sizes like MUTAG's: 10 to 25 nodes, about 2.2 directed edges a node, 7 node and 4 edge features."""
    graphs = []
    for _ in range(num):
        n = int(rng.integers(10, 26))
        e = int(2.2 * n)
        graphs.append(
            {
                "x": rng.normal(size=(n, 7)).astype(np.float32),
                "edge_index": rng.integers(0, n, (2, e)).astype(np.int32),
                "edge_attr": rng.normal(size=(e, 4)).astype(np.float32),
                "y": rng.integers(0, 2, 1).astype(np.int32),
            }
        )
    return graphs


def ours(graphs: list[dict[str, np.ndarray]], compressed: bool) -> tuple[list[Any], Callable]:
    from eqx_graph import Graph, batch
    from eqx_graph.data import PaddingBudget

    items = [Graph.from_edge_index(g["edge_index"], g["x"], g["edge_attr"], y=g["y"]) for g in graphs]
    return items, lambda chosen: batch(chosen, PaddingBudget(NODES, EDGES, len(chosen) + 1), compressed=compressed)


def bare_numpy(graphs: list[dict[str, np.ndarray]]) -> tuple[list[Any], Callable]:
    def collate(chosen: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        num_nodes = [len(g["x"]) for g in chosen]
        num_edges = [g["edge_index"].shape[1] for g in chosen]
        n, e = sum(num_nodes), sum(num_edges)
        out = {
            "x": np.zeros((NODES, 7), np.float32),
            "edge_index": np.full((2, EDGES), NODES - 1, np.int32),
            "edge_attr": np.zeros((EDGES, 4), np.float32),
            "y": np.zeros(len(chosen) + 1, np.int32),
            "batch": np.full(NODES, len(chosen), np.int32),
            "node_mask": np.arange(NODES) < n,
            "edge_mask": np.arange(EDGES) < e,
        }
        np.concatenate([g["x"] for g in chosen], out=out["x"][:n])
        np.concatenate([g["edge_index"] for g in chosen], axis=1, out=out["edge_index"][:, :e])
        out["edge_index"][:, :e] += np.repeat(np.cumsum([0, *num_nodes[:-1]], dtype=np.int32), num_edges)
        np.concatenate([g["edge_attr"] for g in chosen], out=out["edge_attr"][:e])
        np.concatenate([g["y"] for g in chosen], out=out["y"][:-1])
        out["batch"][:n] = np.repeat(np.arange(len(chosen)), num_nodes)
        return out

    return graphs, collate


def pyg(graphs: list[dict[str, np.ndarray]]) -> tuple[list[Any], Callable]:
    import torch
    from torch_geometric.data import Batch, Data

    items = [
        Data(**{k: torch.as_tensor(v.astype(np.int64) if v.dtype == np.int32 else v) for k, v in g.items()})
        for g in graphs
    ]
    return items, Batch.from_data_list


def jraphx(graphs: list[dict[str, np.ndarray]]) -> tuple[list[Any], Callable]:
    import jax
    import jax.numpy as jnp
    from jraphx.data import Batch, Data

    items = [Data(**{k: jnp.asarray(v) for k, v in g.items()}) for g in graphs]
    return items, lambda chosen: jax.block_until_ready(Batch.from_data_list(chosen))


def jraph(graphs: list[dict[str, np.ndarray]]) -> tuple[list[Any], Callable]:
    import jraph

    items = [
        jraph.GraphsTuple(
            nodes=g["x"], edges=g["edge_attr"], senders=g["edge_index"][0], receivers=g["edge_index"][1],
            globals=g["y"][None], n_node=np.array([len(g["x"])]), n_edge=np.array([g["edge_index"].shape[1]]),
        )
        for g in graphs
    ]  # fmt: skip
    return items, lambda chosen: jraph.pad_with_graphs(jraph.batch_np(chosen), NODES, EDGES, len(chosen) + 1)


PEERS: dict[str, Callable[[list[dict[str, np.ndarray]]], tuple[list[Any], Callable]]] = {
    "ours": lambda graphs: ours(graphs, compressed=False),
    "ours-compressed": lambda graphs: ours(graphs, compressed=True),
    "numpy": bare_numpy,
    "pyg": pyg,
    "jraphx": jraphx,
    "jraph": jraph,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, default="ours")
    parser.add_argument("--graphs", type=int, default=64, help="graphs in a batch")
    parser.add_argument("--repeats", type=int, default=200, help="shuffled batches")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    items, collate = PEERS[arguments.peer](make_graphs(4 * arguments.graphs, rng))
    times = []
    for _ in range(arguments.repeats + 1):
        chosen = [items[i] for i in rng.permutation(len(items))[: arguments.graphs]]
        start = time.perf_counter()
        collate(chosen)
        times.append(1e3 * (time.perf_counter() - start))
    result = {
        "benchmark": "collate",
        "peer": arguments.peer,
        "graphs": arguments.graphs,
        "median_ms": round(float(np.median(times[1:])), 3),
        "min_ms": round(min(times[1:]), 3),
        "first_ms": round(times[0], 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
