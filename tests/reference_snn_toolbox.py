"""What stands here for the losses, encoders, synapses, learning rules and derivatives of other libraries, on their
stored inputs."""

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


Arrays = dict[str, np.ndarray]


def _snntorch_losses(arrays: Arrays) -> dict[str, Array]:
    x, bias, labels = (jnp.asarray(arrays[key]) for key in ("x", "b1", "y"))
    labels = labels.astype(jnp.int32)
    num_steps = x.shape[0]
    hidden = sp.LIF.like_snntorch(arrays["W1"].shape[0], 0.85, threshold=0.9)
    output = sp.LIF.like_snntorch(arrays["W2"].shape[0], 0.9, threshold=1.0)
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


def _spyx_losses(arrays: Arrays) -> dict[str, Array]:
    """spyx puts the batch first."""
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


def _snntorch_encoders(arrays: Arrays) -> dict[str, Array]:
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


def _norse_encoders(arrays: Arrays) -> dict[str, Array]:
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


def _synapse(make: Callable[[int], AbstractCell], **views: Callable[[Any], Array]) -> Callable[[Arrays], Any]:
    """A synapse run on the stored spikes (`in_spk`, in Norse's case `z`), and its states under the stored names."""

    def run(arrays: Arrays) -> dict[str, Array]:
        spikes = jnp.asarray(arrays["in_spk"] if "in_spk" in arrays else arrays["z"])
        cell = make(spikes.shape[-1])
        (out, states), _ = scan(Recorded(cell), spikes, cell.init_state(spikes.shape[1:-1]))
        return {"out": out} | {key: view(states) for key, view in views.items() if key in arrays}

    return run


def _dual_exponential(arrays: Arrays) -> dict[str, Array]:
    """The time constants are read off the decay of the stored states, in steps without a spike."""
    silent = arrays["in_spk"][1:] == 0

    def tau(key: str) -> float:
        before, after = arrays[key][:-1], arrays[key][1:]
        kept = (before > 0.1) & silent
        return round(float(-1 / np.log(np.median(after[kept] / before[kept]))), 3)

    rise, decay = tau("s_g_rise"), tau("s_g_decay")
    difference = arrays["s_g_decay"] - arrays["s_g_rise"]
    normalize = not np.allclose(arrays["out"], difference, rtol=1e-3)
    run = _synapse(
        lambda size: sp.DualExponentialSynapse(size, rise, decay, normalize=normalize),
        s_g_rise=lambda s: s.rise,
        s_g_decay=lambda s: s.decay,
    )
    return run(arrays)


def _norse_stp(size: int) -> AbstractCell:
    return sp.STPSynapse(
        size,
        increment=0.45,
        tau_facilitation=50.0,
        tau_recovery=750.0,
        decay=sp.EulerDecay(),
        jumps="before_decay",
    )


def _g(states: Any) -> Array:
    return states.conductance


def _norse_stdp(multiplicative: bool) -> Callable[[Arrays], dict[str, Array]]:
    def run(arrays: Arrays) -> dict[str, Array]:
        up, down = _learning_rates(arrays, multiplicative)
        rule = sp.PairSTDP.like_norse(
            jnp.asarray(arrays["w0"]), rate_plus=up, rate_minus=down, multiplicative=multiplicative
        )
        spikes = jnp.asarray(arrays["z_pre"]), jnp.asarray(arrays["z_post"])
        weights, state = scan(rule, spikes, rule.init_state(spikes[0].shape[1:-1]))
        return {"w": weights, "t_pre": state.trace_pre, "t_post": state.trace_post}

    return run


def _learning_rates(arrays: Arrays, multiplicative: bool) -> tuple[float, float]:
    """The manifest does not say them: those, of three digits, with which the rule explains the weights' changes."""
    traces = {side: np.zeros(arrays[f"z_{side}"].shape[1:]) for side in ("pre", "post")}
    before, causes, changes = arrays["w0"].astype(float), [], []
    for pre, post, after in zip(arrays["z_pre"], arrays["z_post"], arrays["w"].astype(float), strict=True):
        traces = {side: t + 0.02 * (z - t) for (side, t), z in zip(traces.items(), (pre, post), strict=True)}
        up, down = np.einsum("bj,bi->ji", post, traces["pre"]), -np.einsum("bj,bi->ji", traces["post"], pre)
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


