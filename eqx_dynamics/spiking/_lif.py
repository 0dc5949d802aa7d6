"""One leaky integrate-and-fire neuron for six libraries' dialects."""

import math

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from .._chunks import step_by_step
from .._scan import AbstractScannable
from . import _lif_dialects
from ._adaptation import AbstractAdaptation
from ._decay import AbstractDecay, AbstractInputGain, ConstantGain, ExactDecay, LeakGain
from ._leak import SynapticCurrent, check_leak, leak, through_synapse
from ._membranes import excess_over
from ._neuron import AbstractNeuron, Input, as_size, check_input, check_neuron, out_dtype, zeros
from ._parallel import in_parallel, leaky_membranes
from ._parameter import ParameterLike, require_fits, require_part_fits, resolve
from ._refractory import Refractory, freeze, hold
from ._reset import AbstractReset, NoReset, SubtractReset, check_threshold
from ._surrogate import AbstractStochasticSurrogate, AbstractSurrogate, check_deterministic, spike
from ._surrogate_curves import FastSigmoid
from ._units import Constant, Step, in_ms, plain


class LIFState(eqx.Module):
    """State of `LIFCell`; absent parts are None."""

    membrane: Float[Array, "..."] = eqx.field(metadata={"unit": "mV"})
    current: Float[Array, "..."] | None = eqx.field(default=None, metadata={"unit": "mA"})
    adaptation: Float[Array, "..."] | None = None
    countdown: Float[Array, "..."] | None = None  # steps left of the refractory period


class LIFCell(AbstractNeuron[LIFState], AbstractScannable[LIFState]):
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
        tau_mem: Constant = 20.0,
        *,
        threshold: Constant = 1.0,
        rest: Constant = 0.0,
        reset: AbstractReset = SubtractReset(),
        surrogate: AbstractSurrogate = FastSigmoid(),
        decay: AbstractDecay = ExactDecay(),
        input_gain: AbstractInputGain = LeakGain(),
        synapse: SynapticCurrent | None = None,
        adaptation: AbstractAdaptation | None = None,
        refractory: Refractory | None = None,
        dt: Step = 1.0,
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
        self.tau_mem, self.threshold, self.rest = plain(tau_mem, "ms"), plain(threshold, "mV"), plain(rest, "mV")
        self.reset, self.surrogate, self.decay, self.input_gain = reset, surrogate, decay, input_gain
        self.synapse, self.adaptation, self.refractory = synapse, adaptation, refractory
        self.dt = in_ms(dt)

    def __check_init__(self):
        check_neuron(self.reset, self.surrogate)
        check_leak(self)
        require_fits(self.threshold, "threshold", self.size)
        check_threshold(self.threshold, self.rest, self.reset)
        require_part_fits(self.reset, "reset", self.size)
        if self.adaptation is not None:
            self.adaptation.check(self.dt, self.decay, self.size)
        if self.refractory is not None and self.refractory.differentiable:
            check_deterministic(self.surrogate, "LIFCell with a differentiable refractory period")
        if self.refractory is not None and (self.reset.timing in ("after_decay", "discounted")):
            raise ValueError(
                f'`refractory` needs a reset `timing` of "after_spike" or "before_decay"; got "{self.reset.timing}".'
            )

    @property
    def keeps_membranes(self) -> bool:
        """True: besides the membrane a step is a few products and sums."""
        return True

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
        membrane = leak(self, drive, state.membrane)
        membrane = freeze(self.refractory, state.membrane, membrane, state.countdown)
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
        x: Input,
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
            spikes, membrane, countdown = hold(
                self.refractory, self.surrogate, spikes, start.membrane, new.membrane, state.countdown
            )
            new = LIFState(membrane, new.current, new.adaptation, countdown)
        return out_dtype(x, spikes), new

    def scan_over(
        self,
        xs: Input,
        state: LIFState,
        *,
        key: Key[Array, "..."] | None,
        unroll: int,
        reverse: bool,
    ) -> tuple[Float[Array, "..."], LIFState]:
        """All steps.

        If no gradient passes through the spikes that reset, the loop only carries membranes, and the spikes and slopes
        of all steps are one operation; without a reset the membranes are an associative scan on accelerators.
        """
        linear = isinstance(self.reset, NoReset)
        detached = self.reset.timing == "after_spike" and (self.reset.detach or linear)
        drawn = isinstance(self.surrogate, AbstractStochasticSurrogate)
        if not detached or drawn or self.adaptation is not None or self.refractory is not None or not xs.shape[0]:
            return step_by_step(self, xs, state, key=key, unroll=unroll, reverse=reverse)
        check_input("LIFCell", xs[0], self.size, state.membrane)
        inputs = xs.astype(state.membrane.dtype)
        if linear and in_parallel():
            membranes, current = leaky_membranes(self, inputs, state.membrane, state.current, reverse=reverse)
            spikes = self.fire(LIFState(membranes))
            return out_dtype(xs, spikes), LIFState(membranes[0 if reverse else -1], current)
        excess, membrane, current = excess_over(
            self, inputs, state.membrane, state.current, unroll=unroll, reverse=reverse
        )
        return out_dtype(xs, spike(self.surrogate, excess)), LIFState(membrane, current)

    like_snntorch = classmethod(_lif_dialects.like_snntorch)
    like_norse = classmethod(_lif_dialects.like_norse)
    like_spikingjelly = classmethod(_lif_dialects.like_spikingjelly)
    like_spyx = classmethod(_lif_dialects.like_spyx)
    like_brainstate = classmethod(_lif_dialects.like_brainstate)
    like_jaxpike = classmethod(_lif_dialects.like_jaxpike)


def integrate_and_fire(
    size: int | tuple[int, ...],
    *,
    threshold: Constant = 1.0,
    reset: AbstractReset = SubtractReset(),
    surrogate: AbstractSurrogate = FastSigmoid(),
    refractory: Refractory | None = None,
    dt: Step = 1.0,
) -> LIFCell:
    r"""The neuron that does not leak (IF): $v \leftarrow v + I$. A `LIFCell` with an infinite time constant.

    **Arguments:** as for `LIFCell`. **Returns:** the cell.
    """
    return LIFCell(
        size,
        math.inf,
        threshold=threshold,
        reset=reset,
        surrogate=surrogate,
        input_gain=ConstantGain(),
        refractory=refractory,
        dt=dt,
    )
