"""A leaky neuron driven through conductances."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ._decay import AbstractDecay, ExactDecay
from ._integrate import AbstractIntegrator, ExponentialEuler
from ._neuron import AbstractNeuron, Input, as_size, check_input, check_neuron, out_dtype, zeros
from ._ode_neuron import check_parameters, check_reach
from ._parameter import ParameterLike, concrete, require_step, resolve
from ._reset import AbstractReset, ValueReset, check_threshold
from ._surrogate import AbstractSurrogate, Stretched
from ._surrogate_curves import FastSigmoid
from ._units import in_ms, in_unit


class CobaLIFState(eqx.Module):
    """State of `CobaLIFCell`; conductances in units of the capacitance over ms."""

    membrane: Float[Array, "..."] = eqx.field(metadata={"unit": "mV"})
    excitation: Float[Array, "..."]
    inhibition: Float[Array, "..."]


class CobaLIFCell(AbstractNeuron[CobaLIFState]):
    r"""Conductance-based LIF: $C \dot v = g_L (v_{rest} - v) + g_E (E_E - v) + g_I (E_I - v)$.

    Positive input is added to $g_E$ and negative input, without its sign, to $g_I$; each decays with its time constant.
    The default integrator solves the membrane exactly for the conductances of the step; Norse uses forward Euler.

    ??? cite "Reference"
        Brette et al., J Comput Neurosci 2007, eq. 2. Norse 1.1's recurrent `coba_lif_step` drops the input conductance;
        this follows its feed-forward step.
    """

    size: tuple[int, ...] = eqx.field(static=True, converter=as_size)
    tau_excitation: ParameterLike = eqx.field(default=5.0, converter=in_unit("ms"))
    tau_inhibition: ParameterLike = eqx.field(default=10.0, converter=in_unit("ms"))
    capacitance: ParameterLike = 1.0
    g_leak: ParameterLike = 0.05
    rest: ParameterLike = eqx.field(default=-60.0, converter=in_unit("mV"))
    e_excitation: ParameterLike = eqx.field(default=0.0, converter=in_unit("mV"))
    e_inhibition: ParameterLike = eqx.field(default=-80.0, converter=in_unit("mV"))
    threshold: ParameterLike = eqx.field(default=-50.0, converter=in_unit("mV"))
    reset: AbstractReset = ValueReset(-60.0)
    surrogate: AbstractSurrogate = Stretched(FastSigmoid(5.0), 10.0)
    decay: AbstractDecay = ExactDecay()
    integrator: AbstractIntegrator = ExponentialEuler()
    dt: float = eqx.field(default=0.1, converter=in_ms)

    def __check_init__(self):
        check_neuron(self.reset, self.surrogate)
        require_step(self.dt)
        check_parameters("CobaLIFCell", self, self.size)
        check_threshold(self.threshold, self.rest, self.reset)
        membrane, leak = concrete(self.capacitance), concrete(self.g_leak)
        if membrane is not None and leak is not None and (leak > 0).all():
            check_reach(self.integrator, self.dt, **{"capacitance / g_leak": membrane / leak})
        self.decay.check(self.dt, self.tau_excitation, "tau_excitation")
        self.decay.check(self.dt, self.tau_inhibition, "tau_inhibition")

    @property
    def keeps_membranes(self) -> bool:
        """True: besides the membrane a step is a few products and sums."""
        return True

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> CobaLIFState:
        """At rest with closed channels, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        return CobaLIFState(empty + resolve(self.rest, empty), empty, empty)

    def threshold_of(self, state: CobaLIFState) -> Float[Array, "..."] | float:
        return resolve(self.threshold, state.membrane)

    def integrate(self, x: Float[Array, "..."], state: CobaLIFState) -> CobaLIFState:
        v = state.membrane
        keep_e = self.decay.factor(self.dt, resolve(self.tau_excitation, v))
        keep_i = self.decay.factor(self.dt, resolve(self.tau_inhibition, v))
        excitation = (state.excitation + jax.nn.relu(x)) * keep_e
        inhibition = (state.inhibition + jax.nn.relu(-x)) * keep_i

        def rate(v: Array) -> Array:
            leak = resolve(self.g_leak, v) * (resolve(self.rest, v) - v)
            synapses = excitation * (resolve(self.e_excitation, v) - v) + inhibition * (
                resolve(self.e_inhibition, v) - v
            )
            return (leak + synapses) / resolve(self.capacitance, v)

        return CobaLIFState(self.integrator.advance(rate, v, self.dt), excitation, inhibition)

    def on_spike(
        self, state: CobaLIFState, spikes: Float[Array, "..."], threshold: Float[Array, "..."] | float
    ) -> CobaLIFState:
        return CobaLIFState(self.reset(state.membrane, spikes, threshold), state.excitation, state.inhibition)

    @jax.named_scope("eqx_dynamics.CobaLIFCell")
    def __call__(
        self, x: Input, state: CobaLIFState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], CobaLIFState]:
        """One step: signed conductance input `(*batch, *size)` to spikes of the same shape, and the new state."""
        spikes, _, new = self.advance(check_input("CobaLIFCell", x, self.size, state.membrane), state, key=key)
        return out_dtype(x, spikes), new
