"""One leaky integrate-and-fire neuron for six libraries' dialects."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ._adaptation import AbstractAdaptation
from ._decay import AbstractDecay, AbstractInputGain, ExactDecay, LeakGain
from ._leak import SynapticCurrent, check_leak, leak, through_synapse
from ._neuron import AbstractNeuron, as_size, check_input, check_neuron, out_dtype, zeros
from ._parameter import ParameterLike, concrete, require, require_fits, resolve
from ._reset import AbstractReset, SubtractReset, ValueReset
from ._surrogate import AbstractSurrogate, spike
from ._surrogate_curves import FastSigmoid


class Refractory(eqx.Module):
    """After a spike the membrane is held, and cannot fire, for a number of steps.

    **Arguments:**

    - `steps`: how many steps; a refractory time in ms is `round(time / dt)` (one less for BrainState's `LIFRef`, which
      counts the spiking step).
    - `differentiable`: let the surrogate see the countdown, as Norse does; otherwise it is a constant for gradients.
    """

    steps: int = eqx.field(static=True)
    differentiable: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1; got {self.steps}. Use `refractory=None` for none.")


class LIFState(eqx.Module):
    """State of `LIFCell`; absent parts are None."""

    membrane: Float[Array, "..."]  # mV, or in units of the threshold
    current: Float[Array, "..."] | None = None
    adaptation: Float[Array, "..."] | None = None
    countdown: Float[Array, "..."] | None = None  # steps left of the refractory period


class LIFCell(AbstractNeuron[LIFState]):
    r"""Leaky integrate-and-fire: $v \leftarrow v_{rest} + \beta (v - v_{rest}) + g I$, spike at $v \ge \theta$, reset.

    $\beta = e^{-\Delta t / \tau_{mem}}$ and $g = 1 - \beta$ by default. Every meaning that libraries give these words
    is an option: `docs/spiking.md` has the table, and the `like_...` constructors set them.
    """

    tau_mem: ParameterLike  # ms
    threshold: ParameterLike  # mV
    rest: ParameterLike  # mV
    reset: AbstractReset
    surrogate: AbstractSurrogate
    decay: AbstractDecay
    input_gain: AbstractInputGain
    synapse: SynapticCurrent | None
    adaptation: AbstractAdaptation | None
    refractory: Refractory | None
    dt: float  # ms
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, ...],
        tau_mem: ParameterLike = 20.0,
        *,
        threshold: ParameterLike = 1.0,
        rest: ParameterLike = 0.0,
        reset: AbstractReset = SubtractReset(),
        surrogate: AbstractSurrogate = FastSigmoid(),
        decay: AbstractDecay = ExactDecay(),
        input_gain: AbstractInputGain = LeakGain(),
        synapse: SynapticCurrent | None = None,
        adaptation: AbstractAdaptation | None = None,
        refractory: Refractory | None = None,
        dt: float | int = 1.0,
    ):
        r"""**Arguments:**

        - `size`: number of neurons, or the shape of a sheet of them such as `(channels, height, width)`.
        - `tau_mem`: membrane time constant, ms. A number is fixed, a JAX array is learned, `Positive(20.0)` is learned
          and stays positive; one value, or one per neuron. `math.inf` does not leak.
        - `threshold`: membrane that fires, mV. `rest`: membrane that the leak pulls towards, mV.
        - `reset`: `SubtractReset`, `ValueReset` (to zero or another value) or `NoReset`, with its timing.
        - `surrogate`: the derivative of a spike, and whether ties fire.
        - `decay`: `ExactDecay` or `EulerDecay`, for membrane and synapse.
        - `input_gain`: `LeakGain`, `ConstantGain` or `RateGain`.
        - `synapse`: None, or a `SynapticCurrent` through which the input passes.
        - `adaptation`: None, `ThresholdAdaptation` or `CurrentAdaptation` (adaptive LIF, LSNN).
        - `refractory`: None, or a `Refractory` period.
        - `dt`: length of a step, ms.

        **Raises:** `ValueError` for a time constant or `dt` that is not positive, a `dt` beyond the Euler bound, a
        threshold that is not above `rest` and the reset, or constants that do not fit `size`.
        """
        self.size = as_size(size)
        self.tau_mem, self.threshold, self.rest = tau_mem, threshold, rest
        self.reset, self.surrogate, self.decay, self.input_gain = reset, surrogate, decay, input_gain
        self.synapse, self.adaptation, self.refractory = synapse, adaptation, refractory
        self.dt = float(dt)

    def __check_init__(self):
        check_neuron(self.size, self.reset, self.surrogate)
        check_leak(self.size, self.tau_mem, self.rest, self.decay, self.synapse, self.dt)
        require_fits(self.threshold, "threshold", self.size)
        check_threshold(self.threshold, self.rest, self.reset)
        if self.adaptation is not None:
            self.adaptation.check(self.dt, self.decay, self.size)
        if self.refractory is not None and (self.reset.timing in ("after_decay", "discounted")):
            raise ValueError(
                f'`refractory` needs a reset `timing` of "after_spike" or "before_decay"; got "{self.reset.timing}".'
            )

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> LIFState:
        """The membrane at rest and everything else at zero, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        return LIFState(
            membrane=empty + resolve(self.rest, empty),
            current=None if self.synapse is None else empty,
            adaptation=None if self.adaptation is None else empty,
            countdown=None if self.refractory is None else empty,
        )

    def integrate(self, x: Float[Array, "..."], state: LIFState) -> LIFState:
        drive, current = through_synapse(x, state.current, self.synapse, self.decay, self.dt)
        adaptation = state.adaptation
        if self.adaptation is not None and adaptation is not None:
            drive = self.adaptation.drive(drive, adaptation)
            adaptation = self.adaptation.relax(adaptation, self.dt, self.decay)
        membrane = leak(drive, state.membrane, self.tau_mem, self.rest, self.decay, self.input_gain, self.dt)
        return LIFState(membrane, current, adaptation, state.countdown)

    def threshold_of(self, state: LIFState) -> Float[Array, "..."] | float:
        threshold = resolve(self.threshold, state.membrane)
        if self.adaptation is None or state.adaptation is None:
            return threshold
        return self.adaptation.threshold(threshold, state.adaptation)

    def on_spike(
        self, state: LIFState, spikes: Float[Array, "..."], threshold: Float[Array, "..."] | float
    ) -> LIFState:
        adaptation = state.adaptation
        if self.adaptation is not None and adaptation is not None:
            adaptation = self.adaptation.jump(adaptation, spikes)
            if not self.adaptation.in_reset:
                threshold = resolve(self.threshold, state.membrane)
        return LIFState(self.reset(state.membrane, spikes, threshold), state.current, adaptation, state.countdown)

    @jax.named_scope("eqx_dynamics.LIFCell")
    def __call__(
        self,
        x: Float[Array, "..."] | Int[Array, "..."] | Bool[Array, "..."],
        state: LIFState,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "..."], LIFState]:
        """One step.

        **Arguments:**

        - `x`: input current (or input spikes already weighted), shape `(*batch, *size)`.
        - `state`: the state before the step.
        - `key`: for a stochastic surrogate.

        **Returns:** spikes, 0. or 1., shape of `x`; and the state after the step.
        """
        inputs = check_input("LIFCell", x, self.size, state.membrane)
        spikes, start, new = self.advance(inputs, state, key=key)
        if self.refractory is not None and state.countdown is not None:
            spikes, new = _hold(self.refractory, self.surrogate, spikes, start, new, state.countdown)
        return out_dtype(x, spikes), new


