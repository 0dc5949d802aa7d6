"""Can spikes tell who is speaking? Nine speakers' vowels, by recurrent adaptive neurons beside a GRU of equal size.

Data: JapaneseVowels (Kudo, Toyama and Shimbo, 1999; shipped with the package): 270 utterances to learn from and 370 to
be tested on, 7 to 29 frames of 12 cepstrum coefficients, each frame 6.4 ms.
Expected: the spiking network names 0.95 of the test speakers, the GRU, with three times the weights, 0.97 (chance
0.11); asserted: at least 0.92, and at most 0.05 below the GRU. Run time: half a minute on two cores. Picture:
`japanese_vowels.png` in `demo_output/`.
Reference: Bellec, Salaj, Subramoney, Legenstein and Maass, NeurIPS 2018 (recurrent networks of ALIF neurons).
"""

import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, PRNGKeyArray

from eqx_dynamics import AbstractCell, Recorded, Sequential, scan
from eqx_dynamics.datasets import Recording, japanese_vowels
from eqx_dynamics.plot import plot_membrane, plot_raster
from eqx_dynamics.spiking import FastSigmoid, LICell, LIFCell, Recurrent, ThresholdAdaptation
from eqx_dynamics.training import ArrayData, ProgressBar, fit, make_step


@dataclass(frozen=True)
class Config:
    hidden: int = 64
    tau_mem: float = 20.0  # ms
    tau_adapt: float = 100.0  # ms
    noise: float = 0.3  # standard deviations, added to the frames in training
    learning_rate: float = 1e-2
    batch_size: int = 45
    epochs: int = 80
    seed: int = 0
    output: pathlib.Path = pathlib.Path("demo_output")


Batch = tuple[Array, Array, Array]  # frames (batch, time, channels), mask (batch, time), labels (batch,)


class GRU(AbstractCell[Float[Array, "*batch hidden"]]):
    """Equinox's cell for any batch, its state put out."""

    cell: eqx.nn.GRUCell

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> Float[Array, "..."]:
        return jnp.zeros((*shape, self.cell.hidden_size))

    def __call__(
        self, x: Float[Array, "batch channels"], state: Float[Array, "batch hidden"], *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "batch hidden"], Float[Array, "batch hidden"]]:
        state = jax.vmap(self.cell)(x, state)
        return state, state


def make_alif(
    channels: int, hidden: int, classes: int, *, tau_mem: float, tau_adapt: float, dt: float, key: PRNGKeyArray
) -> Sequential:
    """Frames as currents into neurons that tire and feed each other, read out by leaky integrators; times in ms."""
    keys = jr.split(key, 3)
    adaptation = ThresholdAdaptation(tau_adapt, increment=0.3)
    neurons = LIFCell(hidden, tau_mem, threshold=0.5, adaptation=adaptation, surrogate=FastSigmoid(5.0), dt=dt)
    inputs = eqx.nn.Linear(channels, hidden, key=keys[0])
    inputs = eqx.tree_at(lambda layer: layer.weight, inputs, 3 * inputs.weight)  # enough to fire
    feedback = eqx.nn.Linear(hidden, hidden, use_bias=False, key=keys[1])
    readout = eqx.nn.Linear(hidden, classes, key=keys[2])
    return Sequential([inputs, Recurrent(neurons, feedback), readout, LICell(classes, tau_mem, dt=dt)])


def make_gru(channels: int, hidden: int, classes: int, *, key: PRNGKeyArray) -> Sequential:
    """As many units, each with its gates."""
    keys = jr.split(key)
    return Sequential([GRU(eqx.nn.GRUCell(channels, hidden, key=keys[0])), eqx.nn.Linear(hidden, classes, key=keys[1])])


def logits_of(model: Sequential, frames: Array, mask: Array) -> Float[Array, "batch classes"]:
    """The mean of the output over the frames that there are."""
    ys, _ = scan(model, jnp.swapaxes(frames, 0, 1), model.init_state(frames.shape[:1]))
    weight = mask.T[..., None] / mask.sum(1)[None, :, None]
    return (ys * weight).sum(0)


def make_loss(noise: float) -> Callable:
    def loss_fn(model: Sequential, batch: Batch, key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
        frames, mask, labels = batch
        logits = logits_of(model, frames + noise * jr.normal(key, frames.shape), mask)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, {"accuracy": (logits.argmax(-1) == labels).mean()}

    return loss_fn


def arrays_of(recording: Recording) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return recording.observations, recording.mask.astype(np.float32), recording.labels


def train(model: Sequential, recording: Recording, config: Any, key: PRNGKeyArray) -> tuple[Sequential, float]:
    """The trained model, and the seconds that took."""
    data = ArrayData(arrays_of(recording), config.batch_size)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.epochs * data.num_batches)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    step = make_step(make_loss(config.noise), optimizer)
    start = time.perf_counter()
    state, _ = fit(step.init(model, key=key), step, data, epochs=config.epochs, callbacks=(ProgressBar(),))
    return state.model, time.perf_counter() - start


