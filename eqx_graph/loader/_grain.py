"""A Grain pipeline over graphs: shuffle, repeat, fill padded batches; its position can be saved and restored."""

from collections.abc import Sequence
from typing import Any

from ..data import AbstractBudget, Graph, batch


try:
    import grain
except ImportError as error:
    raise ImportError(
        "`eqx_graph.loader` needs Grain: install the extra, `pip install 'eqx-graph-dynamics[data]'`."
    ) from error


class _Source:
    """Graphs by index; the text of its repr is what checkpoints are compared by."""

    def __init__(self, graphs: Sequence[Graph]):
        self._graphs = graphs

    def __len__(self) -> int:
        return len(self._graphs)

    def __getitem__(self, index: int) -> Graph:
        return self._graphs[index]

    def __repr__(self) -> str:
        return f"graphs(num_graphs={len(self)})"


class _PaddedBatches(grain.IterDataset):
    """Greedy filling up to the largest rung of a budget, as `eqx_graph.data.dynamic_batch` does it."""

    def __init__(self, parent: Any, budget: AbstractBudget, compressed: bool):
        super().__init__(parent)
        self._options = (budget, compressed)

    def __iter__(self) -> "_PaddedIterator":
        return _PaddedIterator(self._parent.__iter__(), *self._options)


class _PaddedIterator(grain.DatasetIterator):
    def __init__(self, parent: Any, budget: AbstractBudget, compressed: bool):
        super().__init__(parent)
        self._budget, self._compressed = budget, compressed
        # The graph that did not fit the last batch, with the state of the stream before it was read.
        self._pending: tuple[Any, Graph] | None = None

    def __next__(self) -> Graph:
        largest = self._budget.largest
        waiting: list[Graph] = []
        nodes = edges = num_graphs = 0
        while True:
            if self._pending is None:
                before = self._parent.get_state()
                try:
                    self._pending = before, next(self._parent)
                except StopIteration:
                    if waiting:
                        return batch(waiting, self._budget, compressed=self._compressed)
                    raise
            graph = self._pending[1]
            size = (graph.num_nodes, graph.num_edges, graph.num_graphs)
            if not largest.fits(*size):
                raise ValueError(
                    f"A graph with num_nodes={size[0]}, num_edges={size[1]}, num_graphs={size[2]} does not fit the "
                    f"budget {largest}, of which a node and a graph are kept for padding. Use a larger budget, or "
                    "leave such graphs out of `graphs`."
                )
            if waiting and not largest.fits(nodes + size[0], edges + size[1], num_graphs + size[2]):
                return batch(waiting, self._budget, compressed=self._compressed)
            waiting.append(graph)
            nodes, edges, num_graphs = nodes + size[0], edges + size[1], num_graphs + size[2]
            self._pending = None

    def get_state(self) -> dict[str, Any]:
        return {"parent": self._parent.get_state() if self._pending is None else self._pending[0]}

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state["parent"])
        self._pending = None


def graph_loader(
    graphs: Sequence[Graph],
    budget: AbstractBudget,
    *,
    seed: int,
    num_epochs: int | None = None,
    shuffle: bool = True,
    compressed: bool = False,
    num_workers: int = 0,
) -> grain.IterDataset:
    """An endless (or `num_epochs` long) stream of padded batches whose position can be saved.

    A new order is drawn in every epoch, from `seed`. `iter(loader)` gives a Grain iterator: `get_state` and `set_state`
    continue the identical stream, `grain.checkpoint.CheckpointSave` saves it beside a model.

    **Arguments:**

    - `graphs`: a sequence of graphs with NumPy leaves: a list, or any object with `__len__` and `__getitem__`.
    - `budget`: a `PaddingBudget` or `PaddingLadder`. Batches are filled across the ends of epochs.
    - `seed`: of the shuffles.
    - `num_epochs`: passes over the data; None never ends.
    - `shuffle`: False keeps the order of `graphs`.
    - `compressed`: give every batch an `EdgeIndex`.
    - `num_workers`: processes that read and batch; 0 does it here. Each worker takes every `num_workers`-th graph, so
        that the batches (not the graphs) depend on the number of workers. A script with workers needs
        `if __name__ == "__main__":`; close the iterator when you are done.

    **Returns:** a `grain.IterDataset` of `Graph`s.

    **Raises:** `ValueError` for an empty dataset, or (while iterating) for a graph larger than the budget.
    """
    if len(graphs) == 0:
        raise ValueError("`graphs` is empty: a loader needs at least one graph.")
    stream = grain.MapDataset.source(_Source(graphs)).seed(seed)
    stream = (stream.shuffle() if shuffle else stream).repeat(num_epochs)
    padded = _PaddedBatches(stream.to_iter_dataset(), budget, compressed)
    if num_workers == 0:
        return padded
    _mark_flags_parsed()
    return padded.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))


def _mark_flags_parsed() -> None:
    """Grain's workers read absl flags, which only `absl.app.run` parses; elsewhere the defaults are meant."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
