"""Six libraries' leaky integrate-and-fire neurons, as options of `LIFCell`."""

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

from ._adaptation import AbstractAdaptation
from ._decay import ConstantGain, EulerDecay, LeakGain
from ._leak import SynapticCurrent
from ._parameter import ParameterLike, require_step, tau_from_beta
from ._refractory import Refractory
from ._reset import AbstractReset, NoReset, SubtractReset, ValueReset, check_threshold
from ._surrogate import AbstractSurrogate, Stretched, with_tie
from ._surrogate_curves import ATan, FastSigmoid, Sigmoid, Triangle
from ._units import Constant, Step, in_ms, number


if TYPE_CHECKING:
    import eqx_dynamics.spiking._lif  # It imports this file: each function below is a class method of `LIFCell`.

Cell: TypeAlias = "eqx_dynamics.spiking._lif.LIFCell"


def like_snntorch(
    cls: type[Cell],
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
) -> Cell:
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


def like_norse(
    cls: type[Cell],
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
) -> Cell:
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


def like_spikingjelly(
    cls: type[Cell],
    size: int | tuple[int, ...],
    tau: Constant = 2.0,
    *,
    v_threshold: Constant = 1.0,
    v_reset: Constant | None = 0.0,
    decay_input: bool = True,
    detach_reset: bool = False,
    surrogate: AbstractSurrogate = Sigmoid(4.0),
) -> Cell:
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


def like_spyx(
    cls: type[Cell],
    size: int | tuple[int, ...],
    beta: ParameterLike = 0.9,
    *,
    alpha: ParameterLike | None = None,
    threshold: Constant = 1.0,
    adaptation: AbstractAdaptation | None = None,
    surrogate: AbstractSurrogate = FastSigmoid(25.0),
    dt: Step = 1.0,
) -> Cell:
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


def like_brainstate(
    cls: type[Cell],
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
) -> Cell:
    r"""BrainState's `LIF` (`brainpy.state.LIF`), with `tau_ref` its `LIFRef`.

    The reset acts at the start of the next step, so that it decays with the membrane; its gradient is kept (soft)
    or passed on past the reset (hard). The surrogate sees $(v - \theta) / (\theta - v_{reset})$; ties fire.

    **Arguments:** `tau`, `tau_ref`, `dt`: ms; `v_threshold`, `v_reset`, `v_rest`: mV; `resistance`: Ohm, for a
    current in mA.

    !!! note
        The state starts at `v_rest`, BrainState's at its `V_initializer`, which is 0 mV unless given. BrainState
        compares times in float32 to know whether a neuron is refractory: where `tau_ref` is a multiple of a `dt` such
        as 0.1 ms, rounding there adds a step now and then, here never.
    """
    require_step(in_ms(dt))
    steps = 0 if tau_ref is None else math.ceil(round(in_ms(tau_ref) / in_ms(dt), 6)) - 1
    threshold, base = number(v_threshold, "mV"), number(v_reset, "mV")
    soft = SubtractReset(base, timing="before_decay", detach=False)
    check_threshold(threshold, None, soft)  # Before the surrogate is stretched by their difference.
    return cls(
        size,
        tau,
        threshold=threshold,
        rest=v_rest,
        reset=soft if reset == "soft" else ValueReset(base, timing="before_decay", detach=False, keep_gradient=True),
        surrogate=Stretched(with_tie(surrogate, ">="), threshold - base),
        input_gain=LeakGain(resistance),
        synapse=synapse,
        adaptation=adaptation,
        refractory=Refractory(steps, silent=False) if steps > 0 else None,
        dt=dt,
    )


def like_jaxpike(
    cls: type[Cell],
    size: int | tuple[int, ...],
    tau: Constant = 20.0,
    *,
    threshold: Constant = 1.0,
    reset: Literal["subtract", "zero"] = "subtract",
    adaptation: AbstractAdaptation | None = None,
    surrogate: AbstractSurrogate = FastSigmoid(25.0),
    dt: Step = 1.0,
) -> Cell:
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
