"""Neurons with an exponential upstroke: ExpIF and AdEx."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._integrate import AbstractIntegrator, ExponentialEuler
from ._leak import SynapticCurrent
from ._neuron import as_size, zeros
from ._neurons_quadratic import MembraneOnlyState
from ._ode_neuron import AbstractODENeuron
from ._parameter import ParameterLike, resolve
from ._reset import AbstractReset, ValueReset
from ._surrogate import AbstractSurrogate, Stretched
from ._surrogate_curves import FastSigmoid
from ._units import in_ms, in_unit


class ExpIFCell(AbstractODENeuron[MembraneOnlyState]):
    r"""Exponential integrate-and-fire: $\tau \dot v = -(v - v_{rest}) + \Delta_T e^{(v - v_T)/\Delta_T} + R I$.

    `onset` $v_T$: where the upstroke begins; `sharpness` $\Delta_T$: its width, mV. The exponent is capped at 20.

    ??? cite "Reference"
        Fourcaud-Trocmé et al., J Neurosci 2003, eq. 10.
    """

    size: tuple[int, ...] = eqx.field(static=True, converter=as_size)
    tau_mem: ParameterLike = eqx.field(default=10.0, converter=in_unit("ms"))
    threshold: ParameterLike = eqx.field(default=-30.0, converter=in_unit("mV"))
    rest: ParameterLike = eqx.field(default=-65.0, converter=in_unit("mV"))
    onset: ParameterLike = eqx.field(default=-59.9, converter=in_unit("mV"))
    sharpness: ParameterLike = eqx.field(default=3.48, converter=in_unit("mV"))
    resistance: ParameterLike = eqx.field(default=1.0, converter=in_unit("ohm"))
    reset: AbstractReset = ValueReset(-68.0)
    surrogate: AbstractSurrogate = Stretched(FastSigmoid(5.0), 20.0)
    synapse: SynapticCurrent | None = None
    integrator: AbstractIntegrator = ExponentialEuler()
    overshoot: float = 20.0
    dt: float = eqx.field(default=0.1, converter=in_ms)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> MembraneOnlyState:
        """At rest, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        return MembraneOnlyState(empty + resolve(self.rest, empty), None if self.synapse is None else empty)

    def threshold_of(self, state: MembraneOnlyState) -> Float[Array, "..."] | float:
        return resolve(self.threshold, state.membrane)

    def derivative(self, x: Float[Array, "..."], state: MembraneOnlyState) -> MembraneOnlyState:
        v = state.membrane
        push = upstroke(v, self.rest, self.onset, self.sharpness) + resolve(self.resistance, v) * x
        return MembraneOnlyState(push / resolve(self.tau_mem, v))

    def on_spike(
        self, state: MembraneOnlyState, spikes: Float[Array, "..."], threshold: Float[Array, "..."] | float
    ) -> MembraneOnlyState:
        return MembraneOnlyState(self.reset(state.membrane, spikes, threshold), state.current)


class AdExState(eqx.Module):
    """State of `AdExCell`."""

    membrane: Float[Array, "..."] = eqx.field(metadata={"unit": "mV"})
    adaptation: Float[Array, "..."]  # the unit of the input current
    current: Float[Array, "..."] | None = eqx.field(default=None, metadata={"unit": "mA"})


class AdExCell(AbstractODENeuron[AdExState]):
    r"""Adaptive exponential integrate-and-fire (AdEx).

    $\tau \dot v = -(v - v_{rest}) + \Delta_T e^{(v - v_T)/\Delta_T} + R (I - w)$,
    $\tau_w \dot w = a (v - v_{rest}) - w$; a spike adds `increment` $b$ to $w$.

    ??? cite "Reference"
        Brette & Gerstner, J Neurophysiol 2005, eqs. 1-2.
    """

    size: tuple[int, ...] = eqx.field(static=True, converter=as_size)
    tau_mem: ParameterLike = eqx.field(default=10.0, converter=in_unit("ms"))
    tau_adapt: ParameterLike = eqx.field(default=30.0, converter=in_unit("ms"))
    threshold: ParameterLike = eqx.field(default=-55.0, converter=in_unit("mV"))
    rest: ParameterLike = eqx.field(default=-65.0, converter=in_unit("mV"))
    onset: ParameterLike = eqx.field(default=-59.9, converter=in_unit("mV"))
    sharpness: ParameterLike = eqx.field(default=3.48, converter=in_unit("mV"))
    coupling: ParameterLike = 1.0
    increment: ParameterLike = 1.0
    resistance: ParameterLike = eqx.field(default=1.0, converter=in_unit("ohm"))
    reset: AbstractReset = ValueReset(-68.0)
    surrogate: AbstractSurrogate = Stretched(FastSigmoid(5.0), 20.0)
    synapse: SynapticCurrent | None = None
    integrator: AbstractIntegrator = ExponentialEuler()
    overshoot: float = 20.0
    dt: float = eqx.field(default=0.1, converter=in_ms)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> AdExState:
        """At rest and not adapted, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        return AdExState(empty + resolve(self.rest, empty), empty, None if self.synapse is None else empty)

    def threshold_of(self, state: AdExState) -> Float[Array, "..."] | float:
        return resolve(self.threshold, state.membrane)

    def derivative(self, x: Float[Array, "..."], state: AdExState) -> AdExState:
        v, w = state.membrane, state.adaptation
        push = upstroke(v, self.rest, self.onset, self.sharpness) + resolve(self.resistance, v) * (x - w)
        pull = resolve(self.coupling, v) * (v - resolve(self.rest, v)) - w
        return AdExState(push / resolve(self.tau_mem, v), pull / resolve(self.tau_adapt, v))

    def on_spike(
        self, state: AdExState, spikes: Float[Array, "..."], threshold: Float[Array, "..."] | float
    ) -> AdExState:
        adaptation = state.adaptation + resolve(self.increment, state.adaptation) * spikes
        return AdExState(self.reset(state.membrane, spikes, threshold), adaptation, state.current)


def upstroke(v: Array, rest: ParameterLike, onset: ParameterLike, sharpness: ParameterLike) -> Array:
    r"""$-(v - v_{rest}) + \Delta_T e^{(v - v_T) / \Delta_T}$, with the exponent capped at 20."""
    width = resolve(sharpness, v)
    return width * jnp.exp(jnp.minimum((v - resolve(onset, v)) / width, 20.0)) - (v - resolve(rest, v))
