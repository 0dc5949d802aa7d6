"""Does TiDHy demix three switching linear systems? The published benchmark, eight seeds in one compiled program.

    python benchmarks/tidhy/slds.py

Data: three systems of two dimensions and two regimes each, emissions partly summed, seen through 20 channels, with the
noise of the PyTorch-era code. The channels have rank 5, the states 6 dimensions: everybody sees five principal axes in
units of what a linear model cannot predict. All seeds share the recording and the order of batches and differ in their
initial model.
Recipe: components started by clusterwise regression whose components last, latents that hold the two time steps before,
a context that forgets (`MeanReverting`), gradients through the inference of 200 time steps (`Unrolled`), and a loss
that forecasts. The decoder stays as it starts: latents are free up to a linear map.
Printed, as mean and spread over seeds, where training starts and where it ends: canonical correlations of each
system's state with the latents (in sample, as published, and on held-out blocks), beside those of the raw channels, of
their lags and of two filters that are told all parameters: a Kalman filter that is told the regimes too, and one that
is not and weighs them (the interacting multiple model filter: what any online method could hope for); regimes decoded
from the context latents and from the mixture weights on held-out blocks of time, beside the raw input, its lags, noise
of the same smoothness, and that filter and its smoother.
Upstream's best: (.996, .843) (.974, .896) (1.0, .571).
"""

import dataclasses
import itertools
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
    num_axes: int = 5  # the rank of the channels
    num_lags: int = 3  # time steps that latents hold
    window: int = 200
    batch_size: int = 16
    steps: int = 400
    learning_rate: float = 3e-3
    num_components: int = 8
    hidden_size: int = 32
    temporal: float = 2.0
    precision: float = 4.0
    decay: float = 0.97
    persistence: float = 0.93  # of a joint regime, at the start
    num_rounds: int = 40
    num_restarts: int = 3
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


