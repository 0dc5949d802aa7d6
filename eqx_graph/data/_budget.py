"""How large padded batches are: one budget, or a short ladder of them."""

import abc
import math
from collections.abc import Sequence

import equinox as eqx
import numpy as np

from ._graph import Graph, sizes


class AbstractBudget(eqx.Module):
    """The shapes that padded batches may have: as many programs as shapes are compiled."""

    @property
    @abc.abstractmethod
    def rungs(self) -> tuple["PaddingBudget", ...]:
        """The shapes, smallest first."""

    @property
    def largest(self) -> "PaddingBudget":
        """The last rung: what `dynamic_batch` fills."""
        return self.rungs[-1]

    def choose(self, num_nodes: int, num_edges: int, num_graphs: int) -> "PaddingBudget":
        """The smallest rung that holds these real sizes.

        **Raises:** `ValueError` naming the sizes and the largest rung if none does.
        """
        for rung in self.rungs:
            if rung.fits(num_nodes, num_edges, num_graphs):
                return rung
        raise ValueError(
            f"num_nodes={num_nodes}, num_edges={num_edges}, num_graphs={num_graphs} do not fit the budget "
            f"{self.largest}, of which one node and one graph are kept for padding. Let `dynamic_batch` or "
            "`graph_loader` fill it with as many graphs as fit, or use a larger budget or fewer graphs."
        )


class PaddingBudget(AbstractBudget):
    """One padded shape. One node and one graph of it belong to the padding, whatever the batch."""

    num_nodes: int = eqx.field(static=True)
    num_edges: int = eqx.field(static=True)
    num_graphs: int = eqx.field(static=True)

    def __check_init__(self):
        if self.num_nodes < 1 or self.num_edges < 0 or self.num_graphs < 2:
            raise ValueError(
                "`PaddingBudget` needs num_nodes >= 1, num_edges >= 0 and num_graphs >= 2 (a real and the padding "
                f"graph); got {self.num_nodes}, {self.num_edges}, {self.num_graphs}."
            )

    @property
    def rungs(self) -> tuple["PaddingBudget", ...]:
        return (self,)

    def fits(self, num_nodes: int, num_edges: int, num_graphs: int) -> bool:
        """Whether these real sizes leave room for the padding graph and its node."""
        return num_nodes < self.num_nodes and num_edges <= self.num_edges and num_graphs < self.num_graphs

    @staticmethod
    def fit(
        graphs: Sequence[Graph], batch_size: int, *, max_waste: float | int = 0.2, multiple: int = 8, seed: int = 0
    ) -> "PaddingBudget":
        """The budget that wastes least when filled greedily with `graphs` in shuffled order.

        **Arguments:**

        - `graphs`: the dataset, or a sample of it.
        - `batch_size`: mean number of graphs in a batch as `dynamic_batch` and `graph_loader` fill it; any given
            `batch_size` graphs may be too many. The budget is grown if one graph alone is larger than that.
        - `max_waste`: largest tolerated share of padding among node slots and among edge slots, over an epoch.
        - `multiple`: sizes are rounded up to a multiple of this.
        - `seed`: order of the simulated epoch.

        **Raises:** `ValueError` for an empty dataset, or if the waste bound cannot be kept.
        """
        return _fit(graphs, batch_size, (1.0,), max_waste, multiple, seed).largest


