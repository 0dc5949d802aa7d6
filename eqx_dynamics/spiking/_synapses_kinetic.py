"""Receptors that open while transmitter is present, and the currents that conductances let through."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._cell import AbstractCell
from ._neuron import Input, as_size, check_input, out_dtype, zeros
from ._parameter import ParameterLike, concrete, resolve
from ._synapses import check_constants
from ._units import Constant, Step, in_ms, in_unit, plain


class KineticState(eqx.Module):
    """State of `KineticSynapse`."""

    conductance: Float[Array, "..."]
    remaining: Float[Array, "..."]  # steps for which transmitter is still present


class KineticSynapse(AbstractCell[KineticState]):
    r"""First-order receptor kinetics: $\dot g = \alpha [T] (1 - g) - \beta g$, with $[T]$ on for a while after a spike.

    Solved exactly within a step: $[T]$ is constant there. The fast excitatory `KineticSynapse.ampa` and the inhibitory
    `KineticSynapse.gaba_a` differ in their constants.

    ??? cite "Reference"
        Destexhe, Mainen and Sejnowski, An efficient method for computing synaptic conductances based on a kinetic model
        of receptor binding, Neural Computation 6, 1994, eqs. 2-4.
    """

    alpha: ParameterLike  # 1 / (ms mM)
    beta: ParameterLike  # 1 / ms
    concentration: ParameterLike  # mM
    duration: ParameterLike  # ms
    dt: float  # ms
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, ...],
        *,
        alpha: ParameterLike,
        beta: ParameterLike,
        concentration: ParameterLike,
        duration: Constant,
        dt: Step = 1.0,
    ):
        """**Arguments:**

        - `size`: number of synapses, or their shape.
        - `alpha`: rate of opening, 1/(ms mM). `beta`: rate of closing, 1/ms.
        - `concentration`: of transmitter while it is present, mM.
        - `duration`: of its presence after the last spike, ms, rounded up to whole steps.
        - `dt`: length of a step, ms.

        **Raises:** `ValueError` for constants that are not positive or do not fit `size`.
        """
        self.size, self.alpha, self.beta = as_size(size), alpha, beta
        self.concentration, self.duration, self.dt = concentration, plain(duration, "ms"), in_ms(dt)

    def __check_init__(self):
        constants = {"alpha": self.alpha, "beta": self.beta}
        check_constants(self.size, self.dt, **constants, concentration=self.concentration, duration=self.duration)

    @classmethod
    def ampa(cls, size: int | tuple[int, ...], *, dt: Step = 1.0) -> "KineticSynapse":
        """Fast excitation, with brainpy.state's constants."""
        return cls(size, alpha=0.98, beta=0.18, concentration=0.5, duration=0.5, dt=dt)

    @classmethod
    def gaba_a(cls, size: int | tuple[int, ...], *, dt: Step = 1.0) -> "KineticSynapse":
        """Fast inhibition, with brainpy.state's constants."""
        return cls(size, alpha=0.53, beta=0.18, concentration=1.0, duration=1.0, dt=dt)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> KineticState:
        """Closed and without transmitter, with `shape` as leading (batch) axes."""
        return KineticState(zeros(shape, self.size), zeros(shape, self.size))

    @jax.named_scope("eqx_dynamics.KineticSynapse")
    def __call__(
        self, x: Input, state: KineticState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], KineticState]:
        """One step: spikes (0 or 1) `(*batch, *size)` to the open fraction. A run-time error for other values."""
        spikes = binary("KineticSynapse", check_input("KineticSynapse", x, self.size, state.conductance))
        present, remaining = transmitter(spikes, state.remaining, self.duration, self.dt)
        opening = resolve(self.alpha, spikes) * resolve(self.concentration, spikes) * present
        conductance = relax(state.conductance, opening, resolve(self.beta, spikes), self.dt)
        return out_dtype(x, conductance), KineticState(conductance, remaining)


class NMDAState(eqx.Module):
    """State of `NMDASynapse`."""

    conductance: Float[Array, "..."]
    bound: Float[Array, "..."]
    remaining: Float[Array, "..."]  # steps for which transmitter is still present


