"""Filling padded batches greedily from a stream of graphs, and counting what padding costs."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal

import equinox as eqx

from ._batch import batch
from ._budget import AbstractBudget
from ._graph import Graph


class PaddingReport(eqx.Module):
    """What padding cost so far: batches, graphs, slots, and the distinct shapes, each of which XLA compiles once."""

    num_batches: int = eqx.field(static=True, default=0)
    num_graphs: int = eqx.field(static=True, default=0)
    num_skipped: int = eqx.field(static=True, default=0)
    nodes: int = eqx.field(static=True, default=0)
    node_slots: int = eqx.field(static=True, default=0)
    edges: int = eqx.field(static=True, default=0)
    edge_slots: int = eqx.field(static=True, default=0)
    shapes: frozenset[tuple[int, int, int]] = eqx.field(static=True, default=frozenset())

    @property
    def num_compiles(self) -> int:
        """Distinct (num_nodes, num_edges, num_graphs): how often a jitted step is compiled."""
        return len(self.shapes)

    @property
    def node_waste(self) -> float:
        """Share of node slots that held padding."""
        return 1 - self.nodes / self.node_slots if self.node_slots else 0.0

    @property
    def edge_waste(self) -> float:
        """Share of edge slots that held padding."""
        return 1 - self.edges / self.edge_slots if self.edge_slots else 0.0

    @property
    def waste(self) -> float:
        """The larger of node and edge waste."""
        return max(self.node_waste, self.edge_waste)

    def count(self, padded: Graph, num_graphs: int, nodes: int, edges: int) -> "PaddingReport":
        """The report after one more batch with these real sizes."""
        return PaddingReport(
            self.num_batches + 1,
            self.num_graphs + num_graphs,
            self.num_skipped,
            self.nodes + nodes,
            self.node_slots + padded.num_nodes,
            self.edges + edges,
            self.edge_slots + padded.num_edges,
            self.shapes | {(padded.num_nodes, padded.num_edges, padded.num_graphs)},
        )

    def skip(self) -> "PaddingReport":
        """The report after one more graph that was too large."""
        return dataclasses.replace(self, num_skipped=self.num_skipped + 1)


class DynamicBatches(Iterator[Graph]):
    """An iterator over padded batches; `report` says what it has produced so far."""

    report: PaddingReport

    def __init__(
        self, graphs: Iterable[Graph], budget: AbstractBudget, oversize: Literal["error", "skip"], compressed: bool
    ):
        self.report = PaddingReport()
        self._batches = self._fill(graphs, budget, oversize, compressed)

    def __iter__(self) -> "DynamicBatches":
        return self

    def __next__(self) -> Graph:
        return next(self._batches)

    def _fill(
        self, graphs: Iterable[Graph], budget: AbstractBudget, oversize: str, compressed: bool
    ) -> Iterator[Graph]:
        largest = budget.largest
        index = -1
        waiting: list[Graph] = []
        nodes = edges = num_graphs = 0

        def emit() -> Graph:
            padded = batch(waiting, budget, compressed=compressed)
            self.report = self.report.count(padded, num_graphs, nodes, edges)
            return padded

        for index, graph in enumerate(graphs):
            size = (graph.num_nodes, graph.num_edges, graph.num_graphs)
            if not largest.fits(*size):
                if oversize == "error":
                    raise ValueError(
                        f"`graphs[{index}]` has num_nodes={size[0]}, num_edges={size[1]}, num_graphs={size[2]} and "
                        f"does not fit the budget {largest}, of which a node and a graph are kept for padding. Use a "
                        'larger budget, or oversize="skip" to leave such graphs out and count them.'
                    )
                self.report = self.report.skip()
                continue
            if waiting and not largest.fits(nodes + size[0], edges + size[1], num_graphs + size[2]):
                yield emit()
                waiting, nodes, edges, num_graphs = [], 0, 0, 0
            waiting.append(graph)
            nodes, edges, num_graphs = nodes + size[0], edges + size[1], num_graphs + size[2]
        if index < 0:
            raise ValueError("`graphs` is empty: there is nothing to batch.")
        if waiting:
            yield emit()


def dynamic_batch(
    graphs: Iterable[Graph],
    budget: AbstractBudget,
    *,
    oversize: Literal["error", "skip"] = "error",
    compressed: bool = False,
) -> DynamicBatches:
    """Padded batches filled greedily: graphs join, in order, until the next one does not fit the largest rung.

    **Arguments:**

    - `graphs`: any iterable, already shuffled; consumed lazily, once.
    - `budget`: a `PaddingBudget`, or a `PaddingLadder` of which every batch takes the smallest rung that holds it.
    - `oversize`: a graph larger than the largest rung raises, or is left out and counted in `report.num_skipped`.
    - `compressed`: give every batch an `EdgeIndex` instead of a plain edge array.

    **Returns:** an iterator of padded `Graph`s with NumPy leaves; its `report` counts shapes, waste and skipped graphs.

    **Raises:** (while iterating) `ValueError` for an empty `graphs`, or for a graph larger than the budget, naming its
    size, its index and the budget.
    """
    return DynamicBatches(graphs, budget, oversize, compressed)
