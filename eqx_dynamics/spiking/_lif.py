"""One leaky integrate-and-fire neuron for six libraries' dialects."""

import math
from typing import Literal

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from .._chunks import step_by_step
from .._scan import AbstractScannable
from ._adaptation import AbstractAdaptation
from ._decay import AbstractDecay, AbstractInputGain, ConstantGain, EulerDecay, ExactDecay, LeakGain
from ._leak import SynapticCurrent, check_leak, leak, through_synapse
from ._neuron import AbstractNeuron, Input, as_size, check_input, check_neuron, out_dtype, zeros
from ._parallel import in_parallel, leaky_membranes
from ._parameter import ParameterLike, require_fits, resolve, tau_from_beta
from ._refractory import Refractory, freeze, hold
from ._reset import AbstractReset, NoReset, SubtractReset, ValueReset, check_threshold
from ._surrogate import AbstractStochasticSurrogate, AbstractSurrogate, Stretched, check_deterministic, spike, with_tie
from ._surrogate_curves import ATan, FastSigmoid, Sigmoid, Triangle
from ._units import Constant, Step, in_ms, number, plain


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
        if not detached or drawn or self.adaptation is not None or self.refractory is not None:
            return step_by_step(self, xs, state, key=key, unroll=unroll, reverse=reverse)
        if linear and in_parallel():
            check_input("LIFCell", xs[0], self.size, state.membrane)
            membranes, current = leaky_membranes(
                self, xs.astype(state.membrane.dtype), state.membrane, state.current, reverse=reverse
            )
            state = LIFState(membranes[0 if reverse else -1], current)
        else:
            step = lambda state, x: self._reset_silently(state, x)  # noqa: E731
            state, membranes = jax.lax.scan(step, state, xs, reverse=reverse, unroll=unroll)
        return out_dtype(xs, self.fire(LIFState(membranes))), state

    @jax.named_scope("eqx_dynamics.LIFCell")
    def _reset_silently(self, state: LIFState, x: Array) -> tuple[LIFState, Array]:
        """A step that puts out the membrane before its reset; the spikes that reset it are not differentiated."""
        new = self.integrate(check_input("LIFCell", x, self.size, state.membrane), state)
        threshold = self.threshold_of(new)
        spikes = spike(self.surrogate, jax.lax.stop_gradient(new.membrane - threshold))
        return self.on_spike(new, spikes, threshold), new.membrane

    @classmethod
    def like_snntorch(
        cls,
        size: int | tuple[int, ...],
        beta: ParameterLike = 0.9,
        *,
        alpha: ParameterLike | None = None,
        threshold: Constant = 1.0,
        reset_mechanism: Literal["subtract", "zero", "none"] = "subtract",
        reset_delay: bool = True,
        zero_after_input: bool = False,
        surrogate: AbstractSurrogate = ATan(2.0),
        dt: Step = 1.0,
    ) -> "LIFCell":
        r"""snnTorch's `Leaky`, and with `alpha` its `Synaptic`.

        $v \leftarrow \beta v + I - r \theta$ with $r$ the spikes of the step before, detached; ties do not fire.

        **Arguments:**

        - `beta`, `alpha`: decay factors per step of membrane and synapse, in (0, 1]; stored as time constants.
        - `reset_mechanism`, `reset_delay`, `threshold`: snnTorch's.
        - `zero_after_input`: a reset to zero also removes the input of its step, as in snnTorch's `RLeaky`, `Lapicque`
          and `Synaptic`; without it the membrane is zeroed first, as in `Leaky`.
        - `surrogate`: its rule for ties is set to snnTorch's.
        """
        timing = "after_decay" if zero_after_input else "before_decay"
        delayed: dict[str, AbstractReset] = {
            "subtract": SubtractReset(timing="after_decay"),
            "zero": ValueReset(timing=timing),
            "none": NoReset(),
        }
        at_once: dict[str, AbstractReset] = {
            "subtract": SubtractReset(timing="discounted", detach=False),
            "zero": ValueReset(timing="discounted", detach=False),
            "none": NoReset(),
        }
        return cls(
            size,
            tau_from_beta(beta, in_ms(dt)),
            threshold=threshold,
            reset=(delayed if reset_delay else at_once)[reset_mechanism],
            surrogate=with_tie(surrogate, ">"),
            input_gain=ConstantGain(),
            synapse=None if alpha is None else SynapticCurrent(tau_from_beta(alpha, in_ms(dt))),
            dt=dt,
        )

    @classmethod
    def like_norse(
        cls,
        size: int | tuple[int, ...],
        tau_mem: Constant = 10.0,
        tau_syn: Constant | None = 5.0,
        *,
        threshold: Constant = 1.0,
        v_reset: Constant = 0.0,
        v_leak: Constant = 0.0,
        reset_method: Literal["value", "subtract"] = "value",
        detach: bool = False,
        refractory: Refractory | None = None,
        adaptation: AbstractAdaptation | None = None,
        surrogate: AbstractSurrogate = FastSigmoid(1.0),
        dt: Step = 1.0,
    ) -> "LIFCell":
        r"""Norse's `LIF` (current based, forward Euler, reset in the same step), and with `tau_syn=None` its `LIFBox`.

        $v \leftarrow v + \frac{\Delta t}{\tau_{mem}} (v_{leak} - v + i)$; ties do not fire.

        **Arguments:**

        - `tau_mem`, `tau_syn`, `dt`: ms; Norse's inverse time constants of 100 and 200 Hz and its dt of 1 ms.
        - `detach`: Norse detaches the reset in its recurrent `lif_step` and `lsnn_step`, not in the feed-forward ones.
        - `refractory`: `Refractory(steps, differentiable=True)` for Norse's `lif_refrac`.
        - `surrogate`: Norse 1.1's `super` ignores its slope: it is `FastSigmoid(1.0)`. Ties are set to Norse's.
        """
        return cls(
            size,
            tau_mem,
            threshold=threshold,
            rest=v_leak,
            reset=ValueReset(v_reset, detach=detach) if reset_method == "value" else SubtractReset(detach=detach),
            surrogate=with_tie(surrogate, ">"),
            decay=EulerDecay(),
            synapse=None if tau_syn is None else SynapticCurrent(tau_syn, delayed=adaptation is not None),
            adaptation=adaptation,
            refractory=refractory,
            dt=dt,
        )

    @classmethod
    def like_spikingjelly(
        cls,
        size: int | tuple[int, ...],
        tau: Constant = 2.0,
        *,
        v_threshold: Constant = 1.0,
        v_reset: Constant | None = 0.0,
        decay_input: bool = True,
        detach_reset: bool = False,
        surrogate: AbstractSurrogate = Sigmoid(4.0),
    ) -> "LIFCell":
        """SpikingJelly's `LIFNode`; with `tau=Positive(2.0, lower=1.0)` its `ParametricLIFNode`.

        Charge, fire and reset in one step; ties fire; the recorded membrane is the one after the reset.

        **Arguments:**

        - `tau`: time constant in steps (`dt` is 1).
        - `v_reset`: reset value, also the resting membrane; None for a soft reset.
        - `decay_input`, `detach_reset`: SpikingJelly's.
        """
        return cls(
            size,
            tau,
            threshold=v_threshold,
            rest=0.0 if v_reset is None else v_reset,
            reset=SubtractReset(detach=detach_reset) if v_reset is None else ValueReset(v_reset, detach=detach_reset),
            surrogate=with_tie(surrogate, ">="),
            decay=EulerDecay(),
            input_gain=LeakGain() if decay_input else ConstantGain(),
        )

    @classmethod
    def like_spyx(
        cls,
        size: int | tuple[int, ...],
        beta: ParameterLike = 0.9,
        *,
        alpha: ParameterLike | None = None,
        threshold: Constant = 1.0,
        adaptation: AbstractAdaptation | None = None,
        surrogate: AbstractSurrogate = FastSigmoid(25.0),
        dt: Step = 1.0,
    ) -> "LIFCell":
        r"""spyx's `LIF`, with `alpha` its `CuBaLIF`, with a `ThresholdAdaptation` its `ALIF`.

        The spikes put out are those of the membrane before the step: the output lags one step. Ties do not fire.

        **Arguments:** `beta`, `alpha`: decay factors per step, in (0, 1]; `threshold`: as spyx's; `adaptation`: for
        `ALIF`, `ThresholdAdaptation(tau_from_beta(gamma), increment=1 - gamma, in_reset=True)`.
        """
        return cls(
            size,
            tau_from_beta(beta, in_ms(dt)),
            threshold=threshold,
            reset=SubtractReset(timing="after_decay" if alpha is None else "before_decay", detach=False, emit="old"),
            surrogate=with_tie(surrogate, ">"),
            input_gain=ConstantGain(),
            synapse=None if alpha is None else SynapticCurrent(tau_from_beta(alpha, in_ms(dt))),
            adaptation=adaptation,
            dt=dt,
        )

    @classmethod
    def like_brainstate(
        cls,
        size: int | tuple[int, ...],
        tau: Constant = 5.0,
        *,
        v_threshold: Step = 1.0,
        v_reset: Step = 0.0,
        v_rest: Constant = 0.0,
        resistance: Constant = 1.0,
        tau_ref: Step | None = None,
        reset: Literal["soft", "hard"] = "soft",
        synapse: SynapticCurrent | None = None,
        adaptation: AbstractAdaptation | None = None,
        surrogate: AbstractSurrogate = Triangle(0.3, 1.0),
        dt: Step = 0.1,
    ) -> "LIFCell":
        r"""BrainState's `LIF` (`brainpy.state.LIF`), with `tau_ref` its `LIFRef`.

        The reset acts at the start of the next step, so that it decays with the membrane; its gradient is kept (soft)
        or passed on past the reset (hard). The surrogate sees $(v - \theta) / (\theta - v_{reset})$; ties fire.

        **Arguments:** `tau`, `tau_ref`, `dt`: ms; `v_threshold`, `v_reset`, `v_rest`: mV; `resistance`: Ohm, for a
        current in mA.
        """
        steps = 0 if tau_ref is None else math.ceil(round(in_ms(tau_ref) / in_ms(dt), 6)) - 1
        threshold, base = number(v_threshold, "mV"), number(v_reset, "mV")
        return cls(
            size,
            tau,
            threshold=threshold,
            rest=v_rest,
            reset=SubtractReset(base, timing="before_decay", detach=False)
            if reset == "soft"
            else ValueReset(base, timing="before_decay", detach=False, keep_gradient=True),
            surrogate=Stretched(with_tie(surrogate, ">="), threshold - base),
            input_gain=LeakGain(resistance),
            synapse=synapse,
            adaptation=adaptation,
            refractory=Refractory(steps, silent=False) if steps > 0 else None,
            dt=dt,
        )

    @classmethod
    def like_jaxpike(
        cls,
        size: int | tuple[int, ...],
        tau: Constant = 20.0,
        *,
        threshold: Constant = 1.0,
        reset: Literal["subtract", "zero"] = "subtract",
        adaptation: AbstractAdaptation | None = None,
        surrogate: AbstractSurrogate = FastSigmoid(25.0),
        dt: Step = 1.0,
    ) -> "LIFCell":
        """jaxpike's `LIF`: exact decay, input times one minus the decay, reset in the same step with its gradient.

        **Arguments:** `tau`, `dt`: ms (`Positive(20.0)` is learned as there); the rest as jaxpike's. Ties do not fire.
        """
        return cls(
            size,
            tau,
            threshold=threshold,
            reset=SubtractReset(detach=False) if reset == "subtract" else ValueReset(detach=False),
            surrogate=with_tie(surrogate, ">"),
            adaptation=adaptation,
            dt=dt,
        )


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