class PaddingLadder(AbstractBudget):
    """A few budgets; each batch takes the smallest that holds it."""

    steps: tuple[PaddingBudget, ...] = eqx.field(static=True)

    def __check_init__(self):
        def shape(b: PaddingBudget) -> tuple[int, int, int]:
            return b.num_nodes, b.num_edges, b.num_graphs

        if not self.steps:
            raise ValueError("`steps` must hold at least one PaddingBudget; got none.")
        for small, large in zip(self.steps, self.steps[1:], strict=False):
            if small == large or any(a > b for a, b in zip(shape(small), shape(large), strict=True)):
                raise ValueError(f"`steps` must grow in every size; got {small} before {large}.")

    @property
    def rungs(self) -> tuple[PaddingBudget, ...]:
        return self.steps

    @staticmethod
    def fit(
        graphs: Sequence[Graph],
        batch_size: int,
        *,
        num_rungs: int = 3,
        ratio: float | int = 2.0,
        max_waste: float | int = 0.2,
        multiple: int = 8,
        seed: int = 0,
    ) -> "PaddingLadder":
        """Budgets whose largest is filled greedily, each `ratio` times the one below (for what is left at the end).

        **Arguments:** as `PaddingBudget.fit`, and `num_rungs`, the number of budgets and so of compilations.

        **Raises:** `ValueError` for an empty dataset, `num_rungs < 1`, `ratio <= 1`, or if the waste bound cannot be
        kept.
        """
        if num_rungs < 1 or ratio <= 1:
            raise ValueError(f"`num_rungs` must be at least 1 and `ratio` above 1; got {num_rungs} and {ratio}.")
        fractions = tuple(ratio ** -(num_rungs - 1 - i) for i in range(num_rungs))
        return _fit(graphs, batch_size, fractions, max_waste, multiple, seed)


def _fit(
    graphs: Sequence[Graph],
    batch_size: int,
    fractions: tuple[float | int, ...],
    max_waste: float | int,
    multiple: int,
    seed: int,
) -> PaddingLadder:
    """Simulate one shuffled epoch for several edge-to-node ratios; keep the ladder that wastes least."""
    if len(graphs) == 0:
        raise ValueError("`graphs` is empty: a padding budget needs at least one graph to fit to.")
    if batch_size < 1 or multiple < 1:
        raise ValueError(f"`batch_size` and `multiple` must be at least 1; got {batch_size} and {multiple}.")
    nodes, edges = sizes(graphs)
    largest, mean = (float(nodes.max()), float(edges.max())), (float(nodes.mean()), float(edges.mean()))
    order = np.random.default_rng(seed).permutation(len(graphs))[:10_000]
    shuffled = list(zip(nodes[order].tolist(), edges[order].tolist(), strict=True))
    best, best_waste = None, math.inf
    for edge_slack in (1.0, 1.03, 1.06, 1.1, 1.15, 1.2, 1.3):
        top = (
            _round_up(max(batch_size * mean[0], largest[0]) + 1, multiple),
            _round_up(max(batch_size * mean[1] * edge_slack, largest[1]), multiple),
            _round_up(2 * max(batch_size, largest[0] / max(mean[0], 1)) + 1, multiple),
        )
        shapes = [[_round_up(size * f, multiple) for size in top] for f in fractions]
        steps = [PaddingBudget(n, e, max(g, 2)) for n, e, g in shapes]
        ladder = PaddingLadder(tuple(b for i, b in enumerate(steps) if i == 0 or b != steps[i - 1]))
        waste = _simulated_waste(shuffled, ladder)
        if waste < best_waste:
            best, best_waste = ladder, waste
    if best is None or best_waste > max_waste:
        raise ValueError(
            f"`max_waste`={max_waste} cannot be kept with batch_size={batch_size}: the best budget wastes "
            f"{best_waste:.2f}. Raise `batch_size`, `max_waste` or the number of rungs."
        )
    return best


def _simulated_waste(shuffled: list[tuple[int, int]], ladder: PaddingLadder) -> float:
    """Larger of node and edge waste over one greedy epoch."""
    slots = np.zeros(2)
    filled = [0, 0, 0]
    for n, e in shuffled:
        if not ladder.largest.fits(filled[0] + n, filled[1] + e, filled[2] + 1):
            rung = ladder.choose(*filled)
            slots += rung.num_nodes, rung.num_edges
            filled = [0, 0, 0]
        filled = [filled[0] + n, filled[1] + e, filled[2] + 1]
    rung = ladder.choose(*filled)
    slots += rung.num_nodes, rung.num_edges
    real = np.array(shuffled).sum(axis=0)
    return float(np.max(1 - real / np.maximum(slots, 1), where=slots > 0, initial=0.0))


def _round_up(size: float | int, multiple: int) -> int:
    return math.ceil(size / multiple) * multiple