class NMDASynapse(AbstractCell[NMDAState]):
    r"""Second-order kinetics: $\dot b = \alpha_2 [T] (1 - b) - \beta_2 b$, $\dot g = \alpha_1 b (1 - g) - \beta_1 g$.

    The voltage dependence is in `MagnesiumBlock`. Each equation is solved exactly within a step, $b$ first, as in
    brainpy.state, whose constants are the defaults.
    """

    alpha_open: ParameterLike  # 1 / ms
    beta_open: ParameterLike  # 1 / ms
    alpha_bind: ParameterLike  # 1 / (ms mM)
    beta_bind: ParameterLike  # 1 / ms
    concentration: ParameterLike  # mM
    duration: ParameterLike  # ms
    dt: float  # ms
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, ...],
        *,
        alpha_open: ParameterLike = 2.0,
        beta_open: ParameterLike = 0.01,
        alpha_bind: ParameterLike = 1.0,
        beta_bind: ParameterLike = 0.5,
        concentration: ParameterLike = 1.0,
        duration: Constant = 0.5,
        dt: Step = 1.0,
    ):
        r"""**Arguments:** as for `KineticSynapse`; `alpha_open`, `beta_open` are $\alpha_1, \beta_1$ (1/ms);
        `alpha_bind` (1/(ms mM)), `beta_bind` (1/ms) are $\alpha_2, \beta_2$.

        **Raises:** `ValueError` for constants that are not positive or do not fit `size`.
        """
        self.size, self.alpha_open, self.beta_open = as_size(size), alpha_open, beta_open
        self.alpha_bind, self.beta_bind = alpha_bind, beta_bind
        self.concentration, self.duration, self.dt = concentration, plain(duration, "ms"), in_ms(dt)

    def __check_init__(self):
        opening = {"alpha_open": self.alpha_open, "beta_open": self.beta_open}
        binding = {"alpha_bind": self.alpha_bind, "beta_bind": self.beta_bind}
        pulse = {"concentration": self.concentration, "duration": self.duration}
        check_constants(self.size, self.dt, **opening, **binding, **pulse)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> NMDAState:
        """Closed and without transmitter, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        return NMDAState(empty, empty, empty)

    @jax.named_scope("eqx_dynamics.NMDASynapse")
    def __call__(
        self, x: Input, state: NMDAState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], NMDAState]:
        """One step: spikes (0 or 1) `(*batch, *size)` to the open fraction. A run-time error for other values."""
        spikes = binary("NMDASynapse", check_input("NMDASynapse", x, self.size, state.conductance))
        present, remaining = transmitter(spikes, state.remaining, self.duration, self.dt)
        binding = resolve(self.alpha_bind, spikes) * resolve(self.concentration, spikes) * present
        bound = relax(state.bound, binding, resolve(self.beta_bind, spikes), self.dt)
        opening = resolve(self.alpha_open, spikes) * bound
        conductance = relax(state.conductance, opening, resolve(self.beta_open, spikes), self.dt)
        return out_dtype(x, conductance), NMDAState(conductance, bound, remaining)


class AbstractSynapticOutput(eqx.Module):
    """How a conductance and the membrane behind it make a current: `(conductance, membrane) -> current`."""

    @abc.abstractmethod
    def __call__(self, conductance: Float[Array, "*shape"], membrane: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Current into the cell, of the conductance's unit times mV."""


class ReversalOutput(AbstractSynapticOutput):
    r"""Ohm's law: $I = g (E - v)$."""

    reversal: ParameterLike = eqx.field(default=0.0, converter=in_unit("mV"))

    def __call__(self, conductance: Float[Array, "*shape"], membrane: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return conductance * (resolve(self.reversal, membrane) - membrane)


class MagnesiumBlock(AbstractSynapticOutput):
    r"""NMDA's current: $I = g\,(E - v) / (1 + \frac{[Mg]}{3.57\,\mathrm{mM}} e^{-0.062 v / \mathrm{mV}})$.

    ??? cite "Reference"
        Jahr and Stevens, Voltage dependence of NMDA-activated macroscopic conductances, J. Neurosci. 10, 1990, eq. 4.
    """

    reversal: ParameterLike  # mV
    magnesium: ParameterLike  # mM

    def __init__(self, reversal: Constant = 0.0, magnesium: ParameterLike = 1.2):
        """**Arguments:** `reversal`: $E$, mV; `magnesium`: outside concentration, mM; 0 lifts the block.

        **Raises:** `ValueError` if `magnesium` is negative.
        """
        self.reversal, self.magnesium = plain(reversal, "mV"), magnesium

    def __check_init__(self):
        values = concrete(self.magnesium)
        if values is not None and not (values >= 0).all():
            raise ValueError(f"`magnesium` must not be negative; got {float(values.min()):g} mM.")

    def __call__(self, conductance: Float[Array, "*shape"], membrane: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        blocked = resolve(self.magnesium, membrane) / 3.57 * jnp.exp(-0.062 * membrane)
        return conductance * (resolve(self.reversal, membrane) - membrane) / (1 + blocked)


def transmitter(spikes: Array, remaining: Array, duration: ParameterLike, dt: float) -> tuple[Array, Array]:
    """Whether transmitter is present in this step (differentiable in its spikes), and the steps that are left after."""
    num_steps = jnp.ceil(jnp.asarray(resolve(duration, spikes), spikes.dtype) / dt - 1e-4)
    present = spikes + (1 - spikes) * (remaining > 0).astype(spikes.dtype)
    left = jax.lax.stop_gradient(jnp.where(spikes > 0, num_steps - 1, remaining - 1))
    return present, jnp.maximum(left, 0.0)


def relax(open_fraction: Array, opening: Array, closing: Array | float, dt: float) -> Array:
    r"""$\dot g = a (1 - g) - b g$ for one step: towards $a / (a + b)$ with the rate $a + b$."""
    rate = opening + closing
    return open_fraction + (opening / rate - open_fraction) * -jnp.expm1(-dt * rate)


def binary(name: str, spikes: Array) -> Array:
    """The spikes, or a run-time error if one is neither 0 nor 1."""
    return eqx.error_if(
        spikes,
        ~jnp.all((spikes == 0) | (spikes == 1)),
        f"`x` of {name} must be spikes, 0 or 1: it counts them as events. Put weights behind it.",
    )
