"""Which timescales are mixed in a recording? TiDHy on two switching linear systems seen through twenty channels.

Data: generated; systems 1 and 3 of the benchmark of Abe and Brunton, each switching between a slow and a fast regime,
their emissions partly summed, then projected at random onto 20 channels. Small noise, so that a minute is enough.
Expected: reconstruction R2 of a held-out recording about 0.998; the timescales of all four joint regimes, fitted to the
inferred latents, within a factor of 1.3 of the truth on average (asserted: 1.5), one linear model for all 3.1.
The true regimes are used to group time steps, as in the paper; matching is one to one and ignores zero modes.
Run time: about 40 s on two cores, half of it compiling. Pictures: latents and timescales in `demo_output/`.
Reference: Abe and Brunton, bioRxiv 2025 (TiDHy); benchmark and numbers of its PyTorch code.
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
from jaxtyping import PRNGKeyArray
from scipy.optimize import linear_sum_assignment

from eqx_dynamics import tidhy
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
    num_components: int = 6
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
    """Two latents per system and mixture weights that sum to one; started from principal axes and local linear fits."""
    keys = jr.split(key, 4)
    latent_size = 2 * len(config.systems)
    model = tidhy.TiDHy(
        tidhy.LinearDecoder(latent_size, recording.shape[-1], key=keys[0]),
        tidhy.Hypernetwork(4, config.num_components, 32, activation=jax.nn.softmax, squash=jnp.tanh, key=keys[1]),
        tidhy.FullRankTransition(config.num_components, latent_size, use_offsets=True, key=keys[2]),
        prior=tidhy.RandomWalk(0.1),
    )
    return tidhy.initialize(model, jnp.asarray(recording)[None], segment_length=30, key=keys[3])


def train(config: Config, model: tidhy.TiDHy, recording: np.ndarray, key: PRNGKeyArray) -> tidhy.TiDHy:
    """Adam with a cosine schedule over windows of the recording."""
    data = ArrayData(jnp.asarray(stack_windows(recording, config.window)), batch_size=config.batch_size)
    rate = make_schedule("cosine", config.learning_rate, steps=config.epochs * data.num_batches)
    step = make_step(tidhy.TiDHyLoss(tidhy.Inference.recommended(model)), optax.adam(rate), clip=100.0)
    state, _ = fit(step.init(model, key=key), step, data, epochs=config.epochs, callbacks=(ProgressBar(),))
    return state.model


def timescales(transition: np.ndarray) -> np.ndarray:
    """-1 / ln|eigenvalue| in time steps, longest first, without zero modes."""
    sizes = np.abs(np.linalg.eigvals(transition))
    return np.sort(-1 / np.log(np.clip(sizes[sizes > 0.05], None, 0.9999)))[::-1]


def fit_transition(states: np.ndarray, is_step: np.ndarray) -> np.ndarray:
    """Least-squares affine map from one time step to the next, over steps t -> t + 1 where `is_step[t]`."""
    inputs = np.c_[states[:-1], np.ones(len(states) - 1)][is_step]
    return np.linalg.lstsq(inputs, states[1:][is_step], rcond=None)[0][:-1].T


def match(true: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, float]:
    """The found timescale of each true one, no two sharing one, and the mean factor between them."""
    cost = np.abs(np.log(true[:, None] / found[None]))
    rows, columns = linear_sum_assignment(cost)
    return found[columns], float(np.exp(cost[rows, columns].mean()))


def plot_latents(test: Sample, aligned: np.ndarray, shown: int, path: pathlib.Path) -> None:
    num_systems = test.states.shape[1]
    figure, axes = plt.subplots(num_systems, 1, figsize=(9, 2.6 * num_systems), sharex=True, constrained_layout=True)
    for n, axis in enumerate(np.atleast_1d(axes)):
        axis.plot(test.states[:shown, n, 0], color="black", linewidth=2, label="true state")
        axis.plot(aligned[:shown, n, 0], color="tab:orange", linewidth=1, label="inferred latents, rotated to fit")
        low, high = axis.get_ylim()
        fast = np.asarray(test.regimes[:shown, n] == 1)
        axis.fill_between(np.arange(shown), low, high, where=fast, color="tab:blue", alpha=0.15, label="fast regime")
        axis.set(ylabel=f"system {n + 1}, first coordinate", ylim=(low, high))
    np.atleast_1d(axes)[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize="small")
    np.atleast_1d(axes)[-1].set_xlabel("time (steps)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_timescales(rows: list[tuple[str, np.ndarray, np.ndarray]], control: np.ndarray, path: pathlib.Path) -> None:
    figure, axis = plt.subplots(figsize=(5.4, 4.6), constrained_layout=True)
    for name, true, found in rows:
        axis.loglog(true, found, "o", alpha=0.7, label=name)
    axis.loglog(control[0], control[1], "x", color="gray", label="one linear model for all")
    limits = (1, 200)
    axis.plot(limits, limits, color="black", linewidth=0.8)
    axis.set(xlabel="true timescale (steps)", ylabel="recovered timescale (steps)", xlim=limits, ylim=limits)
    axis.legend(title="regimes", fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(config: Config) -> dict[str, float]:
    config.output.mkdir(parents=True, exist_ok=True)
    data_key, model_key, train_key = jr.split(jr.key(config.seed), 3)
    system, recording, test = make_data(config, data_key)
    model = make_model(config, recording, model_key)
    start = time.perf_counter()
    model = train(config, model, recording, train_key)
    print(f"trained in {time.perf_counter() - start:.0f} s, compilation included")

    solution, _ = eqx.filter_jit(tidhy.infer)(model, test.observations)
    estimates = tidhy.reconstruct(model, solution.latents)
    r2 = float(tidhy.r_squared(estimates[None], test.observations[None]))
    latents, states = np.asarray(solution.latents), np.asarray(test.states)
    flat = states.reshape(len(states), -1)
    inputs = np.c_[latents, np.ones(len(latents))]
    aligned = inputs @ np.linalg.lstsq(inputs, flat, rcond=None)[0]
    state_r2 = 1 - ((flat - aligned) ** 2).sum() / ((flat - flat.mean(0)) ** 2).sum()

    regimes, true_table = np.asarray(test.regimes), np.asarray(system.timescales)
    overall = timescales(fit_transition(latents, np.ones(len(latents) - 1, bool)))
    rows, factors, control_factors = [], [], []
    for regime in np.unique(regimes, axis=0):
        stays = (regimes[:-1] == regime).all(1) & (regimes[1:] == regime).all(1)
        true = np.repeat([true_table[n, z] for n, z in enumerate(regime)], 2)
        found, factor = match(true, timescales(fit_transition(latents, stays)))
        control, control_factor = match(true, overall)
        name = " + ".join(("slow", "fast")[z] for z in regime)
        print(f"{name}: true {true.round(1)}, recovered {found.round(1)}, linear model {control.round(1)}")
        rows.append((name, true, found))
        factors.append(factor)
        control_factors.append(control_factor)
    factor, control_factor = (float(np.exp(np.mean(np.log(f)))) for f in (factors, control_factors))
    plot_latents(test, aligned.reshape(states.shape), 400, config.output / "timescales_latents.png")
    pairs = (np.concatenate([true for _, true, _ in rows]), np.concatenate([match(t, overall)[0] for _, t, _ in rows]))
    plot_timescales(rows, np.stack(pairs), config.output / "timescales_recovered.png")

    print(f"reconstruction R2 {r2:.4f}; true states from latents R2 {state_r2:.3f}")
    print(
        f"timescales off by a factor of {factor:.2f} on average; one linear model for all regimes: {control_factor:.2f}"
    )
    if config == Config(output=config.output):
        assert r2 > 0.98, "the latents must reconstruct the held-out recording"
        assert factor < 1.5 < control_factor, "the timescales must be recovered, and not by a single linear model"
    return {"reconstruction R2": r2, "timescale factor": factor, "linear model's factor": control_factor}


if __name__ == "__main__":
    main(tyro.cli(Config))
