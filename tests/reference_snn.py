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
from reference_snn_surrogates import CURVES
from reference_snn_toolbox import TOOLBOX


Params = dict[str, Any]
Run = Callable[[Params], dict[str, Array]]
Mechanism = Literal["subtract", "zero", "none"]
SIZE = 5


class Case(NamedTuple):
    """What a manifest says of a case in words, and its arrays."""

    equation: str
    arrays: dict[str, np.ndarray]


def build(name: str, entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> Run | None:
    """How a case of the manifest is computed here, or None if nothing here corresponds (the case is then skipped).

    **Returns:** a function from the arrays named `p_*` (keys without `p_`; among them the input `x`, time-major) to
    arrays under the file's own keys. Cases with `p_*` must return `spk` and every `s_*`; the runner differentiates
    $\\sum A\\,\\mathrm{spk} + \\sum C\\,s$ and compares outputs and every `g_*`. Of other cases it compares what is
    returned.
    """
    if name in CURVES:
        return ft.partial(_curves, name, arrays)
    if name in TOOLBOX:
        return lambda p: TOOLBOX[name](arrays)
    if name == "st_stateleaky_parallel":
        return ft.partial(_stateleaky, arrays)
    if name == "seed_brainstate_2024":
        return ft.partial(_seed, arrays)
    make = CELLS.get(name)
    return None if make is None else ft.partial(_run, make, entry.get("equation", ""), arrays)


def _run(make: Callable, equation: Any, arrays: dict[str, np.ndarray], p: Params) -> dict[str, Array]:
    p = {name: jnp.asarray(value) for name, value in p.items()}
    made = make(p, Case(str(equation), arrays))
    cell, view, state = made if len(made) == 3 else (*made, None)
    current = p["x"] @ p["W"].T + p["b"][None, None]
    state = cell.init_state(current.shape[1:2]) if state is None else state(current.shape[1:2])
    (spikes, states), _ = scan(Recorded(cell), current, state)
    views = view(states, spikes)
    return {"spk": spikes} | {f"s_{key}": value for key, value in views.items() if f"s_{key}" in arrays}


def _number(case: Case, name: str, default: float) -> float:
    """A constant as written in the manifest's equation, such as `th=.9`."""
    found = re.search(rf"(?<![A-Za-z_]){name}\s*=\s*(-?\d*\.?\d+)", case.equation)
    return float(found.group(1)) if found else default


def _threshold(case: Case, *candidates: float, lag: int = 0) -> float:
    """The threshold as written, or else the first candidate that lies between the membranes that fired and did not."""
    membrane, fired = case.arrays["s_mem"], case.arrays["spk"] > 0
    membrane, fired = (membrane[:-lag], fired[lag:]) if lag else (membrane, fired)
    for candidate in (_number(case, "th", candidates[0]), *candidates):
        if membrane[~fired].max() <= candidate < membrane[fired].min():
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


def _leaky(reset: Mechanism, *, delay: bool = True, surrogate: sp.AbstractSurrogate = sp.ATan(2.0)) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        beta = p.get("beta", _number(case, "beta", 0.85))
        threshold = p.get("threshold", _number(case, "th", 0.9))
        cell = sp.LIF.like_snntorch(
            SIZE, beta, threshold=threshold, reset_mechanism=reset, reset_delay=delay, surrogate=surrogate
        )
        return cell, _mem

    return make


def _synaptic(reset: Mechanism) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        threshold = _threshold(case, 1.0, 0.9)
        options = {"alpha": p["alpha"], "threshold": threshold, "reset_mechanism": reset, "zero_after_input": True}
        return sp.LIF.like_snntorch(SIZE, p["beta"], **options), _with(syn=_syn)

    return make


def _alpha(p: Params, case: Case) -> tuple:
    slow, fast = (sp.tau_from_beta(_number(case, key, value)) for key, value in (("alpha", 0.9), ("beta", 0.8)))
    cell = sp.AlphaCell(SIZE, slow, fast, threshold=_number(case, "th", 0.6))
    return cell, _with(syn_exc=lambda s: s.excitation, syn_inh=lambda s: s.inhibition)


def _lapicque(reset: sp.AbstractReset) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        resistance, capacitance = _number(case, "R", 2.0), _number(case, "C", 2.5)
        cell = sp.LIFCell(
            SIZE,
            resistance * capacitance,
            threshold=_number(case, "th", 0.8),
            reset=reset,
            surrogate=sp.ATan(2.0, tie=">"),
            decay=sp.EulerDecay(),
            input_gain=sp.RateGain(resistance),
            dt=_number(case, "dt", 1.0),
        )
        return cell, _mem

    return make


def _rleaky(reset: Mechanism) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        cell = sp.LIF.like_snntorch(
            SIZE,
            p.get("beta", _number(case, "beta", 0.85)),
            threshold=_threshold(case, 0.9, 1.0),
            reset_mechanism=reset,
            zero_after_input=True,
        )
        return sp.Recurrent(cell, _feedback(p)), _within(_mem)

    return make


def _rsynaptic(p: Params, case: Case) -> tuple:
    cell = sp.LIF.like_snntorch(
        SIZE,
        _number(case, "beta", 0.8),
        alpha=_number(case, "alpha", 0.7),
        threshold=_number(case, "th", 1.0),
    )
    return sp.Recurrent(cell, _feedback(p)), _within(_with(syn=_syn))


def _feedback(p: Params) -> Callable[[Array], Array]:
    if "Vd" in p:
        return sp.OneToOne(p["Vd"])
    linear = eqx.nn.Linear(SIZE, SIZE, use_bias="bV" in p, key=jax.random.key(0))
    where = (lambda m: [m.weight, m.bias]) if "bV" in p else (lambda m: [m.weight])
    return eqx.tree_at(where, linear, [p["V"], p["bV"]] if "bV" in p else [p["V"]])


def _stateleaky(arrays: dict[str, np.ndarray], p: Params) -> dict[str, Array]:
    x, amount, weight = (jnp.asarray(arrays[key]) for key in ("x", "A", "C"))
    # snnTorch turns beta into tau = 1 / (1 - beta), so that the decay is exp(beta - 1): recovered from the trace.
    current = arrays["x"] @ arrays["W"].T + arrays["b"]
    ratio = (arrays["mem"][1] - current[1]) / arrays["mem"][0]
    cell = sp.LIFCell(
        SIZE,
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


# Norse: dt = 1 ms, time constants of 10 and 5 ms


def _norse(*, subtract: bool = False, box: bool = False, recurrent: bool = False) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        method = "subtract" if subtract else "value"
        tau_syn = None if box else 5.0
        cell = sp.LIF.like_norse(SIZE, 10.0, tau_syn, reset_method=method, detach=recurrent)
        view = _mem if box else _with(i=_decayed)
        return (sp.Recurrent(cell, _feedback(p)), _within(view)) if recurrent else (cell, view)

    return make


def _decayed(states: Any) -> Array:
    """Norse records the current after the decay of its step, here it is recorded as the membrane saw it."""
    return 0.8 * states.current


def _norse_refractory(p: Params, case: Case) -> tuple:
    cell = sp.LIF.like_norse(SIZE, refractory=sp.Refractory(3, differentiable=True))
    return cell, _with(i=_decayed, rho=lambda s: s.countdown)


def _norse_lsnn(*, recurrent: bool) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        start = _number(case, "b0", 1.0) - 1.0
        adaptation = sp.ThresholdAdaptation(200.0, increment=1.8, detach=recurrent)
        cell = sp.LIF.like_norse(SIZE, adaptation=adaptation, detach=recurrent)
        view = _with(i=_syn, b=lambda s: 1 + s.adaptation)
        layer: AbstractCell = sp.Recurrent(cell, _feedback(p)) if recurrent else cell

        def state(batch: tuple[int, ...]) -> Any:
            return eqx.tree_at(_adaptation_of, layer.init_state(batch), replace_fn=lambda a: a + start)

        return layer, _within(view) if recurrent else view, state

    return make


def _adaptation_of(state: Any) -> Array:
    return state.cell.adaptation if isinstance(state, sp.RecurrentState) else state.adaptation


def _norse_adalif(p: Params, case: Case) -> tuple:
    cell = sp.LIF.like_norse(
        SIZE, reset_method="subtract", adaptation=sp.CurrentAdaptation(50.0, increment=0.5), detach=False
    )
    return sp.Recurrent(cell, _feedback(p)), _within(_with(i=_syn, b=lambda s: s.adaptation))


def _norse_li(*, box: bool) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        cell = sp.LICell(SIZE, 10.0, decay=sp.EulerDecay(), synapse=None if box else sp.SynapticCurrent(5.0))
        return cell, _mem if box else _with(i=_decayed)

    return make


def _norse_ex(*, adaptive: bool) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        common: dict[str, Any] = dict(
            tau_mem=10.0,
            threshold=1.0,
            rest=0.0,
            onset=1.0,
            sharpness=_number(case, "dT", 0.5),
            reset=sp.ValueReset(0.0, detach=False),
            surrogate=sp.FastSigmoid(1.0, tie=">"),
            synapse=sp.SynapticCurrent(5.0),
            integrator=sp.ForwardEuler(),
            overshoot=float("inf"),
            dt=1.0,
        )
        if adaptive:
            cell = sp.AdExCell(SIZE, tau_adapt=500.0, coupling=4.0, increment=0.02, **common)
            return cell, _with(i=_decayed, a=lambda s: s.adaptation)
        return sp.ExpIFCell(SIZE, **common), _with(i=_decayed)

    return make


def _norse_coba(p: Params, case: Case) -> tuple:
    cell = sp.CobaLIFCell(
        SIZE,
        tau_excitation=5.0,
        tau_inhibition=5.0,
        capacitance=0.2,
        g_leak=0.25,
        rest=-20.0,
        e_excitation=60.0,
        e_inhibition=-100.0,
        threshold=-10.0,
        reset=sp.ValueReset(-70.0, detach=False),
        surrogate=sp.FastSigmoid(1.0, tie=">"),
        decay=sp.EulerDecay(),
        integrator=sp.ForwardEuler(),
        dt=1e-3,
    )
    return cell, _with(g_e=lambda s: s.excitation, g_i=lambda s: s.inhibition)


def _norse_iaf(p: Params, case: Case) -> tuple:
    surrogate = sp.FastSigmoid(1.0, tie=">")
    return sp.integrate_and_fire(SIZE, reset=sp.ValueReset(0.0, detach=False), surrogate=surrogate), _mem


def _norse_izhikevich(p: Params, case: Case) -> tuple:
    cell = sp.IzhikevichCell(
        SIZE,
        d=_number(case, "d", 6.0),
        initial_membrane=_number(case, "v0", -70.0),
        initial_recovery=_number(case, "u0", -14.0),
        reset=sp.ValueReset(-65.0, detach=False),
        surrogate=sp.FastSigmoid(1.0, tie=">"),
        integrator=sp.ForwardEuler(),
        overshoot=float("inf"),
        dt=0.25,
    )
    return cell, _with(u=lambda s: s.recovery)


# SpikingJelly


def _jelly(*, decay_input: bool, soft: bool, detach: bool = False) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        cell = sp.LIF.like_spikingjelly(
            SIZE,
            _number(case, "tau", 2.5),
            v_threshold=_number(case, "v_th", 0.9),
            v_reset=None if soft else 0.0,
            decay_input=decay_input,
            detach_reset=detach,
        )
        return cell, _mem

    return make


def _jelly_plif(p: Params, case: Case) -> tuple:
    tau = eqx.tree_at(lambda t: t.raw, sp.Positive(2.0, lower=1.0), -p["w"])
    return sp.LIF.like_spikingjelly(SIZE, tau, v_threshold=_number(case, "th", 0.9), v_reset=None), _mem


def _jelly_if(p: Params, case: Case) -> tuple:
    reset = sp.SubtractReset(detach=False)
    return sp.integrate_and_fire(SIZE, threshold=0.9, reset=reset, surrogate=sp.Sigmoid(4.0)), _mem


# jaxpike


def _jaxpike(reset: Literal["subtract", "zero"]) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        tau = eqx.tree_at(lambda t: t.raw, sp.Positive(5.0), p["log_tau"])
        return sp.LIF.like_jaxpike(SIZE, tau, threshold=_number(case, "th", 0.9), reset=reset), _mem

    return make


# spyx


def _spyx(*, threshold: float = 0.9, leaky: bool = True, recurrent: bool = False, cuba: bool = False) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        theta = _threshold(case, threshold, 1.0, 0.9, lag=1)
        cell = sp.LIF.like_spyx(SIZE, p["beta"] if leaky else 1.0, alpha=p.get("alpha"), threshold=theta)
        view = _with(Isyn=_syn) if cuba else _mem
        if recurrent:
            return sp.Recurrent(cell, _feedback({"V": p["V"].T})), _within(view)
        return cell, view

    return make


def _spyx_alif(p: Params, case: Case) -> tuple:
    adaptation = sp.ThresholdAdaptation(sp.tau_from_beta(p["gamma"]), increment=1 - p["gamma"], in_reset=True)
    cell = sp.LIF.like_spyx(SIZE, p["beta"], threshold=_number(case, "th", 0.9), adaptation=adaptation)
    return cell, _with(Tadapt=lambda s: s.adaptation)


def _spyx_psu(p: Params, case: Case) -> tuple:
    cell = sp.LIFCell(
        SIZE,
        sp.tau_from_beta(p["beta"]),
        threshold=_number(case, "th", 0.9),
        reset=sp.NoReset(),
        surrogate=sp.FastSigmoid(25.0, tie=">"),
        input_gain=sp.ConstantGain(),
    )
    return cell, _mem


def _spyx_li(p: Params, case: Case) -> tuple:
    return sp.LICell(SIZE, sp.tau_from_beta(p["beta"]), input_gain=sp.ConstantGain()), _mem


# brainpy.state: dt = 1 ms unless the equation says otherwise


def _brain(reset: Literal["soft", "hard"] = "soft", *, lowered: bool = False, **options: Any) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        v_reset = _soft_reset(case, p) if lowered else 0.0
        cell = sp.LIF.like_brainstate(SIZE, v_reset=v_reset, reset=reset, dt=_number(case, "dt", 1.0), **options)

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
    before = current + (v[1:] - current) * math.exp(_number(case, "dt", 1.0) / 5.0)
    return round(float(np.median((before - v[:-1] + 1.0)[fired])), 4)


def _brain_reset(threshold: float, v_reset: float) -> dict[str, Any]:
    return {
        "threshold": threshold,
        "reset": sp.SubtractReset(v_reset, timing="before_decay", detach=False),
        "surrogate": sp.Stretched(sp.Triangle(0.3, 1.0), threshold - v_reset),
        "overshoot": float("inf"),
    }


def _brain_ode(cell: Callable, threshold: float, **views: Callable) -> Callable:
    def make(p: Params, case: Case) -> tuple:
        theta = _number(case, "V_th", threshold)
        dt = _number(case, "dt", 1.0)
        made = cell(SIZE, integrator=sp.ExponentialEuler(sequential=True), dt=dt, **_brain_reset(theta, -68.0))
        start = _number(case, "V0", -65.0)

        def state(batch: tuple[int, ...]) -> Any:
            return eqx.tree_at(lambda s: s.membrane, made.init_state(batch), replace_fn=lambda v: 0 * v + start)

        return made, _with(**views), state

    return make


def _brain_izhikevich(p: Params, case: Case) -> tuple:
    cell = sp.IzhikevichCell(
        SIZE,
        d=8.0,
        initial_membrane=_number(case, "V0", -55.0),
        initial_recovery=_number(case, "u0", 0.0),
        reset=sp.ValueReset(-65.0, timing="before_decay"),
        surrogate=sp.Stretched(sp.Triangle(0.3, 1.0), 30.0),
        integrator=sp.ExponentialEuler(sequential=True),
        overshoot=float("inf"),
        dt=_number(case, "dt", 0.3),
    )
    return cell, _with(u=lambda s: s.recovery)


def _brain_hh(p: Params, case: Case) -> tuple:
    cell = sp.HodgkinHuxleyCell(
        SIZE, g_leak=0.03, threshold=20.0, surrogate=sp.Stretched(sp.Triangle(0.3, 1.0), 20.0), dt=1.0
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


_TO_ZERO = sp.ValueReset(timing="after_decay")
CELLS: dict[str, Callable] = {
    "st_leaky_subtract": _leaky("subtract"),
    "st_leaky_zero": _leaky("zero"),
    "st_leaky_none": _leaky("none"),
    "st_leaky_subtract_nodelay": _leaky("subtract", delay=False),
    "st_leaky_zero_nodelay": _leaky("zero", delay=False),
    "st_leaky_subtract_fast_sigmoid": _leaky("subtract", surrogate=sp.FastSigmoid(25.0)),
    "st_leaky_subtract_sigmoid": _leaky("subtract", surrogate=sp.Sigmoid(5.0)),
    "st_leaky_subtract_STE": _leaky("subtract", surrogate=sp.StraightThrough()),
    "st_synaptic_subtract": _synaptic("subtract"),
    "st_synaptic_zero": _synaptic("zero"),
    "st_alpha_subtract": _alpha,
    "st_lapicque_subtract": _lapicque(sp.SubtractReset(timing="after_decay")),
    "st_lapicque_zero": _lapicque(_TO_ZERO),
    "st_rleaky_subtract": _rleaky("subtract"),
    "st_rleaky_zero": _rleaky("zero"),
    "st_rleaky_onetoone": _rleaky("subtract"),
    "st_rsynaptic_subtract": _rsynaptic,
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
    "sj_lif_decayin_hard": _jelly(decay_input=True, soft=False),
    "sj_lif_decayin_soft": _jelly(decay_input=True, soft=True),
    "sj_lif_nodecay_hard": _jelly(decay_input=False, soft=False),
    "sj_lif_nodecay_soft": _jelly(decay_input=False, soft=True),
    "sj_lif_detach_reset": _jelly(decay_input=False, soft=True, detach=True),
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
    "bp_lifref_soft": _brain(tau_ref=3.0),
    "bp_alif_soft": _brain(adaptation=sp.ThresholdAdaptation(20.0, strength=0.3)),
    "bp_cubalif_soft": _brain(),
    "bp_expif_soft": _brain_ode(sp.ExpIFCell, -45.0),
    "bp_adexif_soft": _brain_ode(sp.AdExCell, -55.0, w=lambda s: s.adaptation),
    "bp_quaif_soft": _brain_ode(sp.QIFCell, -30.0),
    "bp_izhikevich_hard": _brain_izhikevich,
    "bp_hh": _brain_hh,
}
