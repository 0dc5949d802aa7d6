"""The generalised integrate-and-fire neuron: two spike-triggered currents and a moving threshold."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._integrate import AbstractIntegrator, ExponentialEuler
from ._leak import SynapticCurrent
from ._neuron import as_size, zeros
from ._ode_neuron import AbstractODENeuron
from ._parameter import ParameterLike, resolve
from ._reset import AbstractReset, ValueReset
from ._surrogate import AbstractSurrogate, Stretched
from ._surrogate_curves import FastSigmoid
from ._units import in_ms, in_unit


class GIFState(eqx.Module):
    """State of `GIFCell`, in BrainState's order of integration."""

    fast: Float[Array, "..."]  # spike-triggered current I1
    slow: Float[Array, "..."]  # spike-triggered current I2
    moving_threshold: Float[Array, "..."] = eqx.field(metadata={"unit": "mV"})
    membrane: Float[Array, "..."] = eqx.field(metadata={"unit": "mV"})
    current: Float[Array, "..."] | None = eqx.field(default=None, metadata={"unit": "mA"})


class GIFCell(AbstractODENeuron[GIFState]):
    r"""Generalised integrate-and-fire (Mihalas & Niebur, Neural Computation 2009, eqs. 2.1-2.2).

    $\tau \dot v = -(v - v_{rest}) + R (I_1 + I_2 + I)$, $\dot I_j = -k_j I_j$,
    $\dot\theta = a (v - v_{rest}) - b (\theta - \theta_\infty)$. A spike sets $I_j \leftarrow R_j I_j + A_j$,
    $\theta \leftarrow \max(\theta_r, \theta)$ and resets $v$. Twenty firing patterns follow from its constants.

    `threshold` is $\theta_\infty$ and `threshold_floor` $\theta_r$, mV; `a`, `b`, `fast_rate`, `slow_rate` in 1/ms.
    BrainState's `Gif` is the one with `integrator=ExponentialEuler(sequential=True)` and a reset `"before_decay"`; its
    surrogate alone differs, which is stretched with the moving threshold.
    """

    size: tuple[int, ...] = eqx.field(static=True, converter=as_size)
    tau_mem: ParameterLike = eqx.field(default=20.0, converter=in_unit("ms"))
    threshold: ParameterLike = eqx.field(default=-50.0, converter=in_unit("mV"))
    threshold_floor: ParameterLike = eqx.field(default=-60.0, converter=in_unit("mV"))
    rest: ParameterLike = eqx.field(default=-70.0, converter=in_unit("mV"))
    resistance: ParameterLike = eqx.field(default=20.0, converter=in_unit("ohm"))
    a: ParameterLike = 0.0
    b: ParameterLike = 0.01
    fast_rate: ParameterLike = 0.2
    slow_rate: ParameterLike = 0.02
    fast_kept: ParameterLike = 0.0
    slow_kept: ParameterLike = 1.0
    fast_jump: ParameterLike = 0.0
    slow_jump: ParameterLike = 0.0
    reset: AbstractReset = ValueReset(-70.0)
    surrogate: AbstractSurrogate = Stretched(FastSigmoid(5.0), 20.0)
    synapse: SynapticCurrent | None = None
    integrator: AbstractIntegrator = ExponentialEuler()
    overshoot: float = 20.0
    dt: float = eqx.field(default=0.1, converter=in_ms)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> GIFState:
        """At rest, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        theta = empty + resolve(self.threshold, empty)
        current = None if self.synapse is None else empty
        return GIFState(empty, empty, theta, empty + resolve(self.rest, empty), current)

    def threshold_of(self, state: GIFState) -> Float[Array, "..."] | float:
        return state.moving_threshold

    def derivative(self, x: Float[Array, "..."], state: GIFState) -> GIFState:
        v, i1, i2, theta = state.membrane, state.fast, state.slow, state.moving_threshold
        above = v - resolve(self.rest, v)
        return GIFState(
            membrane=(resolve(self.resistance, v) * (i1 + i2 + x) - above) / resolve(self.tau_mem, v),
            fast=-resolve(self.fast_rate, v) * i1,
            slow=-resolve(self.slow_rate, v) * i2,
            moving_threshold=resolve(self.a, v) * above - resolve(self.b, v) * (theta - resolve(self.threshold, v)),
        )

    def on_spike(
        self, state: GIFState, spikes: Float[Array, "..."], threshold: Float[Array, "..."] | float
    ) -> GIFState:
        v, theta = state.membrane, state.moving_threshold

        def jump(current: Array, kept: ParameterLike, added: ParameterLike) -> Array:
            return current + spikes * (resolve(kept, v) * current + resolve(added, v) - current)

        return GIFState(
            membrane=self.reset(v, spikes, threshold),
            fast=jump(state.fast, self.fast_kept, self.fast_jump),
            slow=jump(state.slow, self.slow_kept, self.slow_jump),
            moving_threshold=theta + spikes * (jnp.maximum(resolve(self.threshold_floor, v), theta) - theta),
            current=state.current,
        )
