"""Neurons that prefer a frequency."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._neuron import AbstractNeuron, Input, as_size, check_input, check_neuron, out_dtype, zeros
from ._ode_neuron import check_parameters
from ._parameter import ParameterLike, concrete, require, require_step, resolve
from ._reset import AbstractReset, NoReset, ValueReset, check_threshold
from ._surrogate import AbstractSurrogate
from ._surrogate_curves import FastSigmoid
from ._units import in_ms, in_unit


class ResonateState(eqx.Module):
    """State of `ResonateAndFireCell`: a point turning in the plane."""

    current: Float[Array, "..."]  # real part
    membrane: Float[Array, "..."]  # imaginary part


class ResonateAndFireCell(AbstractNeuron[ResonateState]):
    r"""Resonate-and-fire: $\dot z = (-1/\tau + i \omega) z + I$, spike where $\mathrm{Im}\, z \ge \theta$.

    $\omega = 2 \pi f / 1000$ for a `frequency` $f$ in Hz. The step is exact: rotate by $\omega \Delta t$, shrink by
    $e^{-\Delta t/\tau}$, then add the input to the real part. A spike sets the current to zero and the
    membrane to the reset's value: `ValueReset(1.0)` is Izhikevich's $z \leftarrow i$.

    ??? cite "Reference"
        Izhikevich, Resonate-and-fire neurons, Neural Networks 2001, eq. 2.
    """

    size: tuple[int, ...] = eqx.field(static=True, converter=as_size)
    tau_mem: ParameterLike = eqx.field(default=50.0, converter=in_unit("ms"))
    frequency: ParameterLike = eqx.field(default=40.0, converter=in_unit("Hz"))
    threshold: ParameterLike = eqx.field(default=1.0, converter=in_unit("mV"))
    reset: AbstractReset = ValueReset(0.0)
    surrogate: AbstractSurrogate = FastSigmoid(5.0)
    dt: float = eqx.field(default=1.0, converter=in_ms)

    def __check_init__(self):
        check_neuron(self.reset, self.surrogate)
        require_step(self.dt)
        # Half a turn a step is the fastest rotation that steps of this length can tell.
        require(
            self.frequency,
            "frequency",
            least=0.0,
            up_to=500.0 / self.dt,
            unit="Hz",
            remedy="Use a smaller `dt` for faster ones.",
        )
        check_parameters("ResonateAndFireCell", self, self.size)
        check_threshold(self.threshold, 0.0, NoReset())
        threshold = concrete(self.threshold)
        level = concrete(self.reset.value) if isinstance(self.reset, ValueReset) else None
        # At threshold, where Izhikevich puts it, the first turn takes it below.
        if threshold is not None and level is not None and (threshold < level).any():
            raise ValueError(
                f"`threshold` must not be below `reset.value`, or the neuron fires for ever; got "
                f"threshold={threshold.min():g} mV and reset.value={level.max():g} mV."
            )

    @property
    def keeps_membranes(self) -> bool:
        """True: besides the membrane a step is a few products and sums."""
        return True

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> ResonateState:
        """At rest, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        return ResonateState(empty, empty)

    def threshold_of(self, state: ResonateState) -> Float[Array, "..."] | float:
        return resolve(self.threshold, state.membrane)

    def integrate(self, x: Float[Array, "..."], state: ResonateState) -> ResonateState:
        keep = jnp.exp(-self.dt / resolve(self.tau_mem, x))
        angle = 2 * jnp.pi / 1000 * self.dt * resolve(self.frequency, x)
        cosine, sine = keep * jnp.cos(angle), keep * jnp.sin(angle)
        return ResonateState(
            cosine * state.current - sine * state.membrane + x, sine * state.current + cosine * state.membrane
        )

    def on_spike(
        self, state: ResonateState, spikes: Float[Array, "..."], threshold: Float[Array, "..."] | float
    ) -> ResonateState:
        kept = 1 - (jax.lax.stop_gradient(spikes) if self.reset.detach else spikes)
        return ResonateState(kept * state.current, self.reset(state.membrane, spikes, threshold))

    @jax.named_scope("eqx_dynamics.ResonateAndFireCell")
    def __call__(
        self, x: Input, state: ResonateState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], ResonateState]:
        """One step: input `(*batch, *size)` to spikes of the same shape, 0. or 1., and the new state."""
        drive = check_input("ResonateAndFireCell", x, self.size, state.membrane)
        spikes, _, new = self.advance(drive, state, key=key)
        return out_dtype(x, spikes), new
