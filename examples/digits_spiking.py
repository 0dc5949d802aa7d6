"""Can a network that speaks only in spikes read handwriting? Latency-coded digits, LIF neurons, surrogate gradients.

Data: scikit-learn's 1,797 real digits of 8 x 8 pixels (UCI Optical Recognition of Handwritten Digits; E. Alpaydin and
C. Kaynak, 1998). A bright pixel fires one early spike, a dim one a late spike, a black one none.
Expected: test accuracy 0.97 to 0.98 on 450 digits held out (chance 0.10); asserted to be at least 0.95.
Run time: about 20 s on two cores, most of it starting up. Pictures: spike raster and membrane traces in `demo_output/`.
Reference: Zenke and Vogels, Neural Computation 2021 (surrogate gradients); Comsa et al., ICASSP 2020 (latency code).
"""

import pathlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.ticker import MaxNLocator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from eqx_dynamics import Recorded, Sequential, scan
from eqx_dynamics.plot import plot_membrane, plot_raster
from eqx_dynamics.spiking import ConstantGain, FastSigmoid, LICell, LIFCell
from eqx_dynamics.training import ArrayData, ProgressBar, fit, make_step


@dataclass(frozen=True)
class Config:
    hidden: int = 128
    num_steps: int = 20  # of 1 ms
    tau_mem: float = 10.0  # ms
    slope: float = 5.0  # of the surrogate
    noise: float = 0.2  # added to bright pixels in training
    learning_rate: float = 1e-2
    batch_size: int = 64
    epochs: int = 60
    seed: int = 0
    output: pathlib.Path = pathlib.Path("demo_output")


def make_data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Pixels in [0, 1] and labels; a stratified quarter is held out."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = np.asarray(pixels, np.float32) / 16, np.asarray(labels, np.int32)
    parts = train_test_split(pixels, labels, test_size=450, random_state=0, stratify=labels)
    x_train, x_test, y_train, y_test = (np.asarray(part) for part in parts)
    return (x_train, y_train), (x_test, y_test)


def latency_code(pixels: Float[Array, "batch pixels"], num_steps: int) -> Float[Array, "time batch pixels"]:
    """One spike a pixel, the earlier the brighter; black pixels stay silent."""
    spike_step = jnp.where(pixels > 0, jnp.round((1 - pixels) * (num_steps - 1)), num_steps)
    return (jnp.arange(num_steps)[:, None, None] == spike_step).astype(pixels.dtype)


def make_model(config: Config, key: PRNGKeyArray) -> Sequential:
    """Two layers of spiking neurons and a leaky readout."""
    gain = ConstantGain()  # a spike jumps the membrane by its weight
    surrogate = FastSigmoid(slope=config.slope)
    lif = LIFCell(config.hidden, config.tau_mem, input_gain=gain, surrogate=surrogate)
    readout = LICell(10, config.tau_mem)
    sizes = (64, config.hidden, config.hidden, 10)
    linears = [eqx.nn.Linear(sizes[i], sizes[i + 1], key=k) for i, k in enumerate(jr.split(key, 3))]
    return Sequential([linears[0], lif, linears[1], lif, linears[2], readout])


def logits_of(model: Sequential, pixels: Float[Array, "batch pixels"], num_steps: int) -> Float[Array, "batch digits"]:
    """The mean over time of the readout's membranes."""
    membranes, _ = scan(model, latency_code(pixels, num_steps), model.init_state(pixels.shape[:1]))
    return membranes.mean(0)


def make_loss(config: Config) -> Callable:
    def loss_fn(model: Sequential, batch: tuple[Array, Array], key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
        pixels, labels = batch
        noisy = jnp.clip(pixels + config.noise * jr.normal(key, pixels.shape), 0.01, 1.0)  # jitters the spike times
        logits = logits_of(model, jnp.where(pixels > 0, noisy, 0), config.num_steps)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, {"accuracy": (logits.argmax(-1) == labels).mean()}

    return loss_fn


def plot(config: Config, model: Sequential, pixels: np.ndarray, labels: np.ndarray) -> None:
    """A raster of every layer, and membranes with their threshold, for the first digit given."""
    inputs = latency_code(jnp.asarray(pixels[:1]), config.num_steps)
    layers = {"input pixel": inputs}
    for number, depth in enumerate((2, 4), start=1):
        part = Sequential(model.layers[:depth])
        layers[f"neuron, layer {number}"] = scan(part, inputs, part.init_state((1,)))[0]
    (readout, states), _ = scan(Recorded(model), inputs, model.init_state((1,)))

    figure, axes = plt.subplots(3, 1, figsize=(7, 7), sharex=True, layout="constrained")
    for axis, (name, spikes) in zip(axes, layers.items(), strict=True):
        plot_raster(spikes[:, 0], neuron=name, ax=axis)
        axis.label_outer()
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_title(f"Digit {labels[0]}: one early spike for a bright pixel", loc="left")
    figure.savefig(config.output / "digits_raster.png", dpi=120)

    figure, axes = plt.subplots(2, 1, figsize=(7, 5.5), sharex=True, layout="constrained")
    hidden = layers["neuron, layer 1"][:, 0]
    busiest = np.argsort(-np.asarray(hidden.sum(0)))[:3]
    names = tuple(f"neuron {i}" for i in busiest)
    membranes, unit = states[1].membrane[:, 0, busiest], "units of threshold"
    plot_membrane(membranes, spikes=hidden[:, busiest], threshold=1.0, unit=unit, labels=names, ax=axes[0])
    axes[0].set(title="Layer 1 after reset; bars mark spikes", xlabel="")
    plot_membrane(readout[:, 0], unit=unit, labels=tuple(f"digit {i}" for i in range(10)), ax=axes[1])
    for digit, line in enumerate(axes[1].lines):
        line.set(color="C3" if digit == labels[0] else "lightgray", zorder=3 if digit == labels[0] else 1)
    axes[1].get_legend().remove()
    axes[1].set(title=f"Readouts of ten digits; red: {labels[0]}, the truth", ylabel=f"readout ({unit})")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(config.output / "digits_membrane.png", dpi=120)
    plt.close("all")


def main(config: Config) -> dict[str, float]:
    config.output.mkdir(parents=True, exist_ok=True)
    train, (x_test, y_test) = make_data()
    model_key, train_key = jr.split(jr.key(config.seed))
    num_steps = config.epochs * (len(train[0]) // config.batch_size + 1)
    step = make_step(make_loss(config), optax.adam(optax.cosine_decay_schedule(config.learning_rate, num_steps)))
    state = step.init(make_model(config, model_key), key=train_key)
    start = time.perf_counter()
    state, history = fit(
        state, step, ArrayData(train, config.batch_size), epochs=config.epochs, callbacks=(ProgressBar(),)
    )
    seconds = time.perf_counter() - start

    logits = eqx.filter_jit(logits_of)(state.model, jnp.asarray(x_test), config.num_steps)
    accuracy = float(np.mean(np.asarray(logits).argmax(-1) == y_test))
    plot(config, state.model, x_test, y_test)
    print(f"trained {config.epochs} epochs in {seconds:.1f} s, training accuracy {history['accuracy'][-1]:.3f}")
    print(f"test accuracy {accuracy:.3f} on {len(y_test)} held-out digits (chance 0.10); pictures in {config.output}/")
    assert accuracy >= 0.95, f"the spiking network should read at least 95 % of the digits; got {accuracy:.3f}"
    return {"test accuracy": accuracy}


if __name__ == "__main__":
    main(tyro.cli(Config))
