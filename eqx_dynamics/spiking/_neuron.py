"""The order of events in one step of any spiking neuron: integrate, compare, reset."""

import abc
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._cell import AbstractCell
from .._chunks import MEMBRANE, AbstractMembraneCell
from ._reset import AbstractReset
from ._surrogate import AbstractStochasticSurrogate, AbstractSurrogate, spike


Input = Float[Array, "..."] | Int[Array, "..."] | Bool[Array, "..."]
"""What cells take: currents, or spikes as bools or integers."""


@runtime_checkable
class MembraneState(Protocol):
    """Any state with a membrane."""

    @property
    def membrane(self) -> Any: ...


NeuronState = TypeVar("NeuronState", bound=MembraneState)


class AbstractSpikingCell(AbstractCell[NeuronState]):
    """A cell that puts out spikes, 0. or 1.: known as such by `diagnose`, `calibrate` and `Recurrent`."""

    size: eqx.AbstractVar[tuple[int, ...]]


class AbstractNeuron(AbstractMembraneCell[NeuronState], AbstractSpikingCell[NeuronState]):
    """A cell that puts out spikes: integration, threshold and reset are the subclass's, their order is the reset's.

    Leading axes of the input are batches. States are float32 (float64 with x64 enabled) whatever the input; spikes come
    out in the input's floating dtype.
    """

    reset: eqx.AbstractVar[AbstractReset]
    surrogate: eqx.AbstractVar[AbstractSurrogate]

    @abc.abstractmethod
    def integrate(self, x: Float[Array, "..."], state: NeuronState) -> NeuronState:
        """The state one step later, as if nothing fired."""

    @abc.abstractmethod
    def threshold_of(self, state: NeuronState) -> Float[Array, "..."] | float:
        """The membrane at which a neuron in this state fires."""

    @abc.abstractmethod
    def on_spike(
        self, state: NeuronState, spikes: Float[Array, "..."], threshold: Float[Array, "..."] | float
    ) -> NeuronState:
        """The state after the reset and whatever else a spike does; `threshold` is the one that was crossed."""

    def fire(self, state: NeuronState, *, key: PRNGKeyArray | None = None) -> Float[Array, "..."]:
        """The spikes of this state's membrane: 0. or 1., differentiated by the surrogate."""
        excess = checkpoint_name(state.membrane - self.threshold_of(state), MEMBRANE)
        return spike(self.surrogate, excess, key=key)

    def advance(
        self, x: Float[Array, "..."], state: NeuronState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], NeuronState, NeuronState]:
        """One step: the spikes put out, the state that integration started from, and the state after the step."""
        reset = self.reset
        if reset.timing == "after_spike":
            decided = new = self.integrate(x, state)
            pending = spikes = self.fire(new, key=key)
            start, new = state, self.on_spike(new, spikes, self.threshold_of(new))
        elif reset.timing == "discounted":
            pending, threshold = jax.lax.stop_gradient(self.fire(state)), self.threshold_of(state)
            start, new = state, self.integrate(x, state)
            decided = self.on_spike(new, pending, threshold)
            spikes = self.fire(decided)
            new = self.on_spike(new, spikes, self.threshold_of(new))
        else:
            pending, threshold = self.fire(state), self.threshold_of(state)
            if reset.timing == "before_decay":
                start = self.on_spike(state, pending, threshold)
                new = self.integrate(x, start)
            else:
                start, new = state, self.on_spike(self.integrate(x, state), pending, threshold)
            spikes = pending if reset.emit == "old" else self.fire(new)
        return spikes, start, new


def check_neuron(reset: AbstractReset, surrogate: AbstractSurrogate) -> None:
    """Raise a `ValueError` for options of a neuron that contradict each other."""
    if isinstance(surrogate, AbstractStochasticSurrogate) and reset.timing != "after_spike":
        raise ValueError(
            f'`surrogate` {type(surrogate).__name__} needs `timing="after_spike"`: a reset in the next step would draw '
            f'again; got timing="{reset.timing}".'
        )
    if reset.emit == "old" and reset.timing not in ("before_decay", "after_decay"):
        raise ValueError(f'`emit="old"` needs `timing="before_decay"` or `"after_decay"`; got timing="{reset.timing}".')


def as_size(size: int | tuple[int, ...]) -> tuple[int, ...]:
    """Neuron axes as a tuple.

    **Raises:** `ValueError` if one is not positive.
    """
    axes = (size,) if isinstance(size, int) else tuple(size)
    if any(axis < 1 for axis in axes):
        raise ValueError(f"`size` must be positive; got {size}.")
    return axes


def check_input(name: str, x: Array, size: tuple[int, ...], membrane: Array) -> Array:
    """The input in the membrane's dtype, or an error naming what does not fit."""
    if jnp.shape(x)[-len(size) :] != size if size else False:
        raise ValueError(f"`x` must end in the neuron axes {size} of {name}; got shape {jnp.shape(x)}.")
    if x.shape != membrane.shape:
        batch = x.shape[: x.ndim - len(size)]
        raise ValueError(
            f"`state` of {name} holds {membrane.shape} but `x` is {x.shape} (time is axis 0 of a sequence). "
            f"Use `init_state({batch})` for this input, or put the axes of `x` in the order (time, batch, neurons)."
        )
    return x.astype(membrane.dtype)


def out_dtype(x: Array, spikes: Array) -> Array:
    """Outputs in the input's dtype if that is floating, else as computed."""
    return spikes.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else spikes


def zeros(shape: tuple[int, ...], size: tuple[int, ...]) -> Float[Array, "..."]:
    """A state variable at zero, in the default floating dtype."""
    return jnp.zeros((*shape, *size))