def whiten(train: np.ndarray, test: np.ndarray, num_axes: int, num_lags: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes, scaled so that what a linear model of `num_lags` cannot predict is white with unit variance."""
    mean = train.mean(0)
    axes = np.linalg.svd(train - mean, full_matrices=False)[2][:num_axes]
    train, test = (train - mean) @ axes.T, (test - mean) @ axes.T
    past = np.c_[delay_embed(train, num_lags)[:-1], np.ones(len(train) - num_lags)]
    missed = train[num_lags:] - past @ np.linalg.lstsq(past, train[num_lags:], rcond=None)[0]
    factor = np.linalg.inv(np.linalg.cholesky(np.cov(missed.T)))
    return (train @ factor.T).astype(np.float32), (test @ factor.T).astype(np.float32)


def make_model(config: Config, recording: jax.Array, key: jax.Array) -> tidhy.TiDHy:
    """One context latent for each component, weights that sum to one, components from clusterwise regression."""
    keys = jr.split(key, 4)
    count, latent_size = config.num_components, config.num_lags * recording.shape[-1]
    model = tidhy.TiDHy(
        tidhy.LinearDecoder(latent_size, recording.shape[-1], key=keys[0]),
        tidhy.Hypernetwork(count, count, config.hidden_size, activation=jax.nn.softmax, squash=jnp.tanh, key=keys[1]),
        tidhy.FullRankTransition(count, latent_size, use_offsets=True, key=keys[2]),
        prior=tidhy.MeanReverting(config.precision, config.decay),
    )
    return tidhy.initialize(
        model,
        recording[None],
        ridge=5.0,
        num_rounds=config.num_rounds,
        num_restarts=config.num_restarts,
        persistence=config.persistence,
        num_lags=config.num_lags,
        context_gain=3.0,
        key=keys[3],
    )


def make_member(config: Config) -> TrainStep:
    """Forecast errors one step ahead, differentiated through the inference of the whole window."""
    solver = tidhy.Unrolled(tidhy.ReducedGaussNewton(), num_steps=2)
    inference = tidhy.Inference(solver, tidhy.Objective(temporal=config.temporal))
    forecasts = tidhy.TiDHyLoss(inference, weights=(0.0, 1.0, 0.0, 0.0), is_forecast=True)

    def loss(model: tidhy.TiDHy, batch: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        # Equal axes have no derivative in the eigenvectors that inference uses, and the decoder needs none.
        fixed = jax.tree_util.tree_map(jax.lax.stop_gradient, eqx.filter(model.decoder, eqx.is_array))
        decoder = eqx.combine(fixed, model.decoder)
        return forecasts(eqx.tree_at(lambda m: m.decoder, model, decoder), batch, key)

    rate = make_schedule("cosine", config.learning_rate, steps=config.steps)
    fixed, trained = optax.set_to_zero(), optax.adam(rate)
    groups = {"decoder": fixed, "hypernetwork": trained, "transition": trained}
    return make_step(loss, optimizer_groups(groups), clip=100.0, nan_policy=None)


def train(config: Config, recording: np.ndarray) -> tuple[tidhy.TiDHy, tidhy.TiDHy, np.ndarray]:
    """All members in one program: the stacked models as they start and trained, and the loss of every step."""
    windows = jnp.asarray(stack_windows(recording, config.window, stride=config.window // 2))
    step = make_member(config)

    @eqx.filter_jit
    @eqx.filter_vmap
    def init(key: jax.Array) -> TrainState:
        return step.init(make_model(config, jnp.asarray(recording), key), key=key)

    @eqx.filter_jit
    def run(state: TrainState, key: jax.Array) -> tuple[TrainState, jax.Array]:
        arrays, static = eqx.partition(state, eqx.is_array)

        def body(arrays, key):
            chosen = windows[jr.choice(key, windows.shape[0], (config.batch_size,), replace=False)]
            metrics, state = eqx.filter_vmap(lambda state: step(chosen, state))(eqx.combine(arrays, static))
            return eqx.filter(state, eqx.is_array), metrics["loss"]

        arrays, losses = jax.lax.scan(body, arrays, jr.split(key, 50))
        return eqx.combine(arrays, static), losses

    begin = time.perf_counter()
    state = init(jr.split(jr.key(config.seed + 1), config.num_seeds))
    first, losses = jax.block_until_ready(state.model), []
    print(f"started after {time.perf_counter() - begin:.0f} s")
    for number in range(config.steps // 50):
        state, part = run(state, jr.fold_in(jr.key(config.seed + 2), number))
        losses.append(np.asarray(part))
        if number % 2 == 0:
            seconds = time.perf_counter() - begin
            print(f"step {50 * (number + 1):5d}: losses {part.mean(0).round(1)}, {seconds:.0f} s", flush=True)
    return first, state.model, np.concatenate(losses) if losses else np.zeros((1, config.num_seeds))


def infer(config: Config, models: tidhy.TiDHy, seen: np.ndarray) -> tuple[tidhy.Solution, jax.Array]:
    """Latents of all members online, and their mixture weights."""

    @eqx.filter_jit
    @eqx.filter_vmap
    def run(model: tidhy.TiDHy) -> tuple[tidhy.Solution, jax.Array]:
        inference = tidhy.Inference(objective=tidhy.Objective(temporal=config.temporal))
        solution, _ = tidhy.infer(model, jnp.asarray(seen), inference)
        return solution, jax.vmap(model.mixture)(solution.context_latents)

    return run(models)


def observe(system: SwitchingLinearSystem, recording: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The five mixed channels behind the projection, without their offset; what mixes them, and their noise."""
    seen = recording * np.asarray(system.scale) @ np.linalg.pinv(np.asarray(system.projection)).T
    emissions, offsets = np.asarray(system.emissions), np.asarray(system.offsets)
    num_systems = len(emissions)
    mixed = np.zeros((2 + num_systems, 2 * num_systems))
    for n in range(num_systems):
        mixed[:2, 2 * n : 2 * n + 2], mixed[2 + n, 2 * n : 2 * n + 2] = emissions[n, :2], emissions[n, 2]
    noise = np.diag([num_systems] * 2 + [1] * num_systems) * system.observation_noise**2
    return seen - np.concatenate([offsets[:, :2].sum(0), offsets[:, 2]]), mixed, noise


def told_filter(
    system: SwitchingLinearSystem, recording: np.ndarray, regimes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A filter that is told all parameters; by `regimes` also the regimes, else it weighs every joint regime.

    The interacting multiple model filter (Blom and Bar-Shalom, IEEE TAC 33, 1988): one Kalman filter for each joint
    regime, started at every step from the mixture of all. Smoothed probabilities as by Kim (J. Econometrics 60, 1994).

    **Arguments:** `recording`: in the system's own units.

    **Returns:** means of the states, and probabilities of the joint regimes, online and smoothed.
    """
    seen, mixed, noise = observe(system, recording)
    num_systems = len(system.transitions)
    joint = list(itertools.product(range(2), repeat=num_systems))
    steps, biases = np.zeros((len(joint), 2 * num_systems, 2 * num_systems)), np.zeros((len(joint), 2 * num_systems))
    for k, regime in enumerate(joint):
        for n, z in enumerate(regime):
            part = slice(2 * n, 2 * n + 2)
            steps[k, part, part], biases[k, part] = system.transitions[n, z], system.biases[n, z]
    stay, switch = system.persistence, np.ones((1, 1))
    for _ in range(num_systems):
        switch = np.kron(switch, [[stay, 1 - stay], [1 - stay, stay]])
    known = None if regimes is None else np.eye(len(joint))[number_regimes(regimes)]

    count, size = len(joint), mixed.shape[1]
    chance, mean, covariance = (
        np.ones(count) / count,
        np.zeros((count, size)),
        np.tile(10 * np.eye(size), (count, 1, 1)),
    )
    means, online = [], []
    for t, y in enumerate(seen):
        shares = switch * chance[:, None]
        expected = shares.sum(0)
        shares = shares / np.maximum(expected, 1e-300)
        start = shares.T @ mean
        apart = mean[:, None] - start[None]
        within = np.einsum("ij,iab->jab", shares, covariance)
        covariance = within + np.einsum("ij,ija,ijb->jab", shares, apart, apart)
        mean = np.einsum("kab,kb->ka", steps, start) + biases
        covariance = steps @ covariance @ steps.transpose(0, 2, 1) + system.process_noise**2 * np.eye(size)
        spread = mixed @ covariance @ mixed.T + noise
        error, inverse = y - mean @ mixed.T, np.linalg.inv(spread)
        fit = -0.5 * np.einsum("ka,kab,kb->k", error, inverse, error) - 0.5 * np.linalg.slogdet(spread)[1]
        gain = covariance @ mixed.T @ inverse
        mean, covariance = mean + np.einsum("kab,kb->ka", gain, error), covariance - gain @ mixed @ covariance
        chance = expected * np.exp(fit - fit.max()) if known is None else known[t]
        chance = chance / chance.sum()
        means.append(chance @ mean)
        online.append(chance)
    smoothed = online[-1:]
    for before in online[-2::-1]:
        shares = switch * before[:, None]
        smoothed.append(shares / shares.sum(0) @ smoothed[-1])
    return np.array(means), np.array(online), np.array(smoothed[::-1])


def number_regimes(regimes: np.ndarray) -> np.ndarray:
    """Joint regimes as numbers; the first system counts most."""
    return regimes @ (2 ** np.arange(regimes.shape[1])[::-1])


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


def describe(values: np.ndarray) -> str:
    """Mean +- spread over seeds."""
    return f"{values.mean():.3f} +- {values.std():.3f}"


def main(config: Config) -> None:
    print(f"{config}\ncalibration: 1024 x 1024 float32 matrix product in {calibration():.1f} ms")
    start = time.perf_counter()
    recording, test = make_data(config)
    observations, states, regimes = np.asarray(test.observations), np.asarray(test.states), np.asarray(test.regimes)
    system, test_key = make_system(config), jr.split(jr.key(config.seed), 3)[2]
    untouched = np.asarray(system.sample(config.num_test, key=test_key).observations)
    weighed, online, smoothed = told_filter(system, untouched)
    train_axes, axes = whiten(recording, observations, config.num_axes)
    first, trained, losses = train(config, train_axes)
    print(f"trained after {time.perf_counter() - start:.0f} s; finite: {np.isfinite(losses).all()}")
    found = {"start": infer(config, first, axes), "trained": infer(config, trained, axes)}
    rows = {
        "told parameters, regimes": [told_filter(system, untouched, regimes)[0]],
        "told parameters": [weighed],
        "raw channels": [observations],
        f"raw channels, {config.num_lags} lags": [lags(observations, config.num_lags)],
        "raw channels, 10 lags": [lags(observations, 10)],
        **{f"TiDHy latents, {name}": list(np.asarray(f[0].latents)) for name, f in found.items()},
    }
    for name, features in rows.items():
        both = [correlations(x, states) for x in features]
        print(f"{name:25s} CCA in sample {show(np.stack([f[0] for f in both]))}")
        print(f"{'':25s} CCA held out  {show(np.stack([f[1] for f in both]))}", flush=True)

    labels = {f"system {n + 1}": regimes[:, n] for n in range(regimes.shape[1])}
    labels["joint regime"] = number_regimes(regimes)
    classifier = make_pipeline(StandardScaler(), KNeighborsClassifier(config.neighbors))

    def decode(features: np.ndarray, y: np.ndarray, n: int) -> analysis.Decoding:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return analysis.decode(features, y, observations, num_noise=1, classifier=classifier, key=jr.key(n))

    for name, y in labels.items():
        is_joint = name == "joint regime"
        stages = found if is_joint else {"trained": found["trained"]}
        of_context: list[analysis.Decoding] = []
        for stage, (solution, weights) in stages.items():
            of_context = [decode(h, y, n) for n, h in enumerate(np.asarray(solution.context_latents))]
            ours = np.array([d.features.mean() for d in of_context])
            print(f"{name:13s} {stage}: from the context {describe(ours)} ({ours.round(3).tolist()})")
            if is_joint:
                of_weights = np.array([decode(w, y, 0).features.mean() for w in np.asarray(weights)])
                print(f"{'':13s} {'':{len(stage)}s}  from the weights {describe(of_weights)}")
        noise = np.array([d.noise.mean() for d in of_context])
        lagged = decode(lags(axes, config.num_lags), y, 0).features.mean()
        told = [decode(np.log(p + 1e-4), y, 0).features.mean() for p in (online, smoothed)]
        print(
            f"{name:13s} raw input {of_context[0].raw_input.mean():.3f}; with {config.num_lags} lags "
            f"{lagged:.3f}; noise as smooth {describe(noise)}; filter told the parameters "
            f"{told[0]:.3f}, smoothed {told[1]:.3f}; chance {of_context[0].chance:.3f}",
            flush=True,
        )
    print(f"whole run {time.perf_counter() - start:.0f} s, calibration {calibration():.1f} ms")


if __name__ == "__main__":
    main(tyro.cli(Config))
