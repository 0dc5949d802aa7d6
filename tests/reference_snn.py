"""Our presets for the spiking reference cases: which cell, with which parameters, stands for each library's."""

import functools as ft
import math
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import eqx_dynamics.spiking as sp
from eqx_dynamics import AbstractCell, Recorded, scan
from reference_snn_surrogates import CURVES, surrogate_of
from reference_snn_toolbox import TOOLBOX


Params = dict[str, Any]
Run = Callable[[Params], dict[str, Array]]
Mechanism = Literal["subtract", "zero", "none"]


class Case(NamedTuple):
    """What a manifest says of a case in words, and its arrays."""

    name: str
    equation: str
    surrogate: sp.AbstractSurrogate
    arrays: dict[str, np.ndarray]

    @property
    def size(self) -> int:
        return self.arrays["p_W"].shape[0]


def build(name: str, entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> Run | None:
    """How a case of the manifest is computed here, or None if nothing here corresponds (the case is then skipped).

    **Returns:** a function from the arrays named `p_*` (keys without `p_`; among them the input `x`, time-major) to
    arrays under the file's own keys. Cases with `p_*` must return `spk` and every `s_*`; the runner differentiates
    $\\sum A\\,\\mathrm{spk} + \\sum C\\,s$ and compares outputs and every `g_*`. Of other cases it compares what is
    returned.
    """
    if name in CURVES:
        return ft.partial(_curves, name, arrays)
    tool = _kind(name, TOOLBOX)
    if tool is not None and "p_W" not in arrays:
        return lambda p: TOOLBOX[tool](arrays)
    if name == "st_stateleaky_parallel":
        return ft.partial(_stateleaky, arrays)
    if name == "seed_brainstate_2024":
        return ft.partial(_seed, arrays)
    kind = _kind(name, CELLS)
    surrogate = surrogate_of(str(entry.get("surrogate", "none")))
    if kind is None or surrogate is None or "p_W" not in arrays or "mem_key" not in entry:
        return None
    return ft.partial(_run, CELLS[kind], Case(name, str(entry.get("equation", "")), surrogate, arrays))


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


def _number(case: Case, name: str, default: float) -> float:
    """A constant as written in the manifest's equation, such as `th=.9`."""
    found = re.search(rf"(?<![A-Za-z_]){name}\s*=\s*(-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)", case.equation)
    return float(found.group(1)) if found else default


def _threshold(case: Case, *candidates: float, lag: int = 0) -> float:
    """The threshold as written, or else the first candidate, or the shortest decimal, between the membranes that
    fired and those that did not."""
    membrane, fired = case.arrays["s_mem"], case.arrays["spk"] > 0
    membrane, fired = (membrane[:-lag], fired[lag:]) if lag else (membrane, fired)
    low, high = float(membrane[~fired].max()), float(membrane[fired].min())
    decimals = (round(low + (high - low) / 2, digits) for digits in range(1, 6))
    for candidate in (_number(case, "th", candidates[0]), *candidates, *decimals):
        if low <= candidate < high:
            return candidate
    return candidates[0]


def _mem(states: Any, spikes: Array) -> dict[str, Array]:
    return {"mem": states.membrane, "V": states.membrane, "v": states.membrane}


def _with(**views: Callable[[Any], Array]) -> Callable[[Any, Array], dict[str, Array]]:
    return lambda states, spikes: _mem(states, spikes) | {key: view(states) for key, view in views.items()}


def _within(view: Callable[[Any, Array], dict[str, Array]]) -> Callable[[Any, Array], dict[str, Array]]:
    """The view of a recurrent layer's cell."""
    return lambda states, spikes: view(states.cell, spikes)


def _syn(states: Any) -> Array:
    return states.current


# snnTorch


def _mechanism(case: Case) -> Mechanism:
    """What the name says, or else the equation."""
    named = [token for token in case.name.split("_") if token in ("subtract", "zero", "none")]
    if named:
        return "zero" if named[0] == "zero" else "none" if named[0] == "none" else "subtract"
    return "zero" if "1-reset" in case.equation else "subtract" if "reset*th" in case.equation else "none"


def _delayed(case: Case) -> bool:
    return "nodelay" not in case.name and "reset_delay=False" not in case.equation


def _leaky(p: Params, case: Case) -> tuple:
    cell = sp.LIF.like_snntorch(
        case.size,
        p.get("beta", _number(case, "beta", 0.85)),
        threshold=p.get("threshold", _number(case, "th", 0.9)),
        reset_mechanism=_mechanism(case),
        reset_delay=_delayed(case),
        surrogate=case.surrogate,
    )
    return cell, _mem


def _synaptic(p: Params, case: Case) -> tuple:
    cell = sp.LIF.like_snntorch(
        case.size,
        p.get("beta", _number(case, "beta", 0.8)),
        alpha=p.get("alpha", _number(case, "alpha", 0.7)),
        threshold=p.get("threshold", _threshold(case, 1.0, 0.9)),
        reset_mechanism=_mechanism(case),
        reset_delay=_delayed(case),
        zero_after_input=True,
        surrogate=case.surrogate,
    )
    return (sp.Recurrent(cell, _feedback(p)), _within(_with(syn=_syn))) if "V" in p else (cell, _with(syn=_syn))


def _rleaky(p: Params, case: Case) -> tuple:
    cell = sp.LIF.like_snntorch(
        case.size,
        p.get("beta", _number(case, "beta", 0.85)),
        threshold=p.get("threshold", _threshold(case, 0.9, 1.0)),
        reset_mechanism=_mechanism(case),
        reset_delay=_delayed(case),
        zero_after_input=True,
        surrogate=case.surrogate,
    )
    return sp.Recurrent(cell, _feedback(p)), _within(_mem)


def _alpha(p: Params, case: Case) -> tuple:
    slow, fast = (sp.tau_from_beta(_number(case, key, value)) for key, value in (("alpha", 0.9), ("beta", 0.8)))
    cell = sp.AlphaCell(case.size, slow, fast, threshold=_number(case, "th", 0.6), surrogate=case.surrogate)
    return cell, _with(syn_exc=lambda s: s.excitation, syn_inh=lambda s: s.inhibition)


def _lapicque(p: Params, case: Case) -> tuple:
    resistance, capacitance = _number(case, "R", 2.0), _number(case, "C", 2.5)
    resets: dict[Mechanism, sp.AbstractReset] = {
        "subtract": sp.SubtractReset(timing="after_decay"),
        "zero": sp.ValueReset(timing="after_decay"),
        "none": sp.NoReset(),
    }
    cell = sp.LIFCell(
        case.size,
        resistance * capacitance,
        threshold=p.get("threshold", _number(case, "th", 0.8)),
        reset=resets[_mechanism(case)],
        surrogate=case.surrogate,
        decay=sp.EulerDecay(),
        input_gain=sp.RateGain(resistance),
        dt=_number(case, "dt", 1.0),
    )
    return cell, _mem


def _feedback(p: Params) -> Callable[[Array], Array]:
    if "Vd" in p:
        return sp.OneToOne(p["Vd"])
    size = p["V"].shape[0]
    linear = eqx.nn.Linear(size, size, use_bias="bV" in p, key=jax.random.key(0))
    where = (lambda m: [m.weight, m.bias]) if "bV" in p else (lambda m: [m.weight])
    return eqx.tree_at(where, linear, [p["V"], p["bV"]] if "bV" in p else [p["V"]])


def _stateleaky(arrays: dict[str, np.ndarray], p: Params) -> dict[str, Array]:
    x, amount, weight = (jnp.asarray(arrays[key]) for key in ("x", "A", "C"))
    # snnTorch turns beta into tau = 1 / (1 - beta), so that the decay is exp(beta - 1): recovered from the trace.
    current = arrays["x"] @ arrays["W"].T + arrays["b"]
    ratio = (arrays["mem"][1] - current[1]) / arrays["mem"][0]
    cell = sp.LIFCell(
        current.shape[-1],
        float(-1 / np.log(np.median(ratio))),
        threshold=0.9,
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


def _norse_constants(case: Case) -> dict[str, Any]:
    return {
        "tau_mem": 1000 / _number(case, "tau_mem_inv", 100.0),
        "threshold": _number(case, "v_th", 1.0),
        "v_reset": _number(case, "v_reset", 0.0),
        "v_leak": _number(case, "v_leak", 0.0),
        "dt": 1000 * _number(case, "dt", 1e-3),
        "surrogate": case.surrogate,
    }


def _norse_synapse(case: Case) -> tuple[float, Callable[[Any], Array]]:
    """The time constant, and the current as Norse records it: after the decay of its step, here before."""
    rate = _number(case, "tau_syn_inv", 200.0)
    return 1000 / rate, lambda states: (1 - rate * _number(case, "dt", 1e-3)) * states.current


def _norse(*, subtract: bool = False, box: bool = False, recurrent: bool = False) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        tau_syn, current = _norse_synapse(case)
        method = "subtract" if subtract else "value"
        options = {"tau_syn": None if box else tau_syn, "reset_method": method, "detach": recurrent}
        cell = sp.LIF.like_norse(case.size, **options, **_norse_constants(case))
        view = _mem if box else _with(i=current)
        return (sp.Recurrent(cell, _feedback(p)), _within(view)) if recurrent else (cell, view)

    return make


def _norse_refractory(p: Params, case: Case) -> tuple:
    tau_syn, current = _norse_synapse(case)
    steps = re.search(r"\+\s*z\s*\*\s*(\d+)\s*$", case.equation)
    period = sp.Refractory(int(steps.group(1)) if steps else 3, differentiable=True)
    cell = sp.LIF.like_norse(case.size, tau_syn=tau_syn, refractory=period, **_norse_constants(case))
    return cell, _with(i=current, rho=lambda s: s.countdown)


def _norse_lsnn(*, recurrent: bool) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        rate, jump = _match(case, r"dt\*\(?([\d.]+)\)?\*\(v_th-b\)", 5.0), _match(case, r"b'\+z\*([\d.]+)", 1.8)
        adaptation = sp.ThresholdAdaptation(1000 / rate, increment=jump, detach=recurrent)
        cell = sp.LIF.like_norse(case.size, adaptation=adaptation, detach=recurrent, **_norse_constants(case))
        threshold = _number(case, "v_th", 1.0)
        view = _with(i=_syn, b=lambda s: threshold + s.adaptation)
        layer: AbstractCell = sp.Recurrent(cell, _feedback(p)) if recurrent else cell
        # As written, or else read off the first step.
        kept = 1 - rate * _number(case, "dt", 1e-3)
        first = (case.arrays["s_b"][0] - jump * case.arrays["spk"][0] - threshold) / kept
        start = _number(case, "b0", float(np.median(first)) + threshold) - threshold

        def state(batch: tuple[int, ...]) -> Any:
            return eqx.tree_at(_adaptation_of, layer.init_state(batch), replace_fn=lambda a: a + start)

        return layer, _within(view) if recurrent else view, state

    return make


def _match(case: Case, pattern: str, default: float) -> float:
    found = re.search(pattern, case.equation)
    return float(found.group(1)) if found else default


def _adaptation_of(state: Any) -> Array:
    return state.cell.adaptation if isinstance(state, sp.RecurrentState) else state.adaptation


def _norse_adalif(p: Params, case: Case) -> tuple:
    adaptation = sp.CurrentAdaptation(50.0, increment=_match(case, r"b'\+z\*([\d.]+)", 0.5))
    cell = sp.LIF.like_norse(
        case.size, reset_method="subtract", adaptation=adaptation, detach=False, **_norse_constants(case)
    )
    return sp.Recurrent(cell, _feedback(p)), _within(_with(i=_syn, b=lambda s: s.adaptation))


def _norse_li(*, box: bool) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        tau_syn, current = _norse_synapse(case)
        synapse = None if box else sp.SynapticCurrent(tau_syn)
        cell = sp.LICell(case.size, _norse_constants(case)["tau_mem"], decay=sp.EulerDecay(), synapse=synapse)
        return cell, _mem if box else _with(i=current)

    return make


def _norse_ex(*, adaptive: bool) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        tau_syn, current = _norse_synapse(case)
        common: dict[str, Any] = dict(
            tau_mem=10.0,
            threshold=1.0,
            rest=0.0,
            onset=1.0,
            sharpness=_number(case, "dT", 0.5),
            reset=sp.ValueReset(0.0, detach=False),
            surrogate=case.surrogate,
            synapse=sp.SynapticCurrent(tau_syn),
            integrator=sp.ForwardEuler(),
            overshoot=float("inf"),
            dt=1.0,
        )
        if adaptive:
            cell = sp.AdExCell(case.size, tau_adapt=500.0, coupling=4.0, increment=0.02, **common)
            return cell, _with(i=current, a=lambda s: s.adaptation)
        return sp.ExpIFCell(case.size, **common), _with(i=current)

    return make


def _norse_coba(p: Params, case: Case) -> tuple:
    cell = sp.CobaLIFCell(
        case.size,
        tau_excitation=5.0,
        tau_inhibition=5.0,
        capacitance=0.2,
        g_leak=0.25,
        rest=-20.0,
        e_excitation=60.0,
        e_inhibition=-100.0,
        threshold=-10.0,
        reset=sp.ValueReset(-70.0, detach=False),
        surrogate=case.surrogate,
        decay=sp.EulerDecay(),
        integrator=sp.ForwardEuler(),
        dt=1e-3,
    )
    return cell, _with(g_e=lambda s: s.excitation, g_i=lambda s: s.inhibition)


def _norse_iaf(p: Params, case: Case) -> tuple:
    theta = _match(case, r"H\(v'-([\d.]+)\)", 1.0)
    reset = sp.ValueReset(0.0, detach=False)
    return sp.integrate_and_fire(case.size, threshold=theta, reset=reset, surrogate=case.surrogate), _mem


def _norse_izhikevich(p: Params, case: Case) -> tuple:
    cell = sp.IzhikevichCell(
        case.size,
        d=_number(case, "d", 6.0),
        initial_membrane=_number(case, "v0", -70.0),
        initial_recovery=_number(case, "u0", -14.0),
        reset=sp.ValueReset(-65.0, detach=False),
        surrogate=case.surrogate,
        integrator=sp.ForwardEuler(),
        overshoot=float("inf"),
        dt=0.25,
    )
    return cell, _with(u=lambda s: s.recovery)


# SpikingJelly


def _hard(case: Case) -> bool:
    return "hard" in case.name.split("_") or "(1-s)" in case.equation


def _jelly(*, decay_input: bool) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        cell = sp.LIF.like_spikingjelly(
            case.size,
            _number(case, "tau", 2.5),
            v_threshold=_number(case, "v_th", 0.9),
            v_reset=_number(case, "v_reset", 0.0) if _hard(case) else None,
            decay_input=decay_input,
            detach_reset="detach_reset" in case.name or "detach_reset=True" in case.equation,
            surrogate=case.surrogate,
        )
        return cell, _mem

    return make


def _jelly_plif(p: Params, case: Case) -> tuple:
    tau = eqx.tree_at(lambda t: t.raw, sp.Positive(2.0, lower=1.0), -p["w"])
    cell = sp.LIF.like_spikingjelly(
        case.size,
        tau,
        v_threshold=_number(case, "th", 0.9),
        v_reset=0.0 if _hard(case) else None,
        surrogate=case.surrogate,
    )
    return cell, _mem


def _jelly_if(p: Params, case: Case) -> tuple:
    reset = sp.ValueReset(detach=False) if _hard(case) else sp.SubtractReset(detach=False)
    theta = _match(case, r"H\(h-([\d.]+)\)", 0.9)
    return sp.integrate_and_fire(case.size, threshold=theta, reset=reset, surrogate=case.surrogate), _mem


# jaxpike


def _jaxpike(reset: Literal["subtract", "zero"]) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        tau = eqx.tree_at(lambda t: t.raw, sp.Positive(5.0), p["log_tau"])
        return sp.LIF.like_jaxpike(case.size, tau, threshold=_number(case, "th", 0.9), reset=reset), _mem

    return make


# spyx


def _spyx(*, threshold: float = 0.9, leaky: bool = True, recurrent: bool = False, cuba: bool = False) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        theta = _threshold(case, threshold, 1.0, 0.9, lag=1)
        cell = sp.LIF.like_spyx(
            case.size,
            p.get("beta", _number(case, "beta", 0.8)) if leaky else 1.0,
            alpha=p.get("alpha", _number(case, "alpha", 0.8)) if cuba else None,
            threshold=theta,
            surrogate=case.surrogate,
        )
        view = _with(Isyn=_syn) if cuba else _mem
        if recurrent:
            return sp.Recurrent(cell, _feedback({"V": p["V"].T})), _within(view)
        return cell, view

    return make


def _spyx_alif(p: Params, case: Case) -> tuple:
    adaptation = sp.ThresholdAdaptation(sp.tau_from_beta(p["gamma"]), increment=1 - p["gamma"], in_reset=True)
    cell = sp.LIF.like_spyx(case.size, p["beta"], threshold=_number(case, "th", 0.9), adaptation=adaptation)
    return cell, _with(Tadapt=lambda s: s.adaptation)


def _spyx_psu(p: Params, case: Case) -> tuple:
    cell = sp.LIFCell(
        case.size,
        sp.tau_from_beta(p["beta"]),
        threshold=_number(case, "th", 0.9),
        reset=sp.NoReset(),
        surrogate=case.surrogate,
        input_gain=sp.ConstantGain(),
    )
    return cell, _mem


def _spyx_li(p: Params, case: Case) -> tuple:
    return sp.LICell(case.size, sp.tau_from_beta(p["beta"]), input_gain=sp.ConstantGain()), _mem


# brainpy.state: dt = 1 ms unless the equation says otherwise


def _brain_adaptation(case: Case) -> sp.ThresholdAdaptation:
    return sp.ThresholdAdaptation(_number(case, "tau_a", 20.0), strength=_number(case, "beta", 0.3))


def _brain(
    reset: Literal["soft", "hard"] = "soft", *, lowered: bool = False, refractory: bool = False, adaptive: bool = False
) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        cell = sp.LIF.like_brainstate(
            case.size,
            _number(case, "tau", 5.0),
            v_threshold=_number(case, "V_th", 1.0),
            v_reset=_soft_reset(case, p) if lowered else 0.0,
            resistance=_number(case, "R", 1.0),
            reset=reset,
            tau_ref=_number(case, "tau_ref", 3.0) if refractory else None,
            adaptation=_brain_adaptation(case) if adaptive else None,
            surrogate=case.surrogate,
            dt=_number(case, "dt", 1.0),
        )

        def aux(states: Any) -> dict[str, Array]:
            adapted = {} if states.adaptation is None else {"a": states.adaptation}
            return {"g": 0 * states.membrane} | adapted

        def views(states: Any, spikes: Array) -> dict[str, Array]:
            steps = jnp.arange(spikes.shape[0], dtype=spikes.dtype)[:, None, None]
            last = jax.lax.cummax(jnp.where(spikes > 0, jax.lax.stop_gradient(steps), -1e7), axis=0)
            return _mem(states, spikes) | aux(states) | {"last_spike_time": last}

        return cell, views

    return make


def _soft_reset(case: Case, p: Params) -> float:
    """The value that a soft reset aims at, as written or else read off the step after a spike."""
    written = _number(case, "V_reset", math.nan)
    if not math.isnan(written):
        return written
    fired, v = case.arrays["spk"][:-1] > 0, case.arrays["s_V"]
    current = (case.arrays["p_x"] @ case.arrays["p_W"].T + case.arrays["p_b"])[1:]
    before = current + (v[1:] - current) * math.exp(_number(case, "dt", 1.0) / _number(case, "tau", 5.0))
    return round(float(np.median((before - v[:-1] + _number(case, "V_th", 1.0))[fired])), 4)


def _brain_reset(case: Case, threshold: float, v_reset: float) -> dict[str, Any]:
    return {
        "threshold": threshold,
        "reset": sp.SubtractReset(v_reset, timing="before_decay", detach=False),
        "surrogate": sp.Stretched(case.surrogate, threshold - v_reset),
        "overshoot": float("inf"),
    }


def _brain_ode(cell: Callable, threshold: float, **views: Callable) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        theta = _number(case, "V_th", threshold)
        dt = _number(case, "dt", 1.0)
        made = cell(
            case.size, integrator=sp.ExponentialEuler(sequential=True), dt=dt, **_brain_reset(case, theta, -68.0)
        )
        start = _number(case, "V0", -65.0)

        def state(batch: tuple[int, ...]) -> Any:
            return eqx.tree_at(lambda s: s.membrane, made.init_state(batch), replace_fn=lambda v: 0 * v + start)

        return made, _with(**views), state

    return make


def _brain_izhikevich(p: Params, case: Case) -> tuple:
    cell = sp.IzhikevichCell(
        case.size,
        d=8.0,
        initial_membrane=_number(case, "V0", -55.0),
        initial_recovery=_number(case, "u0", 0.0),
        reset=sp.ValueReset(-65.0, timing="before_decay"),
        surrogate=sp.Stretched(case.surrogate, 30.0),
        integrator=sp.ExponentialEuler(sequential=True),
        overshoot=float("inf"),
        dt=_number(case, "dt", 0.3),
    )
    return cell, _with(u=lambda s: s.recovery)


def _brain_hh(p: Params, case: Case) -> tuple:
    cell = sp.HodgkinHuxleyCell(
        case.size, g_leak=0.03, threshold=20.0, surrogate=sp.Stretched(case.surrogate, 20.0), dt=1.0
    )
    return cell, _with(h=lambda s: s.h, m=lambda s: s.m, n=lambda s: s.n)


# Curves, and the seed's network


def _curves(name: str, arrays: dict[str, np.ndarray], p: Params) -> dict[str, Array]:
    x = jnp.asarray(arrays["x"])
    out = {}
    for key, surrogate in CURVES[name].items():
        value, slope = jax.jvp(lambda x, s=surrogate: sp.spike(s, x), (x,), (jnp.ones_like(x),))
        if key in arrays:
            out[key] = slope
        if f"{key}_y" in arrays:
            out[f"{key}_y"] = value
    return out


def _seed(arrays: dict[str, np.ndarray], p: Params) -> dict[str, Array]:
    cell = sp.LIF.like_brainstate(3, dt=0.1)
    current = jnp.asarray(arrays["xs"] @ arrays["W"] + arrays["b"])
    (spikes, states), _ = scan(Recorded(cell), current, cell.init_state(current.shape[1:2]))
    curves = _curves("surr_braintools", {"x": arrays["surr_x"]} | {k[5:]: v for k, v in arrays.items()}, p)
    # The 2024 code of these has mistakes in its formulas, later corrected: a quadratic of the wrong sign, a product
    # where a quotient was meant, twice the area, and one term of the series fewer than asked for.
    wrong = ("PiecewiseQuadratic", "GaussianGrad", "PiecewiseLeakyRelu", "SquarewaveFourierSeries")
    curves = {key: curve for key, curve in curves.items() if key not in wrong}
    return {"V": states.membrane, "spk": spikes} | {f"surr_{key}": curve for key, curve in curves.items()}


CELLS: dict[str, Callable] = {
    "st_leaky": _leaky,
    "st_synaptic": _synaptic,
    "st_alpha_subtract": _alpha,
    "st_lapicque": _lapicque,
    "st_rleaky": _rleaky,
    "st_rsynaptic": _synaptic,
    "nr_lif_ff": _norse(),
    "nr_lif_rec": _norse(recurrent=True),
    "nr_lifbox_value": _norse(box=True),
    "nr_lifbox_subtract": _norse(box=True, subtract=True),
    "nr_lsnn_ff": _norse_lsnn(recurrent=False),
    "nr_lsnn_rec": _norse_lsnn(recurrent=True),
    "nr_adalif_rec": _norse_adalif,
    "nr_li_ff": _norse_li(box=False),
    "nr_libox_ff": _norse_li(box=True),
    "nr_lifadex_ff": _norse_ex(adaptive=True),
    "nr_lifex_ff": _norse_ex(adaptive=False),
    "nr_coba_ff": _norse_coba,
    "nr_iaf_ff": _norse_iaf,
    "nr_izhikevich_tonic": _norse_izhikevich,
    "nr_lif_refrac_ff": _norse_refractory,
    "sj_lif_decayin": _jelly(decay_input=True),
    "sj_lif_nodecay": _jelly(decay_input=False),
    "sj_lif_detach_reset": _jelly(decay_input=False),
    "sj_plif": _jelly_plif,
    "sj_if": _jelly_if,
    "jp_lif_subtract": _jaxpike("subtract"),
    "jp_lif_zero": _jaxpike("zero"),
    "sx_if": _spyx(threshold=1.0, leaky=False),
    "sx_lif": _spyx(),
    "sx_alif": _spyx_alif,
    "sx_cubalif": _spyx(threshold=1.0, cuba=True),
    "sx_rif": _spyx(threshold=1.0, leaky=False, recurrent=True),
    "sx_rlif": _spyx(threshold=1.0, recurrent=True),
    "sx_rcubalif": _spyx(threshold=1.0, cuba=True, recurrent=True),
    "sx_psu_lif": _spyx_psu,
    "sx_li": _spyx_li,
    "bp_if_soft": _brain(),
    "bp_lif_soft": _brain(),
    "bp_lif_hard": _brain("hard"),
    "bp_lif_soft_vreset": _brain(lowered=True),
    "bp_lifref_soft": _brain(refractory=True),
    "bp_alif_soft": _brain(adaptive=True),
    "bp_cubalif_soft": _brain(),
    "bp_expif_soft": _brain_ode(sp.ExpIFCell, -45.0),
    "bp_adexif_soft": _brain_ode(sp.AdExCell, -55.0, w=lambda s: s.adaptation),
    "bp_quaif_soft": _brain_ode(sp.QIFCell, -30.0),
    "bp_izhikevich_hard": _brain_izhikevich,
    "bp_hh": _brain_hh,
}