def _hold(
    refractory: Refractory,
    surrogate: AbstractSurrogate,
    spikes: Array,
    start: LIFState,
    new: LIFState,
    countdown: Array,
) -> tuple[Array, LIFState]:
    if refractory.differentiable:
        held = spike(surrogate, countdown)
        membrane, spikes = (1 - held) * new.membrane + held * start.membrane, (1 - held) * spikes
        countdown = (1 - spikes) * jax.nn.relu(countdown - held) + spikes * refractory.steps
    else:
        waiting = countdown > 0
        membrane, spikes = jnp.where(waiting, start.membrane, new.membrane), jnp.where(waiting, 0, spikes)
        countdown = jnp.where(spikes > 0, refractory.steps, jnp.maximum(countdown - 1, 0)).astype(countdown.dtype)
    return spikes, LIFState(membrane, new.current, new.adaptation, countdown)


def check_threshold(threshold: ParameterLike, rest: ParameterLike, reset: AbstractReset) -> None:
    """Raise a `ValueError` for a threshold that is NaN, or not above the rest and the reset."""
    require(threshold, "threshold", unit="mV")
    value = concrete(threshold)
    floors: dict[str, ParameterLike] = {"rest": rest}
    if isinstance(reset, SubtractReset):
        floors["reset.base"] = reset.base
    if isinstance(reset, ValueReset):
        floors["reset.value"] = reset.value
    for name, floor in floors.items():
        known = concrete(floor)
        if value is not None and known is not None and (value <= known).any():
            raise ValueError(
                f"`threshold` must be above `{name}`, or the neuron fires for ever; got threshold={value.min():g} mV "
                f"and {name}={known.max():g} mV."
            )
