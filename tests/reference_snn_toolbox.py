"""What stands here for the losses, encoders, synapses and learning rules of other libraries, on their stored inputs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import eqx_dynamics.spiking as sp
from eqx_dynamics import Recorded, scan


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
    return {"int_ce": int_ce, "int_ce_g": int_ce_g, "mse": mse, "mse_g": mse_g, "acc": acc}


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


TOOLBOX: dict[str, Callable[[Arrays], dict[str, Array]]] = {
    "st_losses_2layer": _snntorch_losses,
    "st_encoders": _snntorch_encoders,
    "nr_encoders": _norse_encoders,
    "sx_losses": _spyx_losses,
}
