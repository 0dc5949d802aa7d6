"""Which side had more cues? A network remembers through a delay, taught by e-prop: no backpropagation through time.

Task: a mouse running down a track sees five cues left or right, waits, and must turn to the side that had more. Cues,
the signal to decide and a background are spikes of four input populations; the error is known at the end only.
Network: recurrent adaptive neurons whose thresholds remember for half a second. E-prop goes forward in time with one
eligibility trace for every synapse, and multiplies it by the error when that comes.
Expected: 0.92 of 500 new trials right (chance 0.50); asserted at least 0.85. Run time: half a minute to a minute on two
cores. Picture: `cue_accumulation.png` in `demo_output/`.
Reference: Bellec et al., Nature Communications 2020, figure 4 (seven cues over two seconds there).
"""

import pathlib
import time
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, Int, PRNGKeyArray

from eqx_dynamics import Recorded, Sequential, scan
from eqx_dynamics.plot import plot_membrane, plot_raster
from eqx_dynamics.spiking import (
    EProp,
    FastSigmoid,
    Frozen,
    LICell,
    LIFCell,
    Recurrent,
    ThresholdAdaptation,
    eprop,
    with_gradient,
)
from eqx_dynamics.training import make_step


@dataclass(frozen=True)
class Config:
    neurons: int = 50  # half of them adapt
    population: int = 8  # input neurons: left, right, decide, background
    cues: int = 5
    dt: float = 5.0  # ms
    cue: float = 50.0  # ms, and as long until the next
    wait: float = 250.0  # ms
    decide: float = 100.0  # ms
    tau_mem: float = 20.0  # ms
    tau_adapt: float = 600.0  # ms
    learning_rate: float = 1e-2
    batch_size: int = 64
    updates: int = 300
    seed: int = 0
    output: pathlib.Path = pathlib.Path("demo_output")

    @property
    def num_steps(self) -> int:
        return round((2 * self.cues * self.cue + self.wait + self.decide) / self.dt)

    @property
    def deciding(self) -> int:  # steps
        return round(self.decide / self.dt)


