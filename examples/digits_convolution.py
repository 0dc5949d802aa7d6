"""Does it help a spiking network to see that pixels are neighbours? Latency-coded digits, convolutions of spikes.

Data: scikit-learn's 1,797 real digits of 8 x 8 pixels (UCI Optical Recognition of Handwritten Digits; E. Alpaydin and
C. Kaynak, 1998). A bright pixel fires one early spike, a dim one a late spike, a black one none.
Expected: test accuracy about 0.98 on 450 digits held out (chance 0.10); asserted to be at least 0.97.
Run time: about half a minute on two cores. Pictures: spikes and rates of every layer, the weights, and an animation of
the first layer's channels, in `demo_output/`.
Reference: Kheradpisheh, Ganjtabesh, Thorpe and Masquelier, Neural Networks 2018 (convolutions of latency codes);
trained here with surrogate gradients (Zenke and Vogels, Neural Computation 2021).
"""

import pathlib
import time
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, PRNGKeyArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from eqx_dynamics import PerSample, Sequential, scan
from eqx_dynamics.plot import animate_activity, plot_activity, plot_raster, plot_weight_distribution
from eqx_dynamics.spiking import ConstantGain, FastSigmoid, LICell, LIFCell, latency_encode
from eqx_dynamics.training import make_step


@dataclass(frozen=True)
class Config:
    channels: tuple[int, int] = (16, 32)
    num_steps: int = 10  # of 1 ms
    tau_mem: float = 8.0  # ms
    slope: float = 5.0  # of the surrogate
    noise: float = 0.1  # added to bright pixels in training: jitters the spike times
    learning_rate: float = 1e-2
    batch_size: int = 64
    epochs: int = 30
    seed: int = 0
    output: pathlib.Path = pathlib.Path("demo_output")


Images = Float[Array | np.ndarray, "batch 1 height width"]


def make_data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images in [0, 1] and labels; a stratified quarter is held out."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels, np.float32).reshape(-1, 1, 8, 8) / 16
    parts = train_test_split(images, np.asarray(labels, np.int32), test_size=450, random_state=0, stratify=labels)
    x_train, x_test, y_train, y_test = (np.asarray(part) for part in parts)
    return (x_train, y_train), (x_test, y_test)


def make_model(config: Config, key: PRNGKeyArray) -> Sequential:
    """Convolution, neurons, a convolution that halves the image, neurons, and a leaky readout of them all."""
    first, second = config.channels
    keys = jr.split(key, 3)

    def neurons(*size: int) -> LIFCell:  # a spike jumps the membrane by its weight
        surrogate = FastSigmoid(config.slope)
        return LIFCell(size, config.tau_mem, threshold=0.5, input_gain=ConstantGain(), surrogate=surrogate)

    return Sequential(
        [
            eqx.nn.Conv2d(1, first, 3, padding=1, key=keys[0]),
            neurons(first, 8, 8),
            eqx.nn.Conv2d(first, second, 3, stride=2, padding=1, key=keys[1]),
            neurons(second, 4, 4),
            PerSample(jnp.ravel, 3),
            eqx.nn.Linear(second * 16, 10, key=keys[2]),
            LICell(10, config.tau_mem),
        ]
    )


def logits_of(model: Sequential, images: Images, num_steps: int) -> Float[Array, "batch digits"]:
    """The mean over time of the readout's membranes."""
    spikes = latency_encode(jnp.asarray(images), num_steps, curve="linear")
    return scan(model, spikes, model.init_state(images.shape[:1]))[0].mean(0)


def plot(config: Config, model: Sequential, images: np.ndarray, labels: np.ndarray) -> None:
    """What the first test digit sets off, layer by layer."""
    spikes = latency_encode(jnp.asarray(images[:1]), config.num_steps, curve="linear")
    layers = {"pixels": spikes[:, 0].reshape(config.num_steps, -1)}
    for number, depth in enumerate((2, 4), start=1):
        part = Sequential(model.layers[:depth])
        fired = scan(part, spikes, part.init_state((1,)))[0][:, 0]
        layers[f"layer {number}"] = fired.reshape(config.num_steps, -1)
        if number == 1:
            sheet = fired.transpose(0, 2, 1, 3).reshape(config.num_steps, 8, -1)  # channels side by side
            figure, axis = plt.subplots(figsize=(12, 2.2), layout="constrained")
            moving = animate_activity(sheet, label="spike", interval=400, ax=axis)
            axis.set(xlabel="column, channel after channel", ylabel="row")
            moving.save(config.output / "digits_convolution.gif", writer="pillow", dpi=80)
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axis, (name, fired) in zip(axes.flat, layers.items(), strict=False):
        plot_raster(fired, neuron=f"neuron, {name}", ax=axis)
    axes[0, 0].set_title(f"Digit {labels[0]}", loc="left")
    plot_activity(layers, ax=axes[1, 1])
    figure.savefig(config.output / "digits_convolution_spikes.png", dpi=120)
    weights = [leaf for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)) if leaf.shape[-1] > 1]
    kernels = {f"layer {i + 1}": leaf for i, leaf in enumerate(weights)}
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    plot_weight_distribution(kernels, ax=axis)
    figure.savefig(config.output / "digits_convolution_weights.png", dpi=120)
    plt.close("all")


def main(config: Config) -> dict[str, float]:
    config.output.mkdir(parents=True, exist_ok=True)
    train, (x_test, y_test) = make_data()
    model_key, train_key = jr.split(jr.key(config.seed))

    def loss_fn(model: Sequential, batch: tuple[Array, Array], key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
        images, labels = batch
        noisy = jnp.clip(images + config.noise * jr.normal(key, images.shape), 0.02, 1.0)
        logits = logits_of(model, jnp.where(images > 0, noisy, 0), config.num_steps)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, {"accuracy": (logits.argmax(-1) == labels).mean()}

    images, labels = train
    per_epoch = len(images) // config.batch_size
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.epochs * per_epoch)
    step = make_step(loss_fn, optax.adam(schedule))
    state = step.init(make_model(config, model_key), key=train_key)
    # A loop on the host, not `fit`: XLA on CPU runs convolutions inside a compiled loop a dozen times slower.
    compiled_step, rng, start = eqx.filter_jit(step), np.random.default_rng(config.seed), time.perf_counter()
    metrics = {}
    for _ in range(config.epochs):
        for chosen in rng.permutation(len(images))[: per_epoch * config.batch_size].reshape(per_epoch, -1):
            metrics, state = compiled_step((images[chosen], labels[chosen]), state)
    seconds = time.perf_counter() - start

    logits = eqx.filter_jit(logits_of)(state.model, x_test, config.num_steps)
    accuracy = float(np.mean(np.asarray(logits).argmax(-1) == y_test))
    plot(config, state.model, x_test, y_test)
    print(f"trained {config.epochs} epochs in {seconds:.1f} s, last batch's accuracy {float(metrics['accuracy']):.3f}")
    print(f"test accuracy {accuracy:.3f} on {len(y_test)} held-out digits (chance 0.10); pictures in {config.output}/")
    assert accuracy >= 0.97, f"the convolutions should read at least 97 % of the digits; got {accuracy:.3f}"
    return {"test accuracy": accuracy}


if __name__ == "__main__":
    main(tyro.cli(Config))