def predict(model: Sequential, recording: Recording) -> np.ndarray:
    frames, mask, _ = arrays_of(recording)
    return np.asarray(eqx.filter_jit(logits_of)(model, jnp.asarray(frames), jnp.asarray(mask))).argmax(-1)


def compare(
    models: dict[str, Sequential], parts: tuple[Recording, Recording], config: Any, key: PRNGKeyArray
) -> tuple[dict[str, Sequential], dict[str, float], dict[str, np.ndarray]]:
    """Each model trained; its test accuracy and predictions."""
    trained, accuracy, predicted = {}, {}, {}
    for name, model in models.items():
        trained[name], seconds = train(model, parts[0], config, key)
        predicted[name] = predict(trained[name], parts[1])
        accuracy[name] = float(np.mean(predicted[name] == parts[1].labels))
        size = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
        print(f"{name}: test accuracy {accuracy[name]:.3f}, {size} parameters, trained in {seconds:.1f} s")
    return trained, accuracy, predicted


def plot(path: pathlib.Path, net: Sequential, test: Recording, predicted: dict[str, np.ndarray], dt: float) -> None:
    """Confusions of both networks, and what one trial sets off in the spiking one."""
    trial = int(np.argmax(test.lengths))
    frames = jnp.asarray(test.observations[trial, : test.lengths[trial]])
    (_, states), _ = scan(Recorded(net), frames, net.init_state())
    spikes, neurons = states[1].spikes, states[1].cell
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    for axis, (name, guesses) in zip(axes[0], predicted.items(), strict=True):
        counts = np.zeros((len(test.label_names),) * 2, int)
        np.add.at(counts, (test.labels, guesses), 1)
        figure.colorbar(axis.imshow(counts, cmap="Blues"), ax=axis, label="trials")
        title, ticks = f"{name}: {(guesses == test.labels).mean():.3f} right", range(len(test.label_names))
        axis.set(xlabel="class named", ylabel="class", title=title, xticks=ticks, yticks=ticks)
        axis.set_xticklabels(test.label_names, rotation=20)
        axis.set_yticklabels(test.label_names)
    plot_raster(spikes, dt=dt, ax=axes[1, 0])
    axes[1, 0].set_title(f"what trial {trial} sets off", loc="left")
    chosen = np.argsort(np.abs(np.asarray(spikes.mean(0)) - 0.3))[:3]  # neither silent nor always firing
    layer = net.layers[1]
    assert isinstance(layer, Recurrent) and isinstance(layer.cell, LIFCell)
    threshold = jnp.asarray(layer.cell.threshold_of(neurons))[:, chosen]
    labels = tuple(f"neuron {i}" for i in chosen)
    plot_membrane(
        neurons.membrane[:, chosen],
        spikes=spikes[:, chosen],
        threshold=threshold,
        dt=dt,
        labels=labels,
        ax=axes[1, 1],
    )
    axes[1, 1].set_title("three neurons, their adapting thresholds dashed")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def study(config: Any, raw: tuple[Recording, Recording], picture: str) -> dict[str, float]:
    """The test accuracy of spiking neurons and of a GRU as large, on labelled recordings, and a picture of both."""
    config.output.mkdir(parents=True, exist_ok=True)
    parts = raw[0].standardize(), raw[1].standardize(like=raw[0])
    dt = 1000 * raw[0].time_step
    sizes = parts[0].observations.shape[-1], config.hidden, len(parts[0].label_names)
    alif_key, gru_key, train_key = jr.split(jr.key(config.seed), 3)
    taus = {"tau_mem": config.tau_mem, "tau_adapt": config.tau_adapt}
    models = {"ALIF": make_alif(*sizes, **taus, dt=dt, key=alif_key), "GRU": make_gru(*sizes, key=gru_key)}
    trained, accuracy, predicted = compare(models, parts, config, train_key)
    plot(config.output / picture, trained["ALIF"], parts[1], predicted, dt)
    return accuracy


def main(config: Config) -> dict[str, float]:
    accuracy = study(config, japanese_vowels(), "japanese_vowels.png")
    assert accuracy["ALIF"] >= max(0.92, accuracy["GRU"] - 0.05), f"spikes should do about as well; got {accuracy}"
    return {f"{name} test accuracy": value for name, value in accuracy.items()}


if __name__ == "__main__":
    main(tyro.cli(Config))
