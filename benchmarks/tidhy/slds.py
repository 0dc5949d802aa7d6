"""Does TiDHy demix three switching linear systems? The published benchmark, eight seeds in one compiled program.

    python benchmarks/tidhy/slds.py

Data: three systems of two dimensions and two regimes each, emissions partly summed, seen through 20 channels, with the
noise of the PyTorch-era code. The channels have rank 5, the states 6 dimensions, and training gradients do not reach
back in time, so that what one time step does not show cannot be learned from it: with `--delays` the model sees each
time step beside those before it. All seeds share the recording and the order of batches and differ in their initial
model; `--temporal` and `--precision` take one value for all of them or one for each.
Printed, as mean and spread over seeds: canonical correlations of each system's state with the latents (in sample, as
published, and on held-out blocks), beside those of the raw channels, of their lags and of an informed Kalman filter;
regimes decoded from the context latents on held-out blocks of time, beside the raw input and noise of the same
smoothness; reconstruction R2.
Upstream's best: (.996, .843) (.974, .896) (1.0, .571).
"""

import dataclasses
import time
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tyro
from inference import calibration
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eqx_dynamics import analysis, tidhy
from eqx_dynamics.datasets import Sample, SwitchingLinearSystem, delay_embed, stack_windows
from eqx_dynamics.training import TrainState, TrainStep, make_schedule, make_step, optimizer_groups


@dataclasses.dataclass(frozen=True)
class Config:
    num_train: int = 20_000  # time steps
    num_test: int = 5_000
    delays: int = 3
    window: int = 50
    batch_size: int = 32
    steps: int = 300
    learning_rate: float = 5e-3
    latent_size: int = 15
    context_size: int = 8
    num_components: int = 8
    hidden_size: int = 32
    temporal: tuple[float, ...] = (2.0,)
    precision: tuple[float, ...] = (0.03,)
    num_seeds: int = 8
    neighbors: int = 15
    seed: int = 0


def make_system(config: Config) -> SwitchingLinearSystem:
    return SwitchingLinearSystem(key=jr.split(jr.key(config.seed), 3)[0])


def make_data(config: Config) -> tuple[np.ndarray, Sample]:
    """A training recording and a test sample, both scaled to unit variance by the training recording."""
    system, (_, train_key, test_key) = make_system(config), jr.split(jr.key(config.seed), 3)
    train = np.asarray(system.sample(config.num_train, key=train_key).observations)
    test = system.sample(config.num_test, key=test_key)
    mean, std = train.mean(0), train.std(0)
    scaled = (test.observations - mean[None]) / std[None]
    return (train - mean) / std, eqx.tree_at(lambda sample: sample.observations, test, scaled)


def make_model(config: Config, recording: jax.Array, precision: jax.Array, key: jax.Array) -> tidhy.TiDHy:
    """Mixture weights that sum to one, affine components, started from principal axes and local linear fits."""
    keys = jr.split(key, 4)
    sizes = (config.num_components, config.latent_size)
    network = tidhy.Hypernetwork(
        config.context_size,
        config.num_components,
        config.hidden_size,
        activation=jax.nn.softmax,
        squash=jnp.tanh,
        key=keys[1],
    )
    model = tidhy.TiDHy(
        tidhy.LinearDecoder(config.latent_size, recording.shape[-1], key=keys[0]),
        network,
        tidhy.FullRankTransition(*sizes, use_offsets=True, key=keys[2]),
        prior=tidhy.RandomWalk(precision),
    )
    return tidhy.initialize(model, recording[None], segment_length=30, key=keys[3])


def make_member(config: Config, temporal: jax.Array) -> TrainStep:
    """The training step of one member: its own weight of the temporal term."""
    inference = tidhy.Inference(objective=tidhy.Objective(temporal=temporal))
    rate = make_schedule("cosine", config.learning_rate, steps=config.steps)
    # The prior's precision is a choice, not a parameter.
    groups = {"prior": optax.set_to_zero(), "decoder": optax.adam(rate), "hypernetwork": optax.adam(rate)}
    optimizer = optimizer_groups({**groups, "transition": optax.adam(rate)})
    return make_step(tidhy.TiDHyLoss(inference), optimizer, clip=100.0, nan_policy=None)


