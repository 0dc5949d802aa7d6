"""Our presets for the spiking reference cases: which cell, with which parameters, stands for each library's.

A case is known by the beginning of its name or else by its library's class. Its constants are read from the manifest:
from `params`, from the equation (`th=.9`, `dt*100*((0-v)+i)`), or else from the trace.
"""

import functools as ft
import math
import re
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import eqx_dynamics.spiking as sp
from eqx_dynamics import AbstractCell, Recorded, scan
from reference_snn_case import NUMBER, Case
from reference_snn_surrogates import curves, surrogate_of
from reference_snn_toolbox import TOOLBOX


Params = dict[str, Any]
Run = Callable[[Params], dict[str, Array]]
Mechanism = Literal["subtract", "zero", "none"]


def build(name: str, entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> Run | None:
    """How a case of the manifest is computed here, or None if nothing here corresponds (the case is then skipped).

    **Returns:** a function from the arrays named `p_*` (keys without `p_`; among them the input `x`, time-major) to
    arrays under the file's own keys. Cases with `p_*` must return `spk` and every `s_*`; the runner differentiates
    $\\sum A\\,\\mathrm{spk} + \\sum C\\,s$ and compares outputs and every `g_*`. Of other cases it compares what is
    returned.
    """
    library, *classes = re.findall(r"[A-Za-z_]+", str(entry["lib"]))
    params = entry["params"] if isinstance(entry.get("params"), dict) else {}
    surrogate = surrogate_of(str(entry.get("surrogate", "none")), library)
    case = Case(name, str(entry.get("equation", "")), params, surrogate or sp.ATan(), arrays)
    if name.startswith("surr_"):
        return ft.partial(_curves, library, entry, arrays)
    tool = _kind(name, TOOLBOX)
    if tool is not None and "p_W" not in arrays:
        return lambda p: TOOLBOX[tool](case)
    if name.startswith("st_stateleaky"):
        return ft.partial(_stateleaky, arrays)
    if name == "seed_brainstate_2024":
        return ft.partial(_seed, arrays)
    kind = _kind(name, CELLS) or next((CLASSES[c] for c in classes if c in CLASSES), None)
    if kind is None or surrogate is None or "p_W" not in arrays or "mem_key" not in entry:
        return None
    return ft.partial(_run, CELLS[kind], case)


def _kind(name: str, known: dict[str, Any]) -> str | None:
    """The longest known name that this one begins with: `st_leaky_zero_sigmoid` is a kind of `st_leaky`."""
    return max((kind for kind in known if name == kind or name.startswith(f"{kind}_")), key=len, default=None)


def _run(make: Callable, case: Case, p: Params) -> dict[str, Array]:
    arrays, p = case.arrays, {name: jnp.asarray(value) for name, value in p.items()}
    made = make(p, case)
    cell, view, state = made if len(made) == 3 else (*made, None)
    current = p["x"] @ p["W"].T + p["b"][None, None]
    state = cell.init_state(current.shape[1:2]) if state is None else state(current.shape[1:2])
    (spikes, states), _ = scan(Recorded(cell), current, state)
    views = view(states, spikes)
    return {"spk": spikes} | {f"s_{key}": value for key, value in views.items() if f"s_{key}" in arrays}


def _threshold(case: Case, *candidates: float, lag: int = 0) -> float:
    """The threshold as written, or else the first candidate, or the shortest decimal, between the membranes that
    fired and those that did not."""
    written = case.written("th")
    if written is not None:
        return written
    membrane, fired = case.arrays["s_mem"], case.arrays["spk"] > 0
    membrane, fired = (membrane[:-lag], fired[lag:]) if lag else (membrane, fired)
    low, high = membrane[~fired].max(initial=-np.inf), membrane[fired].min(initial=np.inf)
    decimals = (round(low + (high - low) / 2, digits) for digits in range(1, 6) if np.isfinite(high - low))
    return float(next((c for c in (*candidates, *decimals) if low <= c < high), candidates[0]))


def _mem(states: Any, spikes: Array) -> dict[str, Array]:
    return {"mem": states.membrane, "V": states.membrane, "v": states.membrane}


def _with(**views: Callable[[Any], Array]) -> Callable[[Any, Array], dict[str, Array]]:
    return lambda states, spikes: _mem(states, spikes) | {key: view(states) for key, view in views.items()}


def _fed_back(p: Params, cell: sp.AbstractNeuron, view: Callable) -> tuple[AbstractCell, Callable]:
    """The cell with the feedback that the parameters have, if any, and the view of its own states."""
    if "V" not in p and "Vd" not in p:
        return cell, view
    return sp.Recurrent(cell, _feedback(p)), lambda states, spikes: view(states.cell, spikes)


def _feedback(p: Params) -> Callable[[Array], Array]:
    if "Vd" in p:
        return sp.OneToOne(p["Vd"])
    size = p["V"].shape[0]
    linear = eqx.nn.Linear(size, size, use_bias="bV" in p, key=jax.random.key(0))
    where = (lambda m: [m.weight, m.bias]) if "bV" in p else (lambda m: [m.weight])
    return eqx.tree_at(where, linear, [p["V"], p["bV"]] if "bV" in p else [p["V"]])


def _syn(states: Any) -> Array:
    return states.current


# snnTorch


def _mechanism(case: Case) -> Mechanism:
    """What the name says, or else the equation."""
    for token in case.name.split("_"):
        if token in ("subtract", "zero", "none"):
            return "zero" if token == "zero" else "none" if token == "none" else "subtract"
    return "zero" if "1-reset" in case.equation else "subtract" if "reset*th" in case.equation else "none"


def _snntorch(*, beta: float, alpha: float | None = None, thresholds: tuple[float, ...], zero_after: bool) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        cell = sp.LIF.like_snntorch(
            case.size,
            p.get("beta", case.number("beta", beta)),
            alpha=None if alpha is None else p.get("alpha", case.number("alpha", alpha)),
            threshold=p.get("threshold", _threshold(case, *thresholds)),
            reset_mechanism=_mechanism(case),
            reset_delay="nodelay" not in case.name and "reset_delay=False" not in case.equation,
            zero_after_input=zero_after,
            surrogate=case.surrogate,
        )
        return _fed_back(p, cell, _mem if alpha is None else _with(syn=_syn))

    return make


def _alpha(p: Params, case: Case) -> tuple:
    slow, fast = (
        sp.tau_from_beta(p.get(key, case.number(key, value))) for key, value in (("alpha", 0.9), ("beta", 0.8))
    )
    theta = p.get("threshold", case.number("th", 0.6))
    options: dict[str, Any] = {"threshold": theta, "reset_mechanism": _mechanism(case), "surrogate": case.surrogate}
    cell = sp.AlphaCell(case.size, slow, fast, **options)
    return cell, _with(syn_exc=lambda s: s.excitation, syn_inh=lambda s: s.inhibition)


def _lapicque(p: Params, case: Case) -> tuple:
    resistance, capacitance = case.number("R", 2.0), case.number("C", 2.5)
    resets: dict[Mechanism, sp.AbstractReset] = {
        "subtract": sp.SubtractReset(timing="after_decay"),
        "zero": sp.ValueReset(timing="after_decay"),
        "none": sp.NoReset(),
    }
    cell = sp.LIFCell(
        case.size,
        resistance * capacitance,
        threshold=p.get("threshold", case.number("th", 0.8)),
        reset=resets[_mechanism(case)],
        surrogate=case.surrogate,
        decay=sp.EulerDecay(),
        input_gain=sp.RateGain(resistance),
        dt=case.number("dt", 1.0),
    )
    return cell, _mem


def _stateleaky(arrays: dict[str, np.ndarray], p: Params) -> dict[str, Array]:
    x, amount, weight = (jnp.asarray(arrays[key]) for key in ("x", "A", "C"))
    # snnTorch turns beta into tau = 1 / (1 - beta), so that the decay is exp(beta - 1): recovered from the trace.
    current = arrays["x"] @ arrays["W"].T + arrays["b"]
    before, after = arrays["mem"][:-1], arrays["mem"][1:] - current[1:]
    decay = np.sum(before * after, axis=(0, 1)) / np.sum(before * before, axis=(0, 1))
    cell = sp.LIFCell(
        current.shape[-1],
        jnp.asarray(-1 / np.log(decay)),
        threshold=_threshold(Case("", "", {}, sp.ATan(), {"s_mem": arrays["mem"], "spk": arrays["spk"]}), 0.9, 1.0),
        reset=sp.NoReset(),
        surrogate=sp.ATan(2.0, tie=">"),
        input_gain=sp.ConstantGain(),
    )

    def loss(parameters: tuple[Array, Array]) -> tuple[Array, dict[str, Array]]:
        current = x @ parameters[0].T + parameters[1][None, None]
        (spikes, states), _ = scan(Recorded(cell), current, cell.init_state(current.shape[1:2]))
        total = jnp.sum(amount * spikes) + jnp.sum(weight * states.membrane)
        return total, {"spk": spikes, "mem": states.membrane}

    parameters = (jnp.asarray(arrays["W"]), jnp.asarray(arrays["b"]))
    (value, out), grads = jax.value_and_grad(loss, has_aux=True)(parameters)
    return out | {"loss": value, "g_W": grads[0], "g_b": grads[1]}


# Norse: inverse time constants in 1/s, steps in s


def _norse_membrane(case: Case) -> dict[str, Any]:
    return {
        "tau_mem": 1000 / case.number("tau_mem_inv", case.match(r"dt\*#\*\(\(", 100.0)),
        "threshold": case.number("v_th", case.match(r"z=H\(v'-#\)", 1.0)),
        "surrogate": case.surrogate,
        "dt": 1000 * case.number("dt", 1e-3),
    }


def _norse_levels(case: Case) -> tuple[float, float]:
    """Where the membrane rests, and where a reset takes it."""
    return (
        case.number("v_leak", case.match(r"\(\(#-v\)", 0.0)),
        case.number("v_reset", case.match(r"v=\(1-z\)v'\+z\*#", 0.0)),
    )


def _norse_synapse(case: Case) -> tuple[float, Callable[[Any], Array]]:
    """The time constant, and the current as Norse records it: after the decay of its step, here before."""
    rate = case.number("tau_syn_inv", case.match(r"dt\*#\*i", case.match(r"\(1-dt\*#\)", 200.0)))
    return 1000 / rate, lambda states: (1 - rate * case.number("dt", 1e-3)) * states.current


def _norse_lif(case: Case, **options: Any) -> sp.LIFCell:
    leak, reset = _norse_levels(case)
    return sp.LIF.like_norse(case.size, v_leak=leak, v_reset=reset, **options, **_norse_membrane(case))


def _norse(p: Params, case: Case) -> tuple:
    tau_syn, current = _norse_synapse(case)
    cell = _norse_lif(case, tau_syn=tau_syn, detach="V" in p)
    return _fed_back(p, cell, _with(i=current))


def _norse_box(p: Params, case: Case) -> tuple:
    method = "subtract" if "subtract" in case.name or "z(v'-v_th)" in case.equation else "value"
    cell = _norse_lif(case, tau_syn=None, reset_method=method)
    # Its subtraction ignores the reset's level.
    return (eqx.tree_at(lambda c: c.reset.base, cell, 0.0) if method == "subtract" else cell), _mem


def _norse_refractory(p: Params, case: Case) -> tuple:
    tau_syn, current = _norse_synapse(case)
    steps = int(case.number("rho_reset", case.match(r"\+\s*z\s*\*\s*#\s*$", 3)))
    refractory = sp.Refractory(steps, differentiable=True)
    cell = _norse_lif(case, tau_syn=tau_syn, refractory=refractory, detach="V" in p)
    return _fed_back(p, cell, _with(i=current, rho=lambda s: s.countdown))


def _norse_lsnn(p: Params, case: Case) -> tuple:
    tau_syn, _ = _norse_synapse(case)
    rate = case.number("tau_adapt_inv", case.match(r"dt\*\(?#\)?\*\(v_th-b\)", 5.0))
    jump = case.match(r"b'\+z\*#", 1.8)
    adaptation = sp.ThresholdAdaptation(1000 / rate, increment=jump, detach="V" in p)
    cell = _norse_lif(case, tau_syn=tau_syn, adaptation=adaptation, detach="V" in p)
    threshold = _norse_membrane(case)["threshold"]
    layer, view = _fed_back(p, cell, _with(i=_syn, b=lambda s: threshold + s.adaptation))
    # As written, or else read off the first step.
    kept = 1 - rate * case.number("dt", 1e-3)
    first = (case.arrays["s_b"][0] - jump * case.arrays["spk"][0] - threshold) / kept
    start = case.number("b0", float(np.median(first)) + threshold) - threshold

    def state(batch: tuple[int, ...]) -> Any:
        return eqx.tree_at(_adaptation_of, layer.init_state(batch), replace_fn=lambda a: a + start)

    return layer, view, state


def _adaptation_of(state: Any) -> Array:
    return state.cell.adaptation if isinstance(state, sp.RecurrentState) else state.adaptation


def _norse_adalif(p: Params, case: Case) -> tuple:
    tau_syn, _ = _norse_synapse(case)
    rate = case.number("tau_adapt_inv", case.match(r"dt\*#\*b\b", 20.0))
    adaptation = sp.CurrentAdaptation(1000 / rate, increment=case.match(r"b'\+z\*#", 0.5))
    cell = _norse_lif(case, tau_syn=tau_syn, reset_method="subtract", adaptation=adaptation)
    cell = eqx.tree_at(lambda c: c.reset.base, cell, _norse_levels(case)[1])
    return _fed_back(p, cell, _with(i=_syn, b=lambda s: s.adaptation))


def _norse_li(*, box: bool) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        tau_syn, current = _norse_synapse(case)
        cell = sp.LICell(
            case.size,
            _norse_membrane(case)["tau_mem"],
            rest=_norse_levels(case)[0],
            decay=sp.EulerDecay(),
            synapse=None if box else sp.SynapticCurrent(tau_syn),
            dt=_norse_membrane(case)["dt"],
        )
        return cell, _mem if box else _with(i=current)

    return make


def _norse_ex(*, adaptive: bool) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        tau_syn, current = _norse_synapse(case)
        membrane, (leak, reset) = _norse_membrane(case), _norse_levels(case)
        common: dict[str, Any] = membrane | dict(
            rest=leak,
            onset=membrane["threshold"],
            sharpness=case.number("delta_T", case.number("dT", 0.5)),
            reset=sp.ValueReset(reset, detach=False),
            synapse=sp.SynapticCurrent(tau_syn),
            integrator=sp.ForwardEuler(),
            overshoot=float("inf"),
        )
        if not adaptive:
            return _fed_back(p, sp.ExpIFCell(case.size, **common), _with(i=current))
        cell = sp.AdExCell(
            case.size,
            tau_adapt=1000 / case.match(rf"a\+dt\*#\*\({NUMBER[1:-1]}\*\(v", 2.0),
            coupling=case.match(r"\(#\*\(v-", 4.0),
            increment=case.match(r"a'\+z\*#", 0.02),
            **common,
        )
        return _fed_back(p, cell, _with(i=current, a=lambda s: s.adaptation))

    return make


def _norse_coba(p: Params, case: Case) -> tuple:
    cell = sp.CobaLIFCell(
        case.size,
        tau_excitation=1 / case.number("tau_syn_exc_inv", 0.2),
        tau_inhibition=1 / case.number("tau_syn_inh_inv", 0.2),
        capacitance=1 / case.number("c_m_inv", 5.0),
        g_leak=case.number("g_l", 0.25),
        rest=case.number("v_rest", -20.0),
        e_excitation=case.number("e_rev_E", 60.0),
        e_inhibition=case.number("e_rev_I", -100.0),
        threshold=case.number("v_thresh", -10.0),
        reset=sp.ValueReset(case.number("v_reset", -70.0), detach=False),
        surrogate=case.surrogate,
        decay=sp.EulerDecay(),
        integrator=sp.ForwardEuler(),
        dt=case.number("dt", 1e-3),
    )
    return cell, _with(g_e=lambda s: s.excitation, g_i=lambda s: s.inhibition)


def _norse_iaf(p: Params, case: Case) -> tuple:
    theta, reset = _norse_membrane(case)["threshold"], sp.ValueReset(_norse_levels(case)[1], detach=False)
    return _fed_back(p, sp.integrate_and_fire(case.size, threshold=theta, reset=reset, surrogate=case.surrogate), _mem)


def _norse_izhikevich(p: Params, case: Case) -> tuple:
    cell = sp.IzhikevichCell(
        case.size,
        a=case.number("a", 0.02),
        b=case.number("b", 0.2),
        d=case.number("d", 6.0),
        quadratic=case.match(r"\(#v\^2", 0.04),
        linear=case.match(r"v\^2\+#v", 5.0),
        constant=case.match(rf"v\^2\+{NUMBER[1:-1]}v\+#-u", 140.0),
        initial_membrane=case.number("v0", -70.0),
        initial_recovery=case.number("u0", -14.0),
        reset=sp.ValueReset(case.number("c", -65.0), detach=False),
        surrogate=case.surrogate,
        integrator=sp.ForwardEuler(),
        overshoot=float("inf"),
        dt=case.match(r"dt=#", 0.25) if "tau_inv*dt=" in case.equation else case.number("k", 0.25),
    )
    return _fed_back(p, cell, _with(u=lambda s: s.recovery))


# SpikingJelly


def _jelly_reset(case: Case) -> tuple[float | None, bool]:
    """The level of a hard reset, or None, and whether the reset is detached."""
    hard = "hard" in case.name.split("_") or "(1-s)" in case.equation
    detached = "detach_reset" in case.name or "detach_reset=True" in case.equation
    return (case.number("v_reset", 0.0) if hard else None), detached


def _jelly_threshold(case: Case) -> float:
    return case.number("v_th", case.number("th", case.match(r"H\(h-#\)", 0.9)))


def _jelly(p: Params, case: Case) -> tuple:
    level, detached = _jelly_reset(case)
    # A parametric one stores w, with sigmoid(w) = 1 / tau.
    tau = case.number("tau", 2.5)
    if "w" in p:
        tau = eqx.tree_at(lambda t: t.raw, sp.Positive(2.0, lower=1.0), -p["w"])
    nodecay = "nodecay" in case.name + case.equation or "+cur" in case.equation
    cell = sp.LIF.like_spikingjelly(
        case.size,
        tau,
        v_threshold=_jelly_threshold(case),
        v_reset=level,
        decay_input=not nodecay,
        detach_reset=detached,
        surrogate=case.surrogate,
    )
    return cell, _mem


def _jelly_if(p: Params, case: Case) -> tuple:
    level, detached = _jelly_reset(case)
    reset = sp.SubtractReset(detach=detached) if level is None else sp.ValueReset(level, detach=detached)
    cell = sp.integrate_and_fire(case.size, threshold=_jelly_threshold(case), reset=reset, surrogate=case.surrogate)
    return cell, _mem, lambda batch: sp.LIFState(jnp.full((*batch, case.size), level or 0.0))


def _jelly_ode(kind: Callable, **names: str) -> Callable:
    """An Euler step of one step's length; `names` are ours to theirs."""

    def make(p: Params, case: Case) -> tuple:
        level, detached = _jelly_reset(case)
        cell = kind(
            case.size,
            threshold=_jelly_threshold(case),
            reset=sp.SubtractReset(detach=detached) if level is None else sp.ValueReset(level, detach=detached),
            surrogate=case.surrogate,
            integrator=sp.ForwardEuler(),
            overshoot=float("inf"),
            dt=1.0,
            **{ours: case.number(theirs, math.nan) for ours, theirs in names.items()},
        )
        return cell, _mem, lambda batch: sp.MembraneOnlyState(jnp.full((*batch, case.size), level or 0.0))

    return make


# jaxpike


def _jaxpike(p: Params, case: Case) -> tuple:
    tau = case.number("tau", 5.0)
    if "log_tau" in p:
        tau = eqx.tree_at(lambda t: t.raw, sp.Positive(5.0), p["log_tau"])
    reset = "zero" if "zero" in case.name or "(1-s)" in case.equation else "subtract"
    return sp.LIF.like_jaxpike(
        case.size, tau, threshold=case.number("th", 0.9), reset=reset, surrogate=case.surrogate
    ), _mem


# spyx


def _spyx(*, threshold: float, leaky: bool = True, cuba: bool = False) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        cell = sp.LIF.like_spyx(
            case.size,
            p.get("beta", case.number("beta", 0.8)) if leaky else 1.0,
            alpha=p.get("alpha", case.number("alpha", 0.8)) if cuba else None,
            threshold=_threshold(case, threshold, 1.0, 0.9, lag=1),
            surrogate=case.surrogate,
        )
        feedback = {"V": p["V"].T} if "V" in p else {}
        return _fed_back(feedback, cell, _with(Isyn=_syn) if cuba else _mem)

    return make


def _spyx_alif(p: Params, case: Case) -> tuple:
    gamma = p.get("gamma", case.number("gamma", 0.5))
    adaptation = sp.ThresholdAdaptation(sp.tau_from_beta(gamma), increment=1 - gamma, in_reset=True)
    cell = sp.LIF.like_spyx(
        case.size,
        p.get("beta", case.number("beta", 0.8)),
        threshold=case.number("th", 0.9),
        adaptation=adaptation,
        surrogate=case.surrogate,
    )
    return cell, _with(Tadapt=lambda s: s.adaptation)


def _spyx_psu(p: Params, case: Case) -> tuple:
    cell = sp.LIFCell(
        case.size,
        sp.tau_from_beta(p.get("beta", case.number("beta", 0.8))),
        threshold=_threshold(case, 0.9, 1.0),
        reset=sp.NoReset(),
        surrogate=case.surrogate,
        input_gain=sp.ConstantGain(),
    )
    return cell, _mem


def _spyx_li(p: Params, case: Case) -> tuple:
    beta = p.get("beta", case.number("beta", 0.8))
    return sp.LICell(case.size, sp.tau_from_beta(beta), input_gain=sp.ConstantGain()), _mem


# brainpy.state: dt = 1 ms unless the equation says otherwise


def _brain_hard(case: Case) -> bool:
    return "hard" in case.name.split("_") or "stop_grad(V_old)" in case.equation


def _brain(*, refractory: bool = False, adaptive: bool = False) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        level = _soft_reset(case) if "vreset" in case.name else case.number("V_reset", 0.0)
        adaptation = sp.ThresholdAdaptation(case.number("tau_a", 20.0), strength=case.number("beta", 0.3))
        cell = sp.LIF.like_brainstate(
            case.size,
            case.number("tau", 5.0),
            v_threshold=case.number("V_th", 1.0),
            v_reset=level,
            v_rest=case.number("V_rest", 0.0),
            resistance=case.number("R", 1.0),
            reset="hard" if _brain_hard(case) else "soft",
            tau_ref=case.number("tau_ref", 3.0) if refractory else None,
            adaptation=adaptation if adaptive else None,
            surrogate=case.surrogate,
            dt=case.number("dt", 1.0),
        )

        def views(states: Any, spikes: Array) -> dict[str, Array]:
            steps = jnp.arange(spikes.shape[0], dtype=spikes.dtype)[:, None, None]
            last = jax.lax.cummax(jnp.where(spikes > 0, jax.lax.stop_gradient(steps), -1e7), axis=0)
            adapted = {} if states.adaptation is None else {"a": states.adaptation}
            return _mem(states, spikes) | {"g": 0 * states.membrane, "last_spike_time": last} | adapted

        start = case.number("V0", round(float(np.median(_before_decay(case)[0])), 4))
        return cell, views, lambda batch: _starting(cell, batch, start)

    return make


def _starting(cell: Any, batch: tuple[int, ...], membrane: float) -> Any:
    return eqx.tree_at(_membrane_of, cell.init_state(batch), replace_fn=lambda v: 0 * v + membrane)


def _membrane_of(state: Any) -> Array:
    return state.membrane


def _soft_reset(case: Case) -> float:
    """The value that a soft reset aims at, as written or else read off the step after a spike."""
    written = case.written("V_reset")
    if written is not None:
        return written
    fired, v = case.arrays["spk"][:-1] > 0, case.arrays["s_V"][:-1]
    return round(float(np.median((_before_decay(case)[1:] - v + case.number("V_th", 1.0))[fired])), 4)


def _before_decay(case: Case) -> np.ndarray:
    """The membranes that the steps of the trace began with, after the reset."""
    current = case.arrays["p_x"] @ case.arrays["p_W"].T + case.arrays["p_b"]
    level = case.number("V_rest", 0.0) + case.number("R", 1.0) * current
    return level + (case.arrays["s_V"] - level) * math.exp(case.number("dt", 1.0) / case.number("tau", 5.0))


def _brain_ode(kind: Callable, threshold: float, level: float, start: float, **views: Callable) -> Callable:
    """Constants go by their names here, or by brainpy.state's, e.g. `V_T` for `onset`."""

    def make(p: Params, case: Case) -> tuple:
        theta, base = case.number("V_th", threshold), case.number("V_reset", level)
        timing: Any = {"timing": "before_decay", "detach": False}
        theirs = case.constants(**{ours: name for ours, name in _BRAIN_NAMES.items() if hasattr(kind(1), ours)})
        made = kind(
            case.size,
            integrator=sp.ExponentialEuler(sequential=True),
            dt=case.number("dt", 1.0),
            threshold=theta,
            reset=sp.ValueReset(base, keep_gradient=True, **timing)
            if _brain_hard(case)
            else sp.SubtractReset(base, **timing),
            surrogate=sp.Stretched(case.surrogate, theta - base),
            overshoot=float("inf"),
            **theirs,
        )
        v0 = case.number("V0", start)
        return made, _with(**views), lambda batch: _starting(made, batch, v0)

    return make


_BRAIN_NAMES = {
    "tau_mem": "tau",
    "tau_adapt": "tau_w",
    "rest": "V_rest",
    "onset": "V_T",
    "sharpness": "dT",
    "critical": "V_c",
    "curvature": "c",
    "resistance": "R",
    "coupling": "a",
    "increment": "b",
}


def _brain_izhikevich(p: Params, case: Case) -> tuple:
    cell = sp.IzhikevichCell(
        case.size,
        a=case.number("a", 0.02),
        b=case.number("b", 0.2),
        d=case.number("d", 8.0),
        threshold=case.number("V_th", 30.0),
        initial_membrane=case.number("V0", -55.0),
        initial_recovery=case.number("u0", 0.0),
        reset=sp.ValueReset(case.number("c", -65.0), timing="before_decay"),
        surrogate=sp.Stretched(case.surrogate, case.number("V_th", 30.0)),
        integrator=sp.ExponentialEuler(sequential=True),
        overshoot=float("inf"),
        dt=case.number("dt", 0.3),
    )
    return cell, _with(u=lambda s: s.recovery)


def _brain_hh(p: Params, case: Case) -> tuple:
    theta = case.number("V_th", 20.0)
    cell = sp.HodgkinHuxleyCell(
        case.size,
        g_leak=0.03,
        threshold=theta,
        initial_membrane=case.number("V0", -65.0),
        surrogate=sp.Stretched(case.surrogate, theta),
        dt=case.number("dt", 1.0),
    )
    return cell, _with(h=lambda s: s.h, m=lambda s: s.m, n=lambda s: s.n)


# Curves, and the seed's network


def _curves(library: str, entry: dict[str, Any], arrays: dict[str, np.ndarray], p: Params) -> dict[str, Array]:
    x = jnp.asarray(arrays["x"])
    out = {}
    for key, surrogate in curves(library, entry, [key for key in arrays if not key.endswith("_y")]).items():
        value, slope = jax.jvp(lambda x, s=surrogate: sp.spike(s, x), (x,), (jnp.ones_like(x),))
        out[key] = slope
        if f"{key}_y" in arrays:
            out[f"{key}_y"] = value
    return out


def _seed(arrays: dict[str, np.ndarray], p: Params) -> dict[str, Array]:
    cell = sp.LIF.like_brainstate(3, dt=0.1)
    current = jnp.asarray(arrays["xs"] @ arrays["W"] + arrays["b"])
    (spikes, states), _ = scan(Recorded(cell), current, cell.init_state(current.shape[1:2]))
    # The 2024 code of these has mistakes in its formulas, later corrected: a quadratic of the wrong sign, a product
    # where a quotient was meant, twice the area, and one term of the series fewer than asked for.
    wrong = ("PiecewiseQuadratic", "GaussianGrad", "PiecewiseLeakyRelu", "SquarewaveFourierSeries")
    stored = {k[5:]: v for k, v in arrays.items() if k.startswith("surr_") and k[5:] not in wrong}
    drawn = _curves("braintools", {}, stored, p)
    return {"V": states.membrane, "spk": spikes} | {f"surr_{key}": curve for key, curve in drawn.items()}


CELLS: dict[str, Callable] = {
    "st_leaky": _snntorch(beta=0.85, thresholds=(0.9, 1.0), zero_after=False),
    "st_synaptic": _snntorch(beta=0.8, alpha=0.7, thresholds=(1.0, 0.9), zero_after=True),
    "st_rleaky": _snntorch(beta=0.85, thresholds=(0.9, 1.0), zero_after=True),
    "st_rsynaptic": _snntorch(beta=0.8, alpha=0.7, thresholds=(1.0, 0.9), zero_after=True),
    "st_alpha": _alpha,
    "st_lapicque": _lapicque,
    "nr_lif": _norse,
    "nr_lifbox": _norse_box,
    "nr_lif_refrac": _norse_refractory,
    "nr_lsnn": _norse_lsnn,
    "nr_adalif": _norse_adalif,
    "nr_li": _norse_li(box=False),
    "nr_libox": _norse_li(box=True),
    "nr_lifadex": _norse_ex(adaptive=True),
    "nr_lifex": _norse_ex(adaptive=False),
    "nr_coba": _norse_coba,
    "nr_iaf": _norse_iaf,
    "nr_izhikevich": _norse_izhikevich,
    "sj_lif": _jelly,
    "sj_plif": _jelly,
    "sj_if": _jelly_if,
    "sj_qif": _jelly_ode(sp.QIFCell, tau_mem="tau", critical="v_c", curvature="a0", rest="v_rest"),
    "sj_eif": _jelly_ode(sp.ExpIFCell, tau_mem="tau", sharpness="delta_T", onset="theta_rh", rest="v_rest"),
    "jp_lif": _jaxpike,
    "sx_if": _spyx(threshold=1.0, leaky=False),
    "sx_lif": _spyx(threshold=0.9),
    "sx_alif": _spyx_alif,
    "sx_cubalif": _spyx(threshold=1.0, cuba=True),
    "sx_rif": _spyx(threshold=1.0, leaky=False),
    "sx_rlif": _spyx(threshold=1.0),
    "sx_rcubalif": _spyx(threshold=1.0, cuba=True),
    "sx_psu_lif": _spyx_psu,
    "sx_li": _spyx_li,
    "bp_if": _brain(),
    "bp_lif": _brain(),
    "bp_lifref": _brain(refractory=True),
    "bp_alif": _brain(adaptive=True),
    "bp_cubalif": _brain(),
    "bp_expif": _brain_ode(sp.ExpIFCell, -30.0, -68.0, -65.0),
    "bp_adexif": _brain_ode(sp.AdExCell, -55.0, -68.0, -65.0, w=lambda s: s.adaptation),
    "bp_quaif": _brain_ode(sp.QIFCell, -30.0, -68.0, -65.0),
    "bp_izhikevich": _brain_izhikevich,
    "bp_hh": _brain_hh,
}

CLASSES = {
    "Leaky": "st_leaky",
    "Synaptic": "st_synaptic",
    "Alpha": "st_alpha",
    "Lapicque": "st_lapicque",
    "RLeaky": "st_rleaky",
    "RSynaptic": "st_rsynaptic",
    "lif_feed_forward_step": "nr_lif",
    "lif_step": "nr_lif",
    "lif_box_feed_forward_step": "nr_lifbox",
    "lif_refrac_feed_forward_step": "nr_lif_refrac",
    "lif_refrac_step": "nr_lif_refrac",
    "lsnn_feed_forward_step": "nr_lsnn",
    "lsnn_step": "nr_lsnn",
    "ada_lif_step": "nr_adalif",
    "li_feed_forward_step": "nr_li",
    "li_box_feed_forward_step": "nr_libox",
    "lif_adex_feed_forward_step": "nr_lifadex",
    "lif_adex_step": "nr_lifadex",
    "lif_ex_feed_forward_step": "nr_lifex",
    "lif_ex_step": "nr_lifex",
    "coba_lif_feed_forward_step": "nr_coba",
    "iaf_feed_forward_step": "nr_iaf",
    "iaf_step": "nr_iaf",
    "izhikevich_feed_forward_step": "nr_izhikevich",
    "izhikevich_recurrent_step": "nr_izhikevich",
    "LIFNode": "sj_lif",
    "ParametricLIFNode": "sj_plif",
    "IFNode": "sj_if",
    "QIFNode": "sj_qif",
    "EIFNode": "sj_eif",
    "LIF": "sx_lif",
    "IF": "sx_if",
    "ALIF": "sx_alif",
    "CuBaLIF": "sx_cubalif",
    "RIF": "sx_rif",
    "RLIF": "sx_rlif",
    "RCuBaLIF": "sx_rcubalif",
    "PSU_LIF": "sx_psu_lif",
    "LI": "sx_li",
}
