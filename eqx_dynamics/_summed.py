"""Adding up what a cell puts out."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

from ._cell import AbstractCell
from ._chunks import AbstractMembraneCell
from ._layers import keep_membranes, scan_layer
from ._scan import AbstractScannable


class SummedState(eqx.Module):
    """State of `Summed`."""

    cell: Any
    total: Any  # As the cell's outputs; the number 0 before the first step.


class Summed(AbstractMembraneCell[SummedState], AbstractScannable[SummedState]):
    r"""The same cell, which puts out None and keeps $\sum_t y_t$ in its state: for a readout by sum or mean over time.

    `_, state = scan(Summed(network), xs, Summed(network).init_state((batch,)), chunk=50, checkpoint=True)`, then
    `state.total / num_steps`: in checkpointed chunks nothing is then left that grows with every step.
    """

    cell: AbstractCell

    @property
    def keeps_membranes(self) -> bool:
        """As its cell."""
        return keep_membranes([self.cell])

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> SummedState:
        """The cell's own state, with `shape` as leading (batch) axes, and nothing added up."""
        return SummedState(self.cell.init_state(shape, key=key), 0.0)

    def __call__(self, x: Any, state: SummedState, *, key: PRNGKeyArray | None = None) -> tuple[None, SummedState]:
        """One step of the cell; its output goes to the total."""
        y, cell_state = self.cell(x, state.cell, key=key)
        return None, SummedState(cell_state, _add(state.total, y))

    def scan_over(
        self, xs: Any, state: SummedState, *, key: Key[Array, "..."] | None, unroll: int, reverse: bool
    ) -> tuple[None, SummedState]:
        """All steps, by the cell's own route."""
        ys, cell_state = scan_layer(self.cell, xs, state.cell, key, unroll=unroll, reverse=reverse)
        return None, SummedState(cell_state, _add(state.total, jax.tree.map(lambda y: jnp.sum(y, axis=0), ys)))


def _add(total: Any, y: Any) -> Any:
    empty = isinstance(total, float)  # Before the first step.
    return y if empty else jax.tree.map(jnp.add, total, y)
