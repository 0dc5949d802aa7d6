"""Which timescales are mixed in a recording? TiDHy on two switching linear systems seen through twenty channels.

Data: generated; systems 1 and 3 of the benchmark of Abe and Brunton, each switching between a slow and a fast regime,
their emissions partly summed, then projected at random onto 20 channels. Small noise, so that a minute is enough.
Everything is measured on a held-out recording, beside what could fool: true states from latents; regimes decoded from
the mixture weights over blocks of time with a gap, beside raw input and noise of the same smoothness; timescales of
each joint regime, matched one to one, beside the same with regimes shifted in time (chance), one linear model for all
regimes, and principal axes instead of latents. The per-regime fits use the *true* regimes, as in the paper; given
those, principal axes do nearly as well as latents, and one linear model does not: that number is about the data.
Expected (seeds 0 to 2): reconstruction R2 above 0.99; timescales off by a factor of 1.03 to 1.27, principal axes 1.03
to 1.48, one linear model 3.4 to 4.7, chance 3.6 to 4.7; regimes from weights 0.56 to 0.96 (balanced accuracy), which
beats noise (0.5 to 0.55) but seldom the raw input (0.93 to 0.96: regimes differ in level, which one reading shows).
Run time: about 40 s on two cores, half of it compiling. Pictures: latents, regimes and timescales in `demo_output/`.
Reference: Abe and Brunton, bioRxiv 2025 (TiDHy); benchmark and numbers of its PyTorch code.
"""

import pathlib
import time
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tyro
from jaxtyping import PRNGKeyArray
from matplotlib.figure import Figure

from eqx_dynamics import analysis, plot, tidhy
from eqx_dynamics.datasets import DECAYS, FREQUENCIES, Sample, SwitchingLinearSystem, stack_windows
from eqx_dynamics.training import ArrayData, ProgressBar, fit, make_schedule, make_step


@dataclass(frozen=True)
class Config:
    systems: tuple[int, ...] = (0, 2)  # of the three in the benchmark
    process_noise: float = 0.1
    observation_noise: float = 0.05
    num_train: int = 10_000  # time steps
    num_test: int = 4_000
    window: int = 50
    batch_size: int = 20
    epochs: int = 15
    learning_rate: float = 5e-3
    num_components: int = 4
    gap: int = 100  # time steps between blocks that train a readout and blocks that test it
    seed: int = 0
    output: pathlib.Path = pathlib.Path("demo_output")


def make_data(config: Config, key: PRNGKeyArray) -> tuple[SwitchingLinearSystem, np.ndarray, Sample]:
    """The system, a training recording and a test sample, both scaled to unit variance by the training recording."""
    keys = jr.split(key, 3)
    system = SwitchingLinearSystem(
        tuple(DECAYS[n] for n in config.systems),
        tuple(FREQUENCIES[n] for n in config.systems),
        process_noise=config.process_noise,
        observation_noise=config.observation_noise,
        key=keys[0],
    )
    train = np.asarray(system.sample(config.num_train, key=keys[1]).observations)
    test = system.sample(config.num_test, key=keys[2])
    mean, std = train.mean(0), train.std(0)
    test = eqx.tree_at(lambda sample: sample.observations, test, (test.observations - mean[None]) / std[None])
    return system, (train - mean) / std, test


def make_model(config: Config, recording: np.ndarray, key: PRNGKeyArray) -> tidhy.TiDHy:
    """Two latents per system and mixture weights that sum to one; started from principal axes and clusterwise fits."""
    keys = jr.split(key, 4)
    latent_size = 2 * len(config.systems)
    model = tidhy.TiDHy(
        tidhy.LinearDecoder(latent_size, recording.shape[-1], key=keys[0]),
        tidhy.Hypernetwork(4, config.num_components, 32, activation=jax.nn.softmax, squash=jnp.tanh, key=keys[1]),
        tidhy.FullRankTransition(config.num_components, latent_size, use_offsets=True, key=keys[2]),
        prior=tidhy.RandomWalk(0.1),
    )
    return tidhy.initialize(
        model, jnp.asarray(recording)[None], segment_length=30, ridge=0.1, num_rounds=60, num_restarts=40, key=keys[3]
    )


def train(config: Config, model: tidhy.TiDHy, recording: np.ndarray, key: PRNGKeyArray) -> tidhy.TiDHy:
    """Adam with a cosine schedule over windows of the recording."""
    data = ArrayData(jnp.asarray(stack_windows(recording, config.window)), batch_size=config.batch_size)
    rate = make_schedule("cosine", config.learning_rate, steps=config.epochs * data.num_batches)
    step = make_step(tidhy.TiDHyLoss(tidhy.Inference.recommended(model)), optax.adam(rate), clip=100.0)
    state, _ = fit(step.init(model, key=key), step, data, epochs=config.epochs, callbacks=(ProgressBar(),))
    return state.model