def make_trials(
    config: Config, num_trials: int, key: PRNGKeyArray
) -> tuple[Float[Array, "time trials inputs"], Int[Array, " trials"]]:
    """Input spikes, and the side (0 left, 1 right) that had more cues."""
    side_key, spike_key = jr.split(key)
    right = jr.bernoulli(side_key, 0.5, (config.cues, num_trials))
    on = round(config.cue / config.dt)
    step = jnp.arange(config.num_steps)
    number = step // (2 * on)  # which cue
    shown = (number < config.cues) & (step % (2 * on) < on)
    is_right = right[jnp.minimum(number, config.cues - 1)]
    deciding = step >= config.num_steps - config.deciding
    rates = jnp.stack(  # Hz
        [
            jnp.where(shown[:, None] & ~is_right, 100.0, 0.0),
            jnp.where(shown[:, None] & is_right, 100.0, 0.0),
            jnp.broadcast_to(jnp.where(deciding, 60.0, 0.0)[:, None], is_right.shape),
            jnp.full(is_right.shape, 10.0),
        ],
        axis=-1,
    )
    probability = jnp.repeat(rates * config.dt / 1000, config.population, axis=-1)
    spikes = jr.bernoulli(spike_key, probability).astype(jnp.float32)
    return spikes, (right.sum(0) > config.cues // 2).astype(jnp.int32)


def make_model(config: Config, key: PRNGKeyArray) -> EProp:
    keys, n = jr.split(key, 3), config.neurons
    strength = Frozen(np.where(np.arange(n) < n // 2, 0.0, 0.5))
    adaptation = ThresholdAdaptation(config.tau_adapt, strength=strength, increment=0.3)
    cell = LIFCell(n, config.tau_mem, threshold=0.3, adaptation=adaptation, surrogate=FastSigmoid(5.0), dt=config.dt)
    inputs = eqx.nn.Linear(4 * config.population, n, key=keys[0])
    inputs = eqx.tree_at(lambda layer: layer.weight, inputs, 4 * inputs.weight)  # enough to fire
    feedback = eqx.nn.Linear(n, n, use_bias=False, key=keys[1])
    readout = eqx.nn.Linear(n, 2, key=keys[2])
    return EProp(Sequential([inputs, Recurrent(cell, feedback), readout, LICell(2, config.tau_mem, dt=config.dt)]))


def turns(model: EProp, spikes: Float[Array, "time trials inputs"], deciding: int) -> Int[Array, " trials"]:
    """The side of the larger readout while deciding."""
    ys, _ = scan(model.network, spikes, model.network.init_state(spikes.shape[1:2]))
    return ys[-deciding:].mean(0).argmax(-1)


def plot(config: Config, model: EProp, history: list[float], key: PRNGKeyArray) -> None:
    """One trial, and how the network learned."""
    spikes, side = make_trials(config, 1, key)
    (ys, states), _ = scan(Recorded(model.network), spikes, model.network.init_state((1,)))
    figure, axes = plt.subplots(4, 1, figsize=(9, 11), layout="constrained")
    plot_raster(spikes[:, 0], dt=config.dt, neuron="input: left, right, decide, rest", ax=axes[0])
    plot_raster(states[1].spikes[:, 0], dt=config.dt, neuron="neuron (upper half adapts)", ax=axes[1])
    axes[0].set_title(f"a trial with more cues {('left', 'right')[int(side[0])]}", loc="left")
    plot_membrane(ys[:, 0], dt=config.dt, unit="1", labels=("left", "right"), ax=axes[2])
    axes[2].axvspan((config.num_steps - config.deciding) * config.dt, config.num_steps * config.dt, color="0.9")
    axes[2].set_title("readout; gray: time to decide", loc="left")
    axes[3].plot(1 + np.arange(len(history)), history)
    axes[3].axhline(0.5, color="gray", linestyle="--")
    axes[3].set(xlabel="update", ylabel="share right in the batch", ylim=(0.3, 1.02))
    figure.savefig(config.output / "cue_accumulation.png", dpi=110)


def main(config: Config) -> dict[str, float]:
    config.output.mkdir(parents=True, exist_ok=True)
    model_key, train_key, data_key, test_key, plot_key = jr.split(jr.key(config.seed), 5)
    deciding = (np.arange(config.num_steps) >= config.num_steps - config.deciding).astype(np.float32)
    weight = jnp.asarray(deciding / deciding.mean())

    def step_loss(y: Float[Array, "trials sides"], target: tuple[Array, Array]) -> Float[Array, ""]:
        sides, weight = target
        return weight * optax.softmax_cross_entropy_with_integer_labels(y, sides).mean()

    def loss_fn(model: EProp, batch: PRNGKeyArray, key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
        spikes, sides = make_trials(config, config.batch_size, batch)
        targets = jnp.broadcast_to(sides, (config.num_steps, config.batch_size)), weight
        right = (turns(model, spikes, config.deciding) == sides).mean()
        return with_gradient(eprop, model, spikes, targets, step_loss), {"right": right}

    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.updates))
    step = make_step(loss_fn, optimizer, clip=1.0)
    state = step.init(make_model(config, model_key), key=train_key)
    start = time.perf_counter()
    metrics, state = eqx.filter_jit(lambda keys, state: scan(step, keys, state))(
        jr.split(data_key, config.updates), state
    )
    history = np.asarray(metrics["right"]).tolist()
    seconds = time.perf_counter() - start
    spikes, sides = make_trials(config, 500, test_key)
    accuracy = float(jnp.mean(eqx.filter_jit(turns)(state.model, spikes, config.deciding) == sides))
    plot(config, state.model, history, plot_key)
    print(
        f"{config.updates} updates of e-prop in {seconds:.0f} s: {accuracy:.3f} of 500 new trials right (chance 0.50)"
    )
    assert accuracy >= 0.85, f"the network should remember which side had more cues; got {accuracy:.3f}"
    return {"share of turns right": accuracy}


if __name__ == "__main__":
    main(tyro.cli(Config))
