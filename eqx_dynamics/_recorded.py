"""Watching a cell's state."""

from typing import Any

from jaxtyping import PRNGKeyArray

from ._cell import AbstractCell


class Recorded(AbstractCell[Any]):
    """The same cell, whose output is `(out, state)` with the state after the step: `scan` then stacks every state.

    `(ys, states), last = scan(Recorded(network), xs, state)` gives membranes and spikes of every layer over time. It
    steps the network as a whole, so use it to look, not to train.
    """

    cell: AbstractCell

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> Any:
        """The state of the cell itself."""
        return self.cell.init_state(shape, key=key)

    def __call__(self, x: Any, state: Any, *, key: PRNGKeyArray | None = None) -> tuple[tuple[Any, Any], Any]:
        """One step of the cell; its new state is put out beside its output."""
        out, state = self.cell(x, state, key=key)
        return (out, state), state
