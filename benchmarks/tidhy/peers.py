"""TiDHy beside other models of switching dynamics: same data, same metrics; and its solvers beside the original's.

    pip install dynamax pydmd scikit-learn && python benchmarks/tidhy/peers.py

1. Objective of single inferences that the original PyTorch code left behind in `tests/reference`, at its latents and at
   those of our solvers (mean over sequences; the original minimises its batch average, which has the same minimiser).
2. The published SLDS benchmark (see `slds.py`). Everyone is given the five principal components that the 20 channels
   have. Held-out canonical correlations with each system's state, regimes decoded on held-out blocks by nearest
   neighbours, R2 of forecasts 1 and 5 steps ahead, and the seconds that fitting took, compilation included.
   Linear models, PyDMD (exact and with delays), and dynamax: a linear Gaussian state space and an autoregressive hidden
   Markov model, fitted by EM. (The `ssm` package on PyPI is an empty name; dynamax cannot fit an SLDS.)
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import slds
import tyro
from dynamax.hidden_markov_model import LinearAutoregressiveHMM
from dynamax.linear_gaussian_ssm import LinearGaussianSSM
from inference import calibration
from pydmd import DMD
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eqx_dynamics import analysis, tidhy
from eqx_dynamics.datasets import delay_embed


REFERENCE = pathlib.Path(__file__).parents[2] / "tests" / "reference" / "tidhy" / "tidhy_pt.npz"


@dataclasses.dataclass(frozen=True)
class Config:
    em_steps: int = 30
    num_train: int = 10_000
    num_test: int = 4_000
    steps: int = 400
    only: str = ""  # models whose name contains this


@dataclasses.dataclass
class Fitted:
    """Features of every test time step, and forecasts `k` steps ahead of every test time step; what regimes are
    decoded from, if that is not all features."""

    features: np.ndarray
    forecast: Callable[[int], np.ndarray]
    context: np.ndarray | None = None


def linear_operator(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Least-squares affine map, constant last."""
    return np.linalg.lstsq(np.c_[inputs, np.ones(len(inputs))], targets, rcond=None)[0]


def vector_autoregression(train: np.ndarray, test: np.ndarray, lags: int) -> Fitted:
    wide, size = delay_embed(train, lags), train.shape[1]
    operator = linear_operator(wide[:-1], train[lags:])
    seen = delay_embed(test, lags)
    seen = np.concatenate([np.repeat(seen[:1], lags - 1, 0), seen])

    def forecast(steps: int) -> np.ndarray:
        now = seen
        for _ in range(steps):
            now = np.concatenate([now[:, size:], np.c_[now, np.ones(len(now))] @ operator], axis=1)
        return now[:, -size:]

    return Fitted(seen, forecast)


def dynamic_modes(train: np.ndarray, test: np.ndarray, lags: int) -> Fitted:
    wide, size = delay_embed(train, lags), train.shape[1]
    dmd = DMD(svd_rank=-1, exact=True).fit(wide.T)
    seen = delay_embed(test, lags)
    seen = np.concatenate([np.repeat(seen[:1], lags - 1, 0), seen])
    amplitudes = seen @ np.linalg.pinv(dmd.modes).T

    def forecast(steps: int) -> np.ndarray:
        return ((amplitudes * dmd.eigs**steps) @ dmd.modes.T).real[:, -size:]

    return Fitted(np.c_[amplitudes.real, amplitudes.imag], forecast)


def state_space(train: np.ndarray, test: np.ndarray, em_steps: int) -> Fitted:
    model = LinearGaussianSSM(6, train.shape[1])
    params, props = model.initialize(jr.PRNGKey(0))
    params, _ = model.fit_em(params, props, jnp.asarray(train), num_iters=em_steps, verbose=False)
    means = np.asarray(model.filter(params, jnp.asarray(test)).filtered_means)
    dynamics, emissions = params.dynamics, params.emissions

    def forecast(steps: int) -> np.ndarray:
        now = means
        for _ in range(steps):
            now = now @ np.asarray(dynamics.weights).T + np.asarray(dynamics.bias)
        return now @ np.asarray(emissions.weights).T + np.asarray(emissions.bias)

    return Fitted(means, forecast)


def switching_autoregression(train: np.ndarray, test: np.ndarray, em_steps: int, num_states: int = 8) -> Fitted:
    model = LinearAutoregressiveHMM(num_states, train.shape[1], num_lags=1)
    params, props = model.initialize(jr.PRNGKey(0), method="kmeans", emissions=jnp.asarray(train))
    inputs = model.compute_inputs(jnp.asarray(train))
    params, _ = model.fit_em(params, props, jnp.asarray(train), inputs=inputs, num_iters=em_steps, verbose=False)
    posterior = model.filter(params, jnp.asarray(test), inputs=model.compute_inputs(jnp.asarray(test)))
    chance = np.asarray(posterior.filtered_probs)
    switch = np.asarray(params.transitions.transition_matrix)
    weights, biases = np.asarray(params.emissions.weights), np.asarray(params.emissions.biases)

    def forecast(steps: int) -> np.ndarray:
        now, probabilities = test, chance
        for _ in range(steps):
            probabilities = probabilities @ switch
            each = np.einsum("kij,tj->tki", weights, now) + biases[None]
            now = np.einsum("tk,tki->ti", probabilities, each)
        return now

    return Fitted(chance, forecast)