def _derivatives(arrays: Arrays) -> dict[str, Array]:
    """Of the mean of squares and of the squares themselves, for every data set whose `x` is stored."""
    model, found = Linear(jnp.asarray(arrays["W"]), jnp.asarray(arrays["b"])), {}

    def mean(model: Linear, x: Array, y: Array) -> tuple[Array, Array]:
        return jnp.mean((y - model(x)) ** 2), model(x)

    def squares(model: Linear, x: Array, y: Array) -> Array:
        return jnp.ravel((y - model(x)) ** 2)

    for case in [key.removesuffix("_x") for key in arrays if key.endswith("_x") and not key.endswith("_grad_x")]:
        data = model, jnp.asarray(arrays[f"{case}_x"]), jnp.asarray(arrays[f"{case}_y"])
        grads, loss, prediction = grad(mean, has_aux=True, return_value=True)(*data)
        by_x, _ = grad(mean, argnums=1, has_aux=True)(*data)
        trees = {"grad": grads, "vector_grad": vector_grad(squares)(*data)}
        trees |= {"jacrev": jacrev(squares)(*data), "jacfwd": jacfwd(squares)(*data)}
        curved = hessian(lambda *args: mean(*args)[0])(*data)
        trees |= {f"hessian_{part}": getattr(curved, part) for part in ("weight", "bias")}
        leaves = {f"{name}_{part}": getattr(tree, part) for name, tree in trees.items() for part in ("weight", "bias")}
        leaves |= {"loss": loss, "aux_pred": prediction, "grad_x": by_x}
        found |= {f"{case}_{name}": leaf for name, leaf in leaves.items() if f"{case}_{name}" in arrays}
    return found


def _printed(arrays: Arrays) -> dict[str, Array]:
    """The numbers that the seed's document prints, from those it prints of their inputs."""
    lif = sp.LIF.like_brainstate(arrays["lif_I"].shape[-1], dt=0.1)
    _, state = lif(jnp.asarray(arrays["lif_I"]), lif.init_state(arrays["lif_I"].shape[:1]))
    weight = jnp.asarray(arrays["batched_W"])

    def loss(bias: Array) -> Array:
        return jnp.mean((1 - jax.vmap(lambda w, b: Linear(w, b)(jnp.ones((1, 2))))(weight, bias)) ** 2)

    return {"lif_V": state.membrane, "batched_grad_bias": jax.grad(loss)(jnp.zeros(arrays["batched_grad_bias"].shape))}


TOOLBOX: dict[str, Callable[[Arrays], dict[str, Array]]] = {
    "tf_linear": _derivatives,
    "seed_printed": _printed,
    "st_losses_2layer": _snntorch_losses,
    "st_encoders": _snntorch_encoders,
    "nr_encoders": _norse_encoders,
    "sx_losses": _spyx_losses,
    "bp_syn_expon": _synapse(lambda size: sp.ExponentialSynapse(size, 4.0), s_g=_g),
    "bp_syn_dualexpon": _dual_exponential,
    "bp_syn_alpha": _synapse(lambda size: sp.AlphaSynapse(size, 4.0, exact=False), s_g=_g, s_h=lambda s: s.drive),
    "bp_syn_ampa": _synapse(sp.KineticSynapse.ampa, s_g=_g),
    "bp_syn_gabaa": _synapse(sp.KineticSynapse.gaba_a, s_g=_g),
    "bp_syn_nmda": _synapse(sp.NMDASynapse, s_g=_g, s_x=lambda s: s.bound),
    "bp_stp": _synapse(sp.STPSynapse.like_brainstate, s_u=lambda s: s.utilization, s_x=lambda s: s.resources),
    "bp_std": _synapse(lambda size: sp.STDSynapse(size, jumps="brainstate"), s_x=lambda s: s.resources),
    "nr_stdp_additive": _norse_stdp(False),
    "nr_stdp_multiplicative_relu": _norse_stdp(True),
    "nr_stp": _synapse(_norse_stp, u=lambda s: s.utilization, xres=lambda s: s.resources),
}
