"""Neurons given by a differential equation: with a threshold and reset, or with spikes of their own making."""

import abc
import dataclasses
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._cell import AbstractCell
from ._decay import AbstractDecay, EulerDecay, ExactDecay
from ._integrate import AbstractIntegrator, ForwardEuler
from ._leak import SynapticCurrent, through_synapse
from ._neuron import AbstractNeuron, Input, MembraneState, check_input, check_neuron, out_dtype
from ._parameter import AbstractParameter, ParameterLike, require, require_fits, resolve
from ._reset import check_threshold
from ._surrogate import AbstractSurrogate, spike


@runtime_checkable
class ODEState(Protocol):
    """Any state with a membrane and a synaptic current, or None for no synapse."""

    @property
    def membrane(self) -> Any: ...
    @property
    def current(self) -> Any: ...


State = TypeVar("State", bound=ODEState)
SpikingState = TypeVar("SpikingState", bound=MembraneState)


class AbstractODENeuron(AbstractNeuron[State]):
    """An integrate-and-fire neuron whose membrane follows $\\dot y = f(y, x)$ between spikes.

    A step whose upstroke runs away is cut at `overshoot` above the threshold, where the neuron has fired anyway: steps
    that overflow in other libraries stay finite here, in value and gradient.
    """

    threshold: eqx.AbstractVar[ParameterLike]
    synapse: eqx.AbstractVar[SynapticCurrent | None]
    integrator: eqx.AbstractVar[AbstractIntegrator]
    overshoot: eqx.AbstractVar[float]
    dt: eqx.AbstractVar[float]

    def __check_init__(self):
        name = type(self).__name__
        check_neuron(self.size, self.reset, self.surrogate)
        require(self.dt, "dt", above=0.0)
        require(self.overshoot, "overshoot", above=0.0, unit="mV")
        check_threshold(self.threshold, None, self.reset)
        check_parameters(name, self, self.size)
        check_euler(self.integrator, self, self.dt)
        if self.synapse is not None:
            require(self.synapse.tau_syn, "tau_syn", above=0.0)
            require_fits(self.synapse.tau_syn, "tau_syn", self.size)
            self._decay().check(self.dt, self.synapse.tau_syn, "tau_syn")

    @property
    def keeps_membranes(self) -> bool:
        """False: working a step out again would cost more than keeping its values."""
        return False

    @abc.abstractmethod
    def derivative(self, x: Float[Array, "..."], state: State) -> State:
        """Rates of change per ms of every variable, given the input current; `current` is None in both."""

    def integrate(self, x: Float[Array, "..."], state: State) -> State:
        drive, current = through_synapse(x, state.current, self.synapse, self._decay(), self.dt)
        new = integrate_variables(self.integrator, lambda y: self.derivative(drive, y), state, current, self.dt)
        ceiling = self.threshold_of(new) + self.overshoot
        return dataclasses.replace(new, membrane=jnp.minimum(new.membrane, ceiling))

    def _decay(self) -> AbstractDecay:
        return EulerDecay() if isinstance(self.integrator, ForwardEuler) else ExactDecay()

    def __call__(self, x: Input, state: State, *, key: PRNGKeyArray | None = None) -> tuple[Float[Array, "..."], State]:
        """One step: input current `(*batch, *size)` to spikes of the same shape, 0. or 1., and the new state."""
        membrane = state.membrane
        spikes, _, new = self.advance(check_input(type(self).__name__, x, self.size, membrane), state, key=key)
        return out_dtype(x, spikes), new


class AbstractSpikingODE(AbstractCell[SpikingState]):
    """A neuron whose equations make the action potential: a spike is put out where the membrane rises past `threshold`.

    $s = H(v' - \\theta)\\,(1 - H(v - \\theta))$, both differentiated by the surrogate; nothing is reset.
    """

    size: eqx.AbstractVar[tuple[int, ...]]
    threshold: eqx.AbstractVar[ParameterLike]
    surrogate: eqx.AbstractVar[AbstractSurrogate]
    integrator: eqx.AbstractVar[AbstractIntegrator]
    dt: eqx.AbstractVar[float]

    def __check_init__(self):
        require(self.dt, "dt", above=0.0)
        check_parameters(type(self).__name__, self, self.size)
        check_euler(self.integrator, self, self.dt)

    @abc.abstractmethod
    def derivative(self, x: Float[Array, "..."], state: SpikingState) -> SpikingState:
        """Rates of change per ms of every variable, given the input current."""

    def __call__(
        self, x: Input, state: SpikingState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], SpikingState]:
        """One step: input current `(*batch, *size)` to spikes of the same shape, 0. or 1., and the new state."""
        membrane = state.membrane
        drive = check_input(type(self).__name__, x, self.size, membrane)
        new = self.integrator.advance(lambda y: self.derivative(drive, y), state, self.dt)
        threshold = resolve(self.threshold, membrane)
        above = spike(self.surrogate, new.membrane - threshold, key=key)
        return out_dtype(x, above * (1 - spike(self.surrogate, membrane - threshold, key=key))), new


def integrate_variables(integrator: AbstractIntegrator, field: Any, state: Any, current: Any, dt: float) -> Any:
    """A state one step later, with the synaptic current, which has its own solution, put in afterwards."""
    if current is None:
        return integrator.advance(field, state, dt)
    variables = integrator.advance(field, dataclasses.replace(state, current=None), dt)
    return dataclasses.replace(variables, current=current)


def check_parameters(name: str, cell: Any, size: tuple[int, ...]) -> None:
    """Raise a `ValueError` for a time constant, capacitance or width that is not positive, or that does not fit."""
    for field in dataclasses.fields(cell):
        value = getattr(cell, field.name)
        if isinstance(value, bool | tuple | str) or not is_parameter(value) or field.name in ("dt", "overshoot"):
            continue
        positive = field.name.startswith(("tau", "capacitance", "sharpness"))
        require(value, field.name, above=0.0 if positive else None, unit="", remedy=f"See {name}.")
        require_fits(value, field.name, size)


def check_euler(integrator: AbstractIntegrator, cell: Any, dt: float) -> None:
    """Raise a `ValueError` if forward Euler's steps are longer than a time constant."""
    if isinstance(integrator, ForwardEuler):
        for field in dataclasses.fields(cell):
            if field.name.startswith("tau"):
                EulerDecay().check(dt / integrator.substeps, getattr(cell, field.name), field.name)


def is_parameter(value: Any) -> bool:
    """Whether a field's value is a constant of the equations."""
    return isinstance(value, int | float | AbstractParameter) or eqx.is_array(value)