def demixing(config: slds.Config, train: np.ndarray, test: np.ndarray) -> Fitted:
    """The recipe of `slds.py`, which scales the axes for itself; forecasts are in the units of `test`."""
    recording, seen = slds.whiten(train, test, train.shape[1])
    _, models, _ = slds.train(config, recording)
    (solution, _), back = slds.infer(config, models, seen), linear_operator(seen, test)
    model, solution = jax.tree_util.tree_map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, (models, solution))
    latents = tidhy.LatentState(solution.latents, solution.context_latents)
    state = tidhy.InferenceState(latents, jnp.ones(len(test), bool))
    run = eqx.filter_jit(lambda state, steps: tidhy.forecast(model, state, steps).observations[:, -1])
    context = np.asarray(solution.context_latents)

    def forecast(steps: int) -> np.ndarray:
        return np.c_[np.asarray(run(state, steps)), np.ones(len(test))] @ back

    return Fitted(np.asarray(solution.latents), forecast, context)


def compare_models(config: Config) -> None:
    settings = slds.Config(steps=config.steps, num_seeds=1, num_train=config.num_train, num_test=config.num_test)
    recording, sample = slds.make_data(settings)
    mean, axes = recording.mean(0), np.linalg.svd(recording - recording.mean(0), full_matrices=False)[2][:5]
    train = (recording - mean) @ axes.T
    scale = train.std(0)
    train, test = train / scale, (np.asarray(sample.observations) - mean) @ axes.T / scale
    states, regimes = np.asarray(sample.states), np.asarray(sample.regimes)
    joint = regimes @ (2 ** np.arange(regimes.shape[1]))
    classifier = make_pipeline(StandardScaler(), KNeighborsClassifier(settings.neighbors))
    fits = {
        "persistence": lambda: Fitted(test, lambda steps: test),
        "autoregression, 1 lag": lambda: vector_autoregression(train, test, 1),
        "autoregression, 5 lags": lambda: vector_autoregression(train, test, 5),
        "PyDMD": lambda: dynamic_modes(train, test, 1),
        "PyDMD, 5 delays": lambda: dynamic_modes(train, test, 5),
        "dynamax linear Gaussian": lambda: state_space(train, test, config.em_steps),
        "dynamax switching AR": lambda: switching_autoregression(train, test, config.em_steps),
        "TiDHy": lambda: demixing(settings, train, test),
    }
    print(f"{'model':25s} {'held-out CCA of each system':48s} regime  R2(1)  R2(5)  seconds")
    for name, fit in fits.items():
        if config.only not in name:
            continue
        start = time.perf_counter()
        fitted = fit()
        seconds = time.perf_counter() - start
        _, found = slds.correlations(fitted.features, states)
        cca = " ".join(f"({', '.join(f'{c:.3f}' for c in pair)})" for pair in found)
        shown = fitted.features if fitted.context is None else fitted.context
        decoded = analysis.decode(shown, joint, test, num_noise=1, classifier=classifier, key=jr.key(0))
        r2 = [
            1 - ((test[k:] - fitted.forecast(k)[:-k]) ** 2).sum() / ((test[k:] - test[k:].mean(0)) ** 2).sum()
            for k in (1, 5)
        ]
        print(f"{name:25s} {cca:48s} {decoded.features.mean():.3f}   {r2[0]:.3f}  {r2[1]:.3f}  {seconds:.1f}")
    print(f"(regime: raw input {decoded.raw_input.mean():.3f}, noise {decoded.noise.mean():.3f}, chance 0.125)")


def compare_objectives() -> None:
    with jax.enable_x64(True):
        npz = np.load(REFERENCE)
        for name, s in json.loads(str(npz["__meta__"]))["cases"].items():
            if f"{name}/inf/out/r" not in npz or s["use_r2_decoder"] or s["lmda_r"] or s["lmda_r2"]:
                continue
            arrays = {key.removeprefix(f"{name}/"): npz[key] for key in npz.files if key.startswith(f"{name}/")}
            model = tidhy.TiDHy.original(
                s["input_dim"],
                s["r_dim"],
                s["r2_dim"],
                s["mix_dim"],
                s["hyper_hid_dim"],
                nonlinear_decoder=s["nonlin_decoder"],
                dynamic_bias=s["dyn_bias"],
                low_rank=s["low_rank_temp"],
                key=jr.key(0),
            )
            model = tidhy.load_original(model, {k[2:]: v for k, v in arrays.items() if k.startswith("w/")})
            l1 = (float(s["L1_inf_r"]), float(s["L1_inf_r2"]), float(s["L1_inf_w"]))
            objective = tidhy.Objective(float(s["temp_weight"]), 0.01, *l1)
            x = jnp.asarray(arrays["inf/in/x"] if "inf/in/x" in arrays else npz["X"][:, 1])
            before = tidhy.LatentState(jnp.asarray(arrays["inf/in/r_p"]), jnp.asarray(arrays["inf/in/r2_p"]))
            state = tidhy.InferenceState(before, jnp.ones(len(x), bool))
            cell = tidhy.LatentInference(model, tidhy.Inference(tidhy.ProximalGradient(), objective))
            theirs = tidhy.LatentState(jnp.asarray(arrays["inf/out/r"]), jnp.asarray(arrays["inf/out/r2"]))
            rows = {"original": jax.vmap(lambda x, s, z, cell=cell: cell.problem(x, s)(z))(x, state, theirs)}
            for solver in (tidhy.ProximalGradient(), tidhy.ReducedGaussNewton()):
                try:
                    solution, _ = eqx.filter_jit(tidhy.infer)(
                        model, x[:, None], tidhy.Inference(solver, objective), state=state
                    )
                except ValueError:
                    continue
                rows[type(solver).__name__] = solution.objective[:, 0]
            print(f"{name:20s} " + "  ".join(f"{key} {float(value.mean()):.4f}" for key, value in rows.items()))


def main(config: Config) -> None:
    print(f"calibration: 1024 x 1024 float32 matrix product in {calibration():.1f} ms")
    if not config.only:
        compare_objectives()
    compare_models(config)


if __name__ == "__main__":
    main(tyro.cli(Config))