def principal_axes(recording: np.ndarray, test: np.ndarray, count: int) -> np.ndarray:
    """The latents that cost nothing: the test recording along the training recording's principal axes."""
    axes = np.linalg.svd(recording - recording.mean(0), full_matrices=False)[2][:count]
    return (test - recording.mean(0)) @ axes.T


def match_timescales(
    system: SwitchingLinearSystem, latents: np.ndarray, regimes: np.ndarray
) -> tuple[analysis.Matching, analysis.Matching]:
    """Timescales of affine fits within each joint regime, and of one fit for all, against the true ones.

    Chance for the former: the regimes shifted in time, as persistent as the true ones but beside the point.
    """
    joint = np.unique(regimes, axis=0, return_inverse=True)
    true = np.repeat(np.asarray(system.timescales)[np.arange(regimes.shape[1]), joint[0]], 2, axis=1)

    def fitted(labels: np.ndarray | None) -> np.ndarray:
        return np.asarray(analysis.spectrum(analysis.fit_transitions(latents, labels)[0]).timescales)

    shifts = np.linspace(200, len(latents) - 200, 99).astype(int)
    null = np.stack([fitted(np.roll(joint[1], shift)) for shift in shifts])
    single = np.repeat(fitted(None), len(true), axis=0)
    return analysis.match_modes(true, fitted(joint[1]), null=null), analysis.match_modes(true, single, null=null)


def draw(config: Config, test: Sample, predicted: np.ndarray, weights: np.ndarray, match: analysis.Matching) -> None:
    """Three pictures: true states and what the latents say of them, regimes above mixture weights, timescales."""
    shown, names = slice(0, 400), [f"system {n + 1}, x{k + 1}" for n in config.systems for k in range(2)]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    states = np.asarray(test.states).reshape(len(test.states), -1)
    plot.plot_latents(predicted[shown], truth=states[shown], names=names, ax=figure.subplots())
    figure.savefig(config.output / "timescales_latents.png", dpi=120)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    rows = [f"system {n + 1}" for n in config.systems]
    plot.plot_regimes(np.asarray(test.regimes)[shown], names=rows, regime_names=("slow", "fast"), ax=top)
    plot.plot_mixture(weights[shown], ax=bottom)
    figure.savefig(config.output / "timescales_regimes.png", dpi=120)
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    plot.plot_matching(match, ax=figure.subplots())
    figure.savefig(config.output / "timescales_recovered.png", dpi=120)


def main(config: Config) -> dict[str, float]:
    config.output.mkdir(parents=True, exist_ok=True)
    data_key, model_key, train_key, noise_key = jr.split(jr.key(config.seed), 4)
    system, recording, test = make_data(config, data_key)
    model = make_model(config, recording, model_key)
    start = time.perf_counter()
    model = train(config, model, recording, train_key)
    print(f"trained in {time.perf_counter() - start:.0f} s, compilation included")

    record, _ = eqx.filter_jit(tidhy.record)(model, test.observations)
    r2 = float(tidhy.r_squared(record.reconstructions[None], test.observations[None]))
    latents, weights = np.asarray(record.latents), np.asarray(record.weights)
    split = analysis.BlockedSplit(gap=config.gap)
    aligned = analysis.align(latents, test.states.reshape(len(latents), -1), split)
    print(f"reconstruction R2 {r2:.4f}; true states from latents: {aligned}\n{analysis.mixture_usage(weights)}")

    decoded = []
    for n, regimes in zip(config.systems, np.asarray(test.regimes).T, strict=True):
        decoded.append(analysis.decode(weights, regimes, test.observations, split, key=jr.fold_in(noise_key, n)))
        print(f"regimes of system {n + 1} from mixture weights: {decoded[-1]}")

    regimes = np.asarray(test.regimes)
    match, single = match_timescales(system, latents, regimes)
    axes = principal_axes(recording, np.asarray(test.observations), latents.shape[1])
    of_axes, _ = match_timescales(system, axes, regimes)
    print(f"timescales within true regimes, from latents: {match}")
    print(f"  from principal axes: {of_axes}\n  from one linear model for all regimes: {single}")
    draw(config, test, aligned.predicted, weights, match)

    if config == Config(seed=config.seed, output=config.output):
        assert r2 > 0.98, "the latents must reconstruct the held-out recording"
        assert match.error < 1.5 < min(match.null_error, single.error), "timescales must be recovered, not by chance"
        assert match.p_value <= 0.05, "shifted regimes must not do as well"
        for found in decoded:
            assert found.features.mean() > found.noise.mean(1).max(), "weights must say more than smooth noise"
    return {
        "reconstruction R2": r2,
        "timescale factor": match.error,
        "by chance": match.null_error,
        "regime decoding": float(np.mean([found.features.mean() for found in decoded])),
        "of raw input": float(np.mean([found.raw_input.mean() for found in decoded])),
    }


if __name__ == "__main__":
    main(tyro.cli(Config))
