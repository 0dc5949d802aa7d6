"""Neurons whose equations make the action potential: Hodgkin-Huxley, Morris-Lecar, FitzHugh-Nagumo."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ._integrate import AbstractIntegrator, ExponentialEuler, RungeKutta4, exprel
from ._neuron import as_size, zeros
from ._ode_neuron import AbstractSpikingODE
from ._parameter import ParameterLike, concrete, require, resolve
from ._surrogate import AbstractSurrogate, Stretched
from ._surrogate_curves import FastSigmoid
from ._units import in_ms, in_unit


class HodgkinHuxleyState(eqx.Module):
    """State of `HodgkinHuxleyCell`; gates are open fractions in [0, 1]."""

    membrane: Float[Array, "..."] = eqx.field(metadata={"unit": "mV"})
    h: Float[Array, "..."]  # sodium inactivation
    m: Float[Array, "..."]  # sodium activation
    n: Float[Array, "..."]  # potassium activation


class HodgkinHuxleyCell(AbstractSpikingODE[HodgkinHuxleyState]):
    r"""Hodgkin-Huxley: $C \dot v = -g_{Na} m^3 h (v - E_{Na}) - g_K n^4 (v - E_K) - g_L (v - E_L) + I$.

    Gates $\dot g = \alpha_g(v)(1 - g) - \beta_g(v) g$ with the 1952 rates, shifted to a rest of -65 mV. Capacitance in
    uF/cm2, conductances in mS/cm2, potentials in mV, current in uA/cm2. Exponential Euler keeps the gates in [0, 1] at
    any step.

    ??? cite "Reference"
        Hodgkin & Huxley, J Physiol 1952. $g_L$ is 0.3 there; BrainState has 0.03.
    """

    size: tuple[int, ...] = eqx.field(static=True, converter=as_size)
    capacitance: ParameterLike = eqx.field(default=1.0, converter=in_unit("uF/cm2"))
    g_sodium: ParameterLike = eqx.field(default=120.0, converter=in_unit("mS/cm2"))
    g_potassium: ParameterLike = eqx.field(default=36.0, converter=in_unit("mS/cm2"))
    g_leak: ParameterLike = eqx.field(default=0.3, converter=in_unit("mS/cm2"))
    e_sodium: ParameterLike = eqx.field(default=50.0, converter=in_unit("mV"))
    e_potassium: ParameterLike = eqx.field(default=-77.0, converter=in_unit("mV"))
    e_leak: ParameterLike = eqx.field(default=-54.387, converter=in_unit("mV"))
    threshold: ParameterLike = eqx.field(default=0.0, converter=in_unit("mV"))
    initial_membrane: ParameterLike = eqx.field(default=-65.0, converter=in_unit("mV"))
    surrogate: AbstractSurrogate = Stretched(FastSigmoid(5.0), 20.0)
    integrator: AbstractIntegrator = ExponentialEuler()
    dt: float = eqx.field(default=0.05, converter=in_ms)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> HodgkinHuxleyState:
        """At `initial_membrane` with the gates at their steady state there."""
        empty = zeros(shape, self.size)
        v = empty + resolve(self.initial_membrane, empty)
        opening, closing = _rates(v)
        gates = [a / (a + b) for a, b in zip(opening, closing, strict=True)]
        return HodgkinHuxleyState(v, *gates)

    def derivative(self, x: Float[Array, "..."], state: HodgkinHuxleyState) -> HodgkinHuxleyState:
        v, h, m, n = state.membrane, state.h, state.m, state.n
        sodium = resolve(self.g_sodium, v) * m**3 * h * (v - resolve(self.e_sodium, v))
        potassium = resolve(self.g_potassium, v) * n**4 * (v - resolve(self.e_potassium, v))
        leak = resolve(self.g_leak, v) * (v - resolve(self.e_leak, v))
        opening, closing = _rates(v)
        gates = [a * (1 - g) - b * g for a, b, g in zip(opening, closing, (h, m, n), strict=True)]
        return HodgkinHuxleyState((x - sodium - potassium - leak) / resolve(self.capacitance, v), *gates)


def _rates(v: Array) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """Opening and closing rates (1/ms) of h, m and n; beyond 300 mV they no longer grow, so that none overflows."""
    v = jnp.clip(v, -300.0, 300.0)
    opening = (0.07 * jnp.exp(-(v + 65) / 20), 1 / exprel(-(v + 40) / 10), 0.1 / exprel(-(v + 55) / 10))
    closing = (1 / (1 + jnp.exp(-(v + 35) / 10)), 4 * jnp.exp(-(v + 65) / 18), 0.125 * jnp.exp(-(v + 65) / 80))
    return opening, closing


class MorrisLecarState(eqx.Module):
    """State of `MorrisLecarCell`."""

    membrane: Float[Array, "..."] = eqx.field(metadata={"unit": "mV"})
    potassium: Float[Array, "..."]  # open fraction w


class MorrisLecarCell(AbstractSpikingODE[MorrisLecarState]):
    r"""Morris-Lecar: $C \dot v = -g_{Ca} m_\infty(v)(v - E_{Ca}) - g_K w (v - E_K) - g_L (v - E_L) + I$.

    $m_\infty = \frac12 (1 + \tanh\frac{v - v_1}{v_2})$, $\dot w = \phi \cosh\frac{v - v_3}{2 v_4} (w_\infty - w)$.
    Defaults are the Hopf regime of Rinzel & Ermentrout (1998). Units as for Hodgkin-Huxley. Exponential Euler
    linearises calcium's activation too, which BrainState holds during a step: the two differ to first order in `dt`.

    ??? cite "Reference"
        Morris & Lecar, Biophys J 1981, eqs. 1-2.
    """

    size: tuple[int, ...] = eqx.field(static=True, converter=as_size)
    capacitance: ParameterLike = eqx.field(default=20.0, converter=in_unit("uF/cm2"))
    g_calcium: ParameterLike = eqx.field(default=4.4, converter=in_unit("mS/cm2"))
    g_potassium: ParameterLike = eqx.field(default=8.0, converter=in_unit("mS/cm2"))
    g_leak: ParameterLike = eqx.field(default=2.0, converter=in_unit("mS/cm2"))
    e_calcium: ParameterLike = eqx.field(default=120.0, converter=in_unit("mV"))
    e_potassium: ParameterLike = eqx.field(default=-84.0, converter=in_unit("mV"))
    e_leak: ParameterLike = eqx.field(default=-60.0, converter=in_unit("mV"))
    v1: ParameterLike = eqx.field(default=-1.2, converter=in_unit("mV"))
    v2: ParameterLike = eqx.field(default=18.0, converter=in_unit("mV"))
    v3: ParameterLike = eqx.field(default=2.0, converter=in_unit("mV"))
    v4: ParameterLike = eqx.field(default=30.0, converter=in_unit("mV"))
    phi: ParameterLike = 0.04
    threshold: ParameterLike = eqx.field(default=10.0, converter=in_unit("mV"))
    initial_membrane: ParameterLike = eqx.field(default=-60.0, converter=in_unit("mV"))
    surrogate: AbstractSurrogate = Stretched(FastSigmoid(5.0), 20.0)
    integrator: AbstractIntegrator = ExponentialEuler()
    dt: float = eqx.field(default=0.1, converter=in_ms)

    def __check_init__(self):
        # Calcium opens at once: no gate's time constant bounds the upstroke, which runs away in longer steps.
        membrane, calcium = concrete(self.capacitance), concrete(self.g_calcium)
        if membrane is not None and calcium is not None and (2 * self.dt * calcium > membrane).any():
            raise ValueError(
                f"`dt` must be at most half of `capacitance / g_calcium`, or upstrokes run away; got dt={self.dt:g} ms "
                f"for {float(np.min(membrane / calcium)):g} ms."
            )

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> MorrisLecarState:
        """At `initial_membrane` with the potassium gate at its steady state there."""
        empty = zeros(shape, self.size)
        v = empty + resolve(self.initial_membrane, empty)
        return MorrisLecarState(v, self._half(v, self.v3, self.v4))

    def derivative(self, x: Float[Array, "..."], state: MorrisLecarState) -> MorrisLecarState:
        v, w = state.membrane, state.potassium
        calcium = resolve(self.g_calcium, v) * self._half(v, self.v1, self.v2) * (v - resolve(self.e_calcium, v))
        potassium = resolve(self.g_potassium, v) * w * (v - resolve(self.e_potassium, v))
        leak = resolve(self.g_leak, v) * (v - resolve(self.e_leak, v))
        distance = jnp.clip((v - resolve(self.v3, v)) / (2 * resolve(self.v4, v)), -20.0, 20.0)  # cosh would overflow
        rate = resolve(self.phi, v) * jnp.cosh(distance)
        return MorrisLecarState(
            (x - calcium - potassium - leak) / resolve(self.capacitance, v),
            rate * (self._half(v, self.v3, self.v4) - w),
        )

    def _half(self, v: Array, middle: ParameterLike, width: ParameterLike) -> Array:
        return 0.5 * (1 + jnp.tanh((v - resolve(middle, v)) / resolve(width, v)))


class FitzHughNagumoState(eqx.Module):
    """State of `FitzHughNagumoCell`, dimensionless."""

    membrane: Float[Array, "..."]
    recovery: Float[Array, "..."]


class FitzHughNagumoCell(AbstractSpikingODE[FitzHughNagumoState]):
    r"""FitzHugh-Nagumo: $\dot v = v - v^3/3 - w + I$, $\tau \dot w = v + a - b w$ (dimensionless, `dt` too).

    ??? cite "Reference"
        FitzHugh, Biophys J 1961; Nagumo et al., Proc IRE 1962.
    """

    size: tuple[int, ...] = eqx.field(static=True, converter=as_size)
    tau_recovery: ParameterLike = 12.5
    a: ParameterLike = 0.7
    b: ParameterLike = 0.8
    threshold: ParameterLike = 1.0
    initial_membrane: ParameterLike = -1.1994
    initial_recovery: ParameterLike = -0.6243
    surrogate: AbstractSurrogate = FastSigmoid(5.0)
    integrator: AbstractIntegrator = RungeKutta4()
    dt: float = 0.1

    def __check_init__(self):
        # The fast variable has 1 for its time constant.
        require(self.dt, "dt", up_to=2.0, unit="", remedy="Steps that long pass over whole spikes.")

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> FitzHughNagumoState:
        """At the fixed point for no input (with the default constants)."""
        empty = zeros(shape, self.size)
        return FitzHughNagumoState(
            empty + resolve(self.initial_membrane, empty), empty + resolve(self.initial_recovery, empty)
        )

    def derivative(self, x: Float[Array, "..."], state: FitzHughNagumoState) -> FitzHughNagumoState:
        v, w = state.membrane, state.recovery
        slow = v + resolve(self.a, v) - resolve(self.b, v) * w
        return FitzHughNagumoState(v - v**3 / 3 - w + x, slow / resolve(self.tau_recovery, v))