def train(config: Config, recording: np.ndarray) -> tuple[tidhy.TiDHy, np.ndarray, np.ndarray]:
    """All members in one program; the stacked models, their temporal weights and the loss of every step."""
    members = lambda values: jnp.asarray(np.resize(np.asarray(values, np.float32), config.num_seeds))  # noqa: E731
    temporal, precision = members(config.temporal), members(config.precision)
    windows = jnp.asarray(stack_windows(recording, config.window, stride=config.window // 2))

    @eqx.filter_jit
    @eqx.filter_vmap
    def init(temporal: jax.Array, precision: jax.Array, key: jax.Array) -> TrainState:
        model = make_model(config, jnp.asarray(recording), precision, key)
        return make_member(config, temporal).init(model, key=key)

    def advance(state: TrainState, batch: jax.Array) -> tuple[TrainState, jax.Array]:
        def step(temporal: jax.Array, state: TrainState) -> tuple[jax.Array, TrainState]:
            metrics, state = make_member(config, temporal)(batch, state)
            return metrics["loss"], state

        losses, state = eqx.filter_vmap(step)(temporal, state)
        return state, losses

    @eqx.filter_jit
    def run(state: TrainState, key: jax.Array) -> tuple[TrainState, jax.Array]:
        arrays, static = eqx.partition(state, eqx.is_array)

        def body(arrays, key):
            chosen = windows[jr.choice(key, windows.shape[0], (config.batch_size,), replace=False)]
            state, losses = advance(eqx.combine(arrays, static), chosen)
            return eqx.filter(state, eqx.is_array), losses

        arrays, losses = jax.lax.scan(body, arrays, jr.split(key, 50))
        return eqx.combine(arrays, static), losses

    state = init(temporal, precision, jr.split(jr.key(config.seed + 1), config.num_seeds))
    losses, start = [], time.perf_counter()
    for number in range(config.steps // 50):
        state, part = run(state, jr.fold_in(jr.key(config.seed + 2), number))
        losses.append(np.asarray(part))
        if number % 6 == 0:
            print(f"step {50 * (number + 1):5d}: losses {losses[-1][-1].round(1)}, {time.perf_counter() - start:.0f} s")
    return state.model, np.asarray(temporal), np.concatenate(losses)


def kalman(system: SwitchingLinearSystem, recording: np.ndarray, regimes: np.ndarray) -> np.ndarray:
    """States by a Kalman filter that is told all parameters and the regimes: what any model could hope for.

    **Arguments:** `recording`: in the system's own units; five mixed channels behind a projection.
    """
    seen = recording * np.asarray(system.scale) @ np.linalg.pinv(np.asarray(system.projection)).T
    emissions, offsets = np.asarray(system.emissions), np.asarray(system.offsets)
    num_systems = len(emissions)
    mixed = np.zeros((2 + num_systems, 2 * num_systems))
    for n in range(num_systems):
        mixed[:2, 2 * n : 2 * n + 2], mixed[2 + n, 2 * n : 2 * n + 2] = emissions[n, :2], emissions[n, 2]
    offset = np.concatenate([offsets[:, :2].sum(0), offsets[:, 2]])
    noise = np.diag([num_systems] * 2 + [1] * num_systems) * system.observation_noise**2
    transitions, biases = np.asarray(system.transitions), np.asarray(system.biases)
    mean, covariance, means = np.zeros(2 * num_systems), 10 * np.eye(2 * num_systems), []
    for y, regime in zip(seen, regimes, strict=True):
        step = np.zeros_like(covariance)
        for n, z in enumerate(regime):
            step[2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = transitions[n, z]
        mean = step @ mean + np.concatenate([biases[n, z] for n, z in enumerate(regime)])
        covariance = step @ covariance @ step.T + system.process_noise**2 * np.eye(len(mean))
        gain = covariance @ mixed.T @ np.linalg.inv(mixed @ covariance @ mixed.T + noise)
        mean, covariance = mean + gain @ (y - offset - mixed @ mean), covariance - gain @ mixed @ covariance
        means.append(mean)
    return np.array(means)


def lags(observations: np.ndarray, count: int = 5) -> np.ndarray:
    """Each time step beside those before it."""
    return np.concatenate([np.roll(observations, n, axis=0) for n in range(count)], axis=1)


def correlations(features: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Canonical correlations with each system, in sample and on held-out blocks, axes `(systems, 2)`."""
    found = [analysis.align(features, states[:, n]) for n in range(states.shape[1])]
    return np.stack([a.in_sample for a in found]), np.stack([a.correlations for a in found])


def show(values: np.ndarray) -> str:
    """`(seeds, systems, 2)` as mean +- spread."""
    mean, spread = values.mean(0), values.std(0)
    return "  ".join(
        "(" + ", ".join(f"{m:.3f}+-{s:.3f}" for m, s in zip(*pair, strict=True)) + ")"
        for pair in zip(mean, spread, strict=True)
    )


def main(config: Config) -> None:
    print(f"{config}\ncalibration: 1024 x 1024 float32 matrix product in {calibration():.1f} ms")
    recording, test = make_data(config)
    test_key = jr.split(jr.key(config.seed), 3)[2]
    untouched = np.asarray(make_system(config).sample(config.num_test, key=test_key).observations)
    informed = kalman(make_system(config), untouched, np.asarray(test.regimes))
    observations, states = np.asarray(test.observations), np.asarray(test.states)
    start = time.perf_counter()
    models, temporal, losses = train(config, delay_embed(recording, config.delays))
    seen = jnp.asarray(delay_embed(observations, config.delays))
    observations, states = observations[config.delays - 1 :], states[config.delays - 1 :]
    print(f"trained in {time.perf_counter() - start:.0f} s; finite: {np.isfinite(losses).all()}")

    @eqx.filter_jit
    @eqx.filter_vmap
    def infer(model: tidhy.TiDHy, temporal: jax.Array) -> tuple[tidhy.Solution, jax.Array]:
        inference = tidhy.Inference(objective=tidhy.Objective(temporal=temporal))
        solution, _ = tidhy.infer(model, seen, inference)
        estimates = tidhy.reconstruct(model, solution.latents)
        return solution, tidhy.r_squared(estimates[None], seen[None])

    solution, r2 = infer(models, temporal)
    latents, context = np.asarray(solution.latents), np.asarray(solution.context_latents)
    print(f"reconstruction R2 of the test recording {np.mean(r2):.4f} +- {np.std(r2):.4f}")
    informed = informed[config.delays - 1 :]
    rows = {
        "Kalman, informed": [informed],
        "raw input": [observations],
        "raw input, 5 lags": [lags(observations)],
        "TiDHy latents": list(latents),
    }
    for name, features in rows.items():
        found = [correlations(x, states) for x in features]
        print(f"{name:18s} CCA in sample {show(np.stack([f[0] for f in found]))}")
        print(f"{'':18s} CCA held out  {show(np.stack([f[1] for f in found]))}")
        if len(features) > 1 and len({*config.temporal, *config.precision}) > 2:
            print("\n".join(f"    member {n}: {f[1].round(3).tolist()}" for n, f in enumerate(found)))

    regimes = np.asarray(test.regimes)[config.delays - 1 :]
    labels = {f"system {n + 1}": regimes[:, n] for n in range(regimes.shape[1])}
    labels["joint regime"] = regimes @ (2 ** np.arange(regimes.shape[1]))
    classifier = make_pipeline(StandardScaler(), KNeighborsClassifier(config.neighbors))
    for name, y in labels.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [
                analysis.decode(h, y, observations, num_noise=1, classifier=classifier, key=jr.key(n))
                for n, h in enumerate(context)
            ]
        ours, noise = np.array([d.features.mean() for d in found]), np.array([d.noise.mean() for d in found])
        print(
            f"{name:13s} from the context {ours.mean():.3f} +- {ours.std():.3f} ({ours.round(3).tolist()}); raw input "
            f"{found[0].raw_input.mean():.3f}; noise as smooth {noise.mean():.3f}; chance {found[0].chance:.3f}"
        )
    print(f"whole run {time.perf_counter() - start:.0f} s, calibration {calibration():.1f} ms")


if __name__ == "__main__":
    main(tyro.cli(Config))
