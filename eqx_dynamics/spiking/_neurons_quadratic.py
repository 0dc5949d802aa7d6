"""Neurons with a quadratic upstroke: QIF and Izhikevich's two-variable model."""

import equinox as eqx
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


class MembraneOnlyState(eqx.Module):
    """State of a neuron with one variable of its own."""

    membrane: Float[Array, "..."] = eqx.field(metadata={"unit": "mV"})
    current: Float[Array, "..."] | None = eqx.field(default=None, metadata={"unit": "mA"})


class QIFCell(AbstractODENeuron[MembraneOnlyState]):
    r"""Quadratic integrate-and-fire: $\tau \dot v = c (v - v_{rest})(v - v_c) + R I$ (Latham et al. 2000).

    Constants in mV and ms; `curvature` $c$ in 1/mV; `critical` $v_c$: above it the neuron fires by itself.
    """

    size: tuple[int, ...] = eqx.field(static=True, converter=as_size)
    tau_mem: ParameterLike = eqx.field(default=10.0, converter=in_unit("ms"))
    threshold: ParameterLike = eqx.field(default=-30.0, converter=in_unit("mV"))
    rest: ParameterLike = eqx.field(default=-65.0, converter=in_unit("mV"))
    critical: ParameterLike = eqx.field(default=-50.0, converter=in_unit("mV"))
    curvature: ParameterLike = 0.07
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
        growth = resolve(self.curvature, v) * (v - resolve(self.rest, v)) * (v - resolve(self.critical, v))
        return MembraneOnlyState((growth + resolve(self.resistance, v) * x) / resolve(self.tau_mem, v))

    def on_spike(
        self, state: MembraneOnlyState, spikes: Float[Array, "..."], threshold: Float[Array, "..."] | float
    ) -> MembraneOnlyState:
        return MembraneOnlyState(self.reset(state.membrane, spikes, threshold), state.current)


class IzhikevichState(eqx.Module):
    """State of `IzhikevichCell`."""

    membrane: Float[Array, "..."] = eqx.field(metadata={"unit": "mV"})
    recovery: Float[Array, "..."]  # mV/ms
    current: Float[Array, "..."] | None = eqx.field(default=None, metadata={"unit": "mA"})


class IzhikevichCell(AbstractODENeuron[IzhikevichState]):
    r"""Izhikevich's neuron: $\dot v = 0.04 v^2 + 5 v + 140 - u + I$, $\dot u = a (b (v - v_u) - u)$.

    At $v \ge 30$ mV: $v \leftarrow c$ (in `reset`), $u \leftarrow u + d$. `IZHIKEVICH_PRESETS` has the twenty firing
    patterns by name; `IzhikevichCell.preset("tonic_bursting", size)` builds one.

    ??? cite "Reference"
        Izhikevich, IEEE Trans. Neural Networks 2003 (eqs. 1-3) and 2004 (figure 1 and its published parameters).
        Izhikevich stepped the membrane by forward Euler; the default here is exponential Euler, stable at 1 ms.
    """

    size: tuple[int, ...] = eqx.field(static=True, converter=as_size)
    a: ParameterLike = 0.02
    b: ParameterLike = 0.2
    d: ParameterLike = 8.0
    recovery_offset: ParameterLike = 0.0
    quadratic: ParameterLike = 0.04
    linear: ParameterLike = 5.0
    constant: ParameterLike = 140.0
    threshold: ParameterLike = eqx.field(default=30.0, converter=in_unit("mV"))
    initial_membrane: ParameterLike = eqx.field(default=-65.0, converter=in_unit("mV"))
    initial_recovery: ParameterLike = -13.0
    reset: AbstractReset = ValueReset(-65.0)
    surrogate: AbstractSurrogate = Stretched(FastSigmoid(5.0), 30.0)
    synapse: SynapticCurrent | None = None
    integrator: AbstractIntegrator = ExponentialEuler()
    overshoot: float = 20.0
    dt: float = eqx.field(default=0.5, converter=in_ms)

    @classmethod
    def preset(cls, name: str, size: int | tuple[int, ...], *, dt: float = 0.25) -> "IzhikevichCell":
        """A neuron that shows one of the twenty patterns of `IZHIKEVICH_PRESETS`, from that pattern's resting state.

        **Raises:** `ValueError` for an unknown name, listing the known ones.
        """
        from ._izhikevich_presets import IZHIKEVICH_PRESETS

        if name not in IZHIKEVICH_PRESETS:
            raise ValueError(f"`name` must be one of {sorted(IZHIKEVICH_PRESETS)}; got {name!r}.")
        p = IZHIKEVICH_PRESETS[name]
        return cls(
            size,
            a=p.a,
            b=p.b,
            d=p.d,
            recovery_offset=p.recovery_offset,
            linear=p.linear,
            constant=p.constant,
            initial_membrane=p.initial_membrane,
            initial_recovery=p.initial_recovery,
            reset=ValueReset(p.c),
            dt=dt,
        )

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> IzhikevichState:
        """At `initial_membrane` and `initial_recovery`, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        return IzhikevichState(
            empty + resolve(self.initial_membrane, empty),
            empty + resolve(self.initial_recovery, empty),
            None if self.synapse is None else empty,
        )

    def threshold_of(self, state: IzhikevichState) -> Float[Array, "..."] | float:
        return resolve(self.threshold, state.membrane)

    def derivative(self, x: Float[Array, "..."], state: IzhikevichState) -> IzhikevichState:
        v, u = state.membrane, state.recovery
        rise = resolve(self.quadratic, v) * v**2 + resolve(self.linear, v) * v + resolve(self.constant, v) - u + x
        pull = resolve(self.a, v) * (resolve(self.b, v) * (v - resolve(self.recovery_offset, v)) - u)
        return IzhikevichState(rise, pull)

    def on_spike(
        self, state: IzhikevichState, spikes: Float[Array, "..."], threshold: Float[Array, "..."] | float
    ) -> IzhikevichState:
        recovery = state.recovery + resolve(self.d, state.recovery) * spikes
        return IzhikevichState(self.reset(state.membrane, spikes, threshold), recovery, state.current)
