"""Neurons given by a differential equation: with a threshold and reset, or with spikes of their own making."""

import abc
import dataclasses
from typing import Any, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._decay import AbstractDecay, EulerDecay, ExactDecay
from ._integrate import AbstractIntegrator, ForwardEuler
from ._leak import SynapticCurrent, through_synapse
from ._neuron import AbstractNeuron, AbstractSpikingCell, Input, MembraneState, check_input, check_neuron, out_dtype
from ._parameter import AbstractParameter, ParameterLike, concrete, require, require_fits, require_step, resolve
from ._reset import check_threshold
from ._surrogate import AbstractSurrogate, check_deterministic, spike


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
        check_neuron(self.reset, self.surrogate)
        require_step(self.dt)
        require(self.overshoot, "overshoot", above=0.0, unit="mV")
        check_threshold(self.threshold, None, self.reset)
        check_parameters(name, self, self.size)
        check_reach(self.integrator, self.dt, **time_constants(self))
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


class AbstractSpikingODE(AbstractSpikingCell[SpikingState]):
    """A neuron whose equations make the action potential: a spike is put out where the membrane rises past `threshold`.

    $s = H(v' - \\theta)\\,(1 - H(v - \\theta))$, both differentiated by the surrogate; nothing is reset.
    """

    size: eqx.AbstractVar[tuple[int, ...]]
    threshold: eqx.AbstractVar[ParameterLike]
    surrogate: eqx.AbstractVar[AbstractSurrogate]
    integrator: eqx.AbstractVar[AbstractIntegrator]
    dt: eqx.AbstractVar[float]

    def __check_init__(self):
        check_deterministic(self.surrogate, type(self).__name__)
        require_step(self.dt)
        check_parameters(type(self).__name__, self, self.size)
        check_reach(self.integrator, self.dt, **time_constants(self))

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
        above = spike(self.surrogate, new.membrane - threshold)
        return out_dtype(x, above * (1 - spike(self.surrogate, membrane - threshold))), new


def integrate_variables(integrator: AbstractIntegrator, field: Any, state: Any, current: Any, dt: float) -> Any:
    """A state one step later, with the synaptic current, which has its own solution, put in afterwards."""
    if current is None:
        return integrator.advance(field, state, dt)
    variables = integrator.advance(field, dataclasses.replace(state, current=None), dt)
    return dataclasses.replace(variables, current=current)


def check_parameters(name: str, cell: Any, size: tuple[int, ...]) -> None:
    """Raise a `ValueError` for a time constant, capacitance or width that is not positive, a negative conductance,
    resistance or rate, or a constant that does not fit."""
    for field in dataclasses.fields(cell):
        value = getattr(cell, field.name)
        if isinstance(value, bool | tuple | str) or not is_parameter(value) or field.name in ("dt", "overshoot"):
            continue
        positive = field.name.startswith(("tau", "capacitance", "sharpness")) or field.name in ("v2", "v4", "phi")
        not_negative = field.name.startswith(("g_", "resistance")) or field.name.endswith("_rate")
        above, least = 0.0 if positive else None, 0.0 if not_negative else None
        require(value, field.name, above=above, least=least, unit="", remedy=f"See {name}.")
        require_fits(value, field.name, size)


def check_reach(integrator: AbstractIntegrator, dt: float, **times: ParameterLike) -> None:
    """Raise a `ValueError` if steps of `dt` (ms) are longer than the integrator is stable for, given time constants."""
    for name, time in times.items():
        values = concrete(time)
        if values is not None and dt / integrator.substeps > integrator.reach * values.min():
            raise ValueError(
                f"`dt` must be at most {integrator.reach:g} times `{name}` with {type(integrator).__name__}, which "
                f"otherwise oscillates; got dt={dt:g} ms for {name}={float(values.min()):g} ms. Use a smaller `dt`, "
                "more `substeps`, or `ExponentialEuler()`."
            )


def time_constants(cell: Any) -> dict[str, ParameterLike]:
    """The fields of a cell that are time constants, and the inverses of its rates, ms."""
    fields = {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)}
    rates = {name: concrete(value) for name, value in fields.items() if name.endswith("_rate")}
    inverse = {f"1 / {name}": 1 / rate for name, rate in rates.items() if rate is not None and (rate > 0).all()}
    return {name: value for name, value in fields.items() if name.startswith("tau")} | inverse


def is_parameter(value: Any) -> bool:
    """Whether a field's value is a constant of the equations."""
    return isinstance(value, int | float | AbstractParameter) or eqx.is_array(value)
