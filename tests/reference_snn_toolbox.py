"""What stands here for the losses, encoders, synapses, learning rules and derivatives of other libraries, on their
stored inputs."""

import dataclasses
import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import eqx_dynamics.spiking as sp
from eqx_dynamics import AbstractCell, Recorded, scan
from eqx_dynamics.transform import grad, hessian, jacfwd, jacrev, vector_grad
from reference_snn_case import Case


Arrays = dict[str, np.ndarray]


def _snntorch_losses(case: Case) -> dict[str, Array]:
    arrays = case.arrays
    x, bias, labels = (jnp.asarray(arrays[key]) for key in ("x", "b1", "y"))
    labels = labels.astype(jnp.int32)
    num_steps = x.shape[0]
    beta = case.match(r"L1: Leaky\(#", 0.85), case.match(r"L2: Leaky\(#", 0.9)
    theta = case.match(r"L1: Leaky\([^)]*th #", 0.9), case.match(r"L2: Leaky\([^)]*th #", 1.0)
    hidden = sp.LIF.like_snntorch(arrays["W1"].shape[0], beta[0], threshold=theta[0])
    output = sp.LIF.like_snntorch(arrays["W2"].shape[0], beta[1], threshold=theta[1])
    losses: dict[str, Callable] = {
        "ce_rate": lambda s, v: sp.ce_rate(s, labels),
        "ce_count": lambda s, v: sp.ce_count(s, labels),
        "mse_count": lambda s, v: sp.mse_count(s, labels),
        "ce_max_membrane": lambda s, v: sp.ce_max_membrane(v, labels),
        "mse_membrane": lambda s, v: sp.mse_membrane(v, labels),
        "ce_temporal": lambda s, v: sp.ce_first_spike(s, labels),
        "mse_temporal": lambda s, v: sp.mse_first_spike(s, labels, incorrect=num_steps),
    }

    def forward(weights: tuple[Array, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        spikes, _ = scan(hidden, x @ weights[0].T + bias[None, None], hidden.init_state(x.shape[1:2]))
        (spikes, states), _ = scan(Recorded(output), spikes @ weights[1].T, output.init_state(x.shape[1:2]))
        values = {name: loss(spikes, states.membrane) for name, loss in losses.items()}
        return values, values | {
            "spk": spikes,
            "mem": states.membrane,
            "acc_rate": sp.accuracy(sp.spike_count(spikes), labels),
            "l1_rate_sparsity": 1e-3 * sp.activity_penalty(spikes) * spikes.size,
            "acc_temporal": sp.accuracy(-sp.first_spike_time(spikes), labels),
        }

    weights = (jnp.asarray(arrays["W1"]), jnp.asarray(arrays["W2"]))
    grads, out = jax.jacrev(forward, has_aux=True)(weights)
    named = {f"{name}_g{w}": grad for name, pair in grads.items() for w, grad in zip(("W1", "W2"), pair, strict=True)}
    return out | named


def _spyx_losses(case: Case) -> dict[str, Array]:
    """spyx puts the batch first."""
    arrays = case.arrays
    traces, labels = jnp.asarray(arrays["traces"]), jnp.asarray(arrays["y"]).astype(jnp.int32)

    def integral(traces: Array) -> Array:
        return sp.ce_count(jnp.swapaxes(traces, 0, 1), labels, smoothing=0.3)

    def rate(traces: Array) -> Array:
        return sp.mse_rate(jnp.swapaxes(traces, 0, 1), labels, correct=0.25 * traces.shape[1], incorrect=0.0)

    int_ce, int_ce_g = jax.value_and_grad(integral)(traces)
    mse, mse_g = jax.value_and_grad(rate)(traces)
    acc = sp.accuracy(sp.spike_count(jnp.swapaxes(traces, 0, 1)), labels)
    losses = {"int_ce": int_ce, "int_ce_g": int_ce_g, "mse": mse, "mse_g": mse_g, "acc": acc}
    # Its penalties take every step of a neuron for a neuron, and sum where ours average.
    batch, flat = arrays["spikes"].shape[0], jnp.asarray(arrays["spikes"]).reshape(1, arrays["spikes"].shape[0], -1)
    silence = sp.silence_penalty(flat, 0.3) * flat.shape[-1]
    return losses | {"silence": silence, "sparsity": sp.sparsity_penalty(flat, 0.15) * batch}


def _snntorch_encoders(case: Case) -> dict[str, Array]:
    arrays = case.arrays
    img, sig = jnp.asarray(arrays["img"]), jnp.asarray(arrays["sig"])
    num_steps = arrays["latency_log"].shape[0]
    return {
        "latency_log": sp.latency_encode(img, num_steps, tau=5.0, threshold=0.05, fire_below=True),
        "latency_norm": sp.latency_encode(img, num_steps, threshold=0.05, fire_below=True),
        "latency_linear": sp.latency_encode(img, num_steps, curve="linear", threshold=0.05),
        "delta": sp.delta_encode(sig, threshold=0.7, initial=0.0),
        "delta_off": sp.delta_encode(sig, threshold=0.7, initial=0.0, off_spikes=True),
        "delta_pad": sp.delta_encode(sig, threshold=0.7),
    }


def _norse_encoders(case: Case) -> dict[str, Array]:
    arrays = case.arrays
    img = jnp.asarray(arrays["img"])
    scale = jnp.max(img)
    num_steps, num_neurons = arrays["const_current"].shape[0], arrays["population"].shape[-1]
    # The currents are four times the values.
    spikes = sp.constant_current_encode(4 * img, num_steps, sp.LIF.like_norse(img.shape[-1], 10.0, None))
    return {
        "const_current": spikes,
        "latency": sp.first_spikes(spikes),
        "population": sp.population_encode(img, num_neurons, high=scale, width=1 / jnp.sqrt(scale)),
    }


def _synapse(make: Callable[[int, Case], AbstractCell], **views: Callable[[Any], Array]) -> Callable[[Case], Any]:
    """A synapse run on the stored spikes (`in_spk`, in Norse's case `z`), and its states under the stored names."""

    def run(case: Case) -> dict[str, Array]:
        spikes = jnp.asarray(case.arrays["in_spk"] if "in_spk" in case.arrays else case.arrays["z"])
        cell = make(spikes.shape[-1], case)
        (out, states), _ = scan(Recorded(cell), spikes, cell.init_state(spikes.shape[1:-1]))
        return {"out": out} | {key: view(states) for key, view in views.items() if key in case.arrays}

    return run


def _preset(make: Callable[..., AbstractCell], **names: str) -> Callable[[int, Case], AbstractCell]:
    """A synapse with the constants that the case writes in place of its own; `names` are ours to theirs."""
    return lambda size, case: dataclasses.replace(make(size, dt=_dt(case)), **case.constants(**names))


def _dual_exponential(size: int, case: Case) -> AbstractCell:
    """Time constants as written, or else read off the decay of the stored states, in steps without a spike."""
    arrays = case.arrays
    silent = arrays["in_spk"][1:] == 0

    def tau(key: str) -> float:
        before, after = arrays[key][:-1], arrays[key][1:]
        kept = (before > 0.1) & silent
        return round(float(-_dt(case) / np.log(np.median(after[kept] / before[kept]))), 3)

    rise = case.number("tau_rise", tau("s_g_rise"))
    decay = case.number("tau_decay", tau("s_g_decay"))
    difference = arrays["s_g_decay"] - arrays["s_g_rise"]
    normalize = not np.allclose(arrays["out"], difference, rtol=1e-3)
    return sp.DualExponentialSynapse(size, rise, decay, normalize=normalize, dt=_dt(case))


def _norse_stp(size: int, case: Case) -> AbstractCell:
    return sp.STPSynapse(
        size,
        increment=case.number("U", 0.45),
        tau_facilitation=1000 / case.match(r"\(-#u\)", 20.0),
        tau_recovery=1000 / case.match(r"\(#\)\(1-x\)", 1 / case.match(r"\(1/#\)\(1-x\)", 0.75)),
        decay=sp.EulerDecay(),
        jumps="before_decay",
    )


def _dt(case: Case) -> float:
    return case.number("dt", 1.0)


def _g(states: Any) -> Array:
    return states.conductance


def _norse_stdp(multiplicative: bool) -> Callable[[Case], dict[str, Array]]:
    def run(case: Case) -> dict[str, Array]:
        arrays, both = case.arrays, case.match(r"dt\*#\*\(-t_pre", 20.0)
        inverse = case.number("tau_pre_inv", both), case.number("tau_post_inv", both)
        up, down = _learning_rates(arrays, multiplicative, inverse)
        rule = sp.PairSTDP.like_norse(
            jnp.asarray(arrays["w0"]), rate_plus=up, rate_minus=down, multiplicative=multiplicative
        )
        rule = dataclasses.replace(rule, tau_plus=1000 / inverse[0], tau_minus=1000 / inverse[1])
        spikes = jnp.asarray(arrays["z_pre"]), jnp.asarray(arrays["z_post"])
        weights, state = scan(rule, spikes, rule.init_state(spikes[0].shape[1:-1]))
        return {"w": weights, "t_pre": state.trace_pre, "t_post": state.trace_post}

    return run


def _learning_rates(arrays: Arrays, multiplicative: bool, inverse: tuple[float, float]) -> tuple[float, float]:
    """The manifest does not say them: those, of three digits, with which the rule explains the weights' changes."""
    spikes = tuple(zip(arrays["z_pre"], arrays["z_post"], strict=True))
    traces = [np.zeros(z.shape) for z in spikes[0]]
    before, causes, changes = arrays["w0"].astype(float), [], []
    for (pre, post), after in zip(spikes, arrays["w"].astype(float), strict=True):
        traces = [t + 1e-3 * rate * (z - t) for rate, t, z in zip(inverse, traces, (pre, post), strict=True)]
        up, down = np.einsum("bj,bi->ji", post, traces[0]), -np.einsum("bj,bi->ji", traces[1], pre)
        up, down = (up * (1 - before), down * before) if multiplicative else (up, down)
        free = (after > 0) & (after < 1)
        causes.append(np.stack([up[free], down[free]], axis=-1))
        changes.append((after - before)[free])
        before = after
    up, down = np.linalg.lstsq(np.concatenate(causes), np.concatenate(changes), rcond=None)[0]
    return float(f"{up:.3g}"), float(f"{down:.3g}")


class Linear(eqx.Module):
    """BrainState stores weights as (in, out)."""

    weight: Float[Array, "n_in n_out"]
    bias: Float[Array, " n_out"]

    def __call__(self, x: Array) -> Array:
        return x @ self.weight + self.bias[None]


def _derivatives(case: Case) -> dict[str, Array]:
    """Of the mean of squares and of the squares themselves, for every data set whose `x` is stored."""
    arrays = case.arrays
    model, found = Linear(jnp.asarray(arrays["W"]), jnp.asarray(arrays["b"])), {}

    def mean(model: Linear, x: Array, y: Array) -> tuple[Array, Array]:
        return jnp.mean((y - model(x)) ** 2), model(x)

    def squares(model: Linear, x: Array, y: Array) -> Array:
        return jnp.ravel((y - model(x)) ** 2)

    for data_set in [key.removesuffix("_x") for key in arrays if key.endswith("_x") and not key.endswith("_grad_x")]:
        data = model, jnp.asarray(arrays[f"{data_set}_x"]), jnp.asarray(arrays[f"{data_set}_y"])
        grads, loss, prediction = grad(mean, has_aux=True, return_value=True)(*data)
        by_x, _ = grad(mean, argnums=1, has_aux=True)(*data)
        trees = {"grad": grads, "vector_grad": vector_grad(squares)(*data)}
        trees |= {"jacrev": jacrev(squares)(*data), "jacfwd": jacfwd(squares)(*data)}
        curved = hessian(lambda *args: mean(*args)[0])(*data)
        trees |= {f"hessian_{part}": getattr(curved, part) for part in ("weight", "bias")}
        leaves = {f"{kind}_{part}": getattr(tree, part) for kind, tree in trees.items() for part in ("weight", "bias")}
        leaves |= {"loss": loss, "aux_pred": prediction, "grad_x": by_x}
        found |= {f"{data_set}_{name}": leaf for name, leaf in leaves.items() if f"{data_set}_{name}" in arrays}
    return found


def _printed(case: Case) -> dict[str, Array]:
    """The numbers that the seed's document prints, from those it prints of their inputs."""
    arrays = case.arrays
    lif = sp.LIF.like_brainstate(arrays["lif_I"].shape[-1], dt=0.1)
    _, state = lif(jnp.asarray(arrays["lif_I"]), lif.init_state(arrays["lif_I"].shape[:1]))
    weight = jnp.asarray(arrays["batched_W"])

    def loss(bias: Array) -> Array:
        return jnp.mean((1 - jax.vmap(lambda w, b: Linear(w, b)(jnp.ones((1, 2))))(weight, bias)) ** 2)

    return {"lif_V": state.membrane, "batched_grad_bias": jax.grad(loss)(jnp.zeros(arrays["batched_grad_bias"].shape))}


_PULSE = {"concentration": "T", "duration": "T_dur"}
_KINETICS = _PULSE | {"alpha": "alpha", "beta": "beta"}
_NMDA = _PULSE | {"alpha_open": "alpha1", "beta_open": "beta1", "alpha_bind": "alpha2", "beta_bind": "beta2"}

TOOLBOX: dict[str, Callable[[Case], dict[str, Array]]] = {
    "tf_linear": _derivatives,
    "seed_printed": _printed,
    "st_losses_2layer": _snntorch_losses,
    "st_encoders": _snntorch_encoders,
    "nr_encoders": _norse_encoders,
    "sx_losses": _spyx_losses,
    "bp_syn_expon": _synapse(_preset(ft.partial(sp.ExponentialSynapse, tau=4.0), tau="tau"), s_g=_g),
    "bp_syn_dualexpon": _synapse(_dual_exponential, s_g_rise=lambda s: s.rise, s_g_decay=lambda s: s.decay),
    "bp_syn_alpha": _synapse(
        _preset(ft.partial(sp.AlphaSynapse, tau=4.0, exact=False), tau="tau"), s_g=_g, s_h=lambda s: s.drive
    ),
    "bp_syn_ampa": _synapse(_preset(sp.KineticSynapse.ampa, **_KINETICS), s_g=_g),
    "bp_syn_gabaa": _synapse(_preset(sp.KineticSynapse.gaba_a, **_KINETICS), s_g=_g),
    "bp_syn_nmda": _synapse(_preset(sp.NMDASynapse, **_NMDA), s_g=_g, s_x=lambda s: s.bound),
    "bp_stp": _synapse(
        _preset(sp.STPSynapse.like_brainstate, increment="U", tau_facilitation="tau_f", tau_recovery="tau_d"),
        s_u=lambda s: s.utilization,
        s_x=lambda s: s.resources,
    ),
    "bp_std": _synapse(
        _preset(ft.partial(sp.STDSynapse, jumps="brainstate"), increment="U", tau="tau"), s_x=lambda s: s.resources
    ),
    "nr_stdp_additive": _norse_stdp(False),
    "nr_stdp_multiplicative_relu": _norse_stdp(True),
    "nr_stp": _synapse(_norse_stp, u=lambda s: s.utilization, xres=lambda s: s.resources),
}
