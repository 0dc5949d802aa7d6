"""Feeding a neuron's spikes back to itself."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._apply import apply_stateless
from .._cell import AbstractCell
from .._chunks import AbstractMembraneCell
from ._neuron import AbstractNeuron, AbstractSpikingCell, check_input, zeros


class RecurrentState(eqx.Module):
    """State of `Recurrent`: the cell's own, and the spikes it last put out."""

    cell: Any
    spikes: Float[Array, "..."]


class OneToOne(eqx.Module):
    """Each neuron feeds only itself: `x * weight`, with one weight or one per neuron."""

    weight: Float[Array, "..."]

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """`x` with any leading axes."""
        return x * self.weight.reshape((1,) * (x.ndim - self.weight.ndim) + self.weight.shape)


class Recurrent(AbstractMembraneCell[RecurrentState]):
    r"""A layer of neurons with feedback: the input of a step is $x_t + W(s_{t-1})$, $s$ its own spikes.

    The weight is any stateless layer: `eqx.nn.Linear` (all to all), `OneToOne`, `eqx.nn.Conv2d`, a masked or Dale's-law
    one. The input weights stand before it in a `Sequential`, where they are applied to all time steps at once. The
    feedback is not detached.

    A cell that puts out the spikes of its old membrane (spyx) feeds those back, in the step that puts them out.

    **Raises:** `ValueError` if the weight has a state of its own; when called, if what it feeds back has not the shape
    of the input.
    """

    cell: AbstractSpikingCell
    weight: Callable[[Array], Array]

    def __check_init__(self):
        if isinstance(self.weight, AbstractCell):
            raise ValueError(
                f"`weight` of Recurrent must be a stateless layer; got the cell {type(self.weight).__name__}. Write a "
                "cell that holds both, or a `GraphCell` (eqx_dynamics.interop) whose edges close the loop."
            )

    @property
    def keeps_membranes(self) -> bool:
        """As its cell."""
        return isinstance(self.cell, AbstractMembraneCell) and self.cell.keeps_membranes

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> RecurrentState:
        """The cell's own state and no spikes, with `shape` as leading (batch) axes."""
        return RecurrentState(self.cell.init_state(shape, key=key), zeros(shape, self.cell.size))

    def fed_back(self, state: RecurrentState) -> Float[Array, "..."]:
        """The spikes that the next step receives through the weight."""
        cell = self.cell
        return cell.fire(state.cell) if isinstance(cell, AbstractNeuron) and cell.reset.emit == "old" else state.spikes

    @jax.named_scope("eqx_dynamics.Recurrent")
    def __call__(
        self, x: Float[Array, "..."], state: RecurrentState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], RecurrentState]:
        """One step: input `(*batch, *size)` to spikes of the same shape."""
        check_input("Recurrent", x, self.cell.size, state.spikes)
        draw = None if key is None else jr.fold_in(key, 1)  # For a weight that drops out; the cell has the key.
        feedback = apply_stateless(self.weight, self.fed_back(state).astype(x.dtype), draw)
        if feedback.shape != x.shape:
            raise ValueError(
                f"`weight` of Recurrent must keep the shape {x.shape} of its spikes; got {feedback.shape}."
            )
        out, cell_state = self.cell(x + feedback, state.cell, key=key)
        return out, RecurrentState(cell_state, out.astype(state.spikes.dtype))
