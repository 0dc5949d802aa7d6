"""Regimes from features, never without the controls that say whether the number means anything."""

import warnings
from typing import Any

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray, Shaped

from .._extras import need
from ._arrays import AnyArray, to_float64
from ._splits import AbstractSplit, BlockedSplit


class Decoding(eqx.Module):
    """Balanced accuracies (the mean over classes of the share decoded correctly) per fold, of features and controls.

    - `features`: what was asked about; `raw_input`: the observations of the same time steps.
    - `noise`: autoregressive noise as smooth as each of the features and independent of the labels, one row per draw.
    - `chance`: one over the number of classes.
    """

    features: Float[np.ndarray, " folds"]
    raw_input: Float[np.ndarray, " folds"]
    noise: Float[np.ndarray, "draws folds"]
    chance: float

    @property
    def beats_controls(self) -> bool:
        """Whether the features exceed the raw input and every noise draw by two standard errors, over folds, of the
        difference. (A larger mean alone is no evidence: features of pure noise have it in a quarter of all cases.)"""
        ahead = self.features - np.concatenate([self.raw_input[None], self.noise])
        error = ahead.std(1, ddof=1) / ahead.shape[1] ** 0.5
        return bool(np.all((ahead.mean(1) > 0) & (ahead.mean(1) >= 2 * error)))

    def __str__(self) -> str:
        def say(name: str, folds: np.ndarray, more: str = "") -> str:
            return f"  {name:<12}{folds.mean():.3f} +- {folds.std():.3f}{more}"

        best = f" (best of {len(self.noise)} draws {self.noise.mean(1).max():.3f})"
        return "\n".join(
            [
                f"balanced accuracy, mean and spread over {len(self.features)} folds",
                say("features", self.features),
                say("raw input", self.raw_input),
                say("AR noise", self.noise.mean(0), best),
                f"  {'chance':<12}{self.chance:.3f}",
            ]
        )


def decode(
    features: Float[AnyArray, "time features"],
    labels: Shaped[AnyArray, " time"],
    observations: Float[AnyArray, "time channels"],
    split: AbstractSplit = BlockedSplit(),
    *,
    num_noise: int = 3,
    classifier: Any = None,
    trials: Int[AnyArray, " time"] | None = None,
    key: PRNGKeyArray,
) -> Decoding:
    """How well labels can be read from features, beside the raw input and noise of the same smoothness.

    **Arguments:**

    - `features`, `labels`, `observations`: of the same time steps; `labels` are class names or ids.
    - `split`: blocks of time with a gap, or whole trials.
    - `num_noise`: draws of the noise control, with `key`.
    - `classifier`: of scikit-learn's kind, cloned for every fold; by default logistic regression on standardised
      inputs.
    - `trials`: where noise starts afresh; by default that of a `TrialSplit`, else one trial.

    **Raises:** `ValueError` for a single class, a class missing in the training part of a fold, values that are not
    finite; `ImportError` naming the extra `analysis`.
    """
    x, raw = to_float64(features, "features"), to_float64(observations, "observations")
    y = np.asarray(labels)
    classes, y = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"`labels` must hold at least two classes; got {classes.tolist()}.")
    if num_noise < 1:
        raise ValueError(
            f"`num_noise` must be at least 1: without the control the accuracy says little; got {num_noise}."
        )
    folds = split.folds(len(x))
    for number, fold in enumerate(folds):
        missing = np.setdiff1d(np.arange(len(classes)), y[fold.train])
        if len(missing):
            names = classes[missing].tolist()
            raise ValueError(
                f"`split`: classes {names} do not occur in the training part of fold {number}. Split otherwise."
            )
    if trials is None:
        trials = getattr(split, "trials", np.zeros(len(x), int))
    make = _classifier() if classifier is None else classifier
    clone = need("sklearn.base", extra="analysis", user="decode").clone

    def score(inputs: np.ndarray) -> np.ndarray:
        accuracies = []
        for fold in folds:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", need("sklearn.exceptions", extra="analysis").ConvergenceWarning)
                fitted = clone(make).fit(inputs[fold.train], y[fold.train])
            correct = fitted.predict(inputs[fold.test]) == y[fold.test]
            accuracies.append(np.mean([correct[y[fold.test] == c].mean() for c in np.unique(y[fold.test])]))
        return np.array(accuracies)

    noise = [score(_autoregressive_noise(x, np.asarray(trials), k)) for k in jr.split(key, num_noise)]
    return Decoding(score(x), score(raw), np.stack(noise), 1 / len(classes))


def _classifier() -> Any:
    linear_model, preprocessing, pipeline = (
        need(f"sklearn.{part}", extra="analysis", user="decode")
        for part in ("linear_model", "preprocessing", "pipeline")
    )
    return pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=200))


def _autoregressive_noise(features: np.ndarray, trials: np.ndarray, key: PRNGKeyArray) -> np.ndarray:
    """Unit-variance AR(1) noise with the lag-one autocorrelation of every feature, afresh in every trial."""
    same = (trials[1:] == trials[:-1])[:, None]
    centred = features - features.mean(0)
    power = np.maximum((centred**2).mean(0), np.finfo(float).tiny)
    phi = np.clip((centred[1:] * centred[:-1] * same).sum(0) / (power * max(same.sum(), 1)), 0.0, 0.999)
    noise = np.array(jr.normal(key, features.shape), np.float64)
    innovation = np.sqrt(1 - phi**2)
    for t in range(1, len(noise)):
        if same[t - 1, 0]:
            noise[t] = phi * noise[t - 1] + innovation * noise[t]
    return noise
