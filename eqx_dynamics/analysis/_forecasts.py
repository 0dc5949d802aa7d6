"""Forecasts of a model beside the two that cost nothing."""

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from ._arrays import AnyArray, affine_fit, to_float64


class ForecastWindows(eqx.Module):
    """Places in recordings to forecast from.

    - `past`: the last observations up to and including the origin; `targets`: the observations after it.
    - `origins`, `trials`: time step and trial of every origin, to look up a model's state there.
    """

    past: Float[np.ndarray, "origins lags channels"]
    targets: Float[np.ndarray, "origins horizon channels"]
    origins: Int[np.ndarray, " origins"]
    trials: Int[np.ndarray, " origins"]


class ForecastComparison(eqx.Module):
    """R2 of forecasts 1, 2, ... steps ahead; zero is what the mean of the training recording scores.

    - `model`: the forecasts in question; `persistence`: the last observation, forever; `linear`: one vector
      autoregression fitted to the training recording.
    """

    model: Float[np.ndarray, " horizon"]
    persistence: Float[np.ndarray, " horizon"]
    linear: Float[np.ndarray, " horizon"]

    def __str__(self) -> str:
        horizon = len(self.model)
        shown = sorted({1, *(k for k in (2, 5, 10, 20, 50, 100) if k < horizon), horizon})
        rows = [("steps ahead", [f"{k:>8}" for k in shown])]
        for name in ("model", "persistence", "linear"):
            rows.append((name, [f"{getattr(self, name)[k - 1]:>8.3f}" for k in shown]))
        return "\n".join(f"  {name:<12}{''.join(cells)}" for name, cells in rows)


def forecast_windows(
    recording: Float[AnyArray, "*trials time channels"], horizon: int, *, lags: int = 1, stride: int = 1, start: int = 0
) -> ForecastWindows:
    """Every `stride`-th place with `lags` observations up to it and `horizon` after it, never across two trials.

    **Arguments:** `start`: the earliest origin, so that a model has seen enough to infer its state.

    **Raises:** `ValueError` if the recording is too short for one.
    """
    values = to_float64(recording, "recording")
    if values.ndim not in (2, 3):
        raise ValueError(
            f"`recording` must have shape (time, channels) or (trials, time, channels); got {values.shape}."
        )
    values = values if values.ndim == 3 else values[None]
    if min(horizon, lags, stride) < 1:
        raise ValueError(f"`horizon`, `lags` and `stride` must be at least 1; got {horizon}, {lags} and {stride}.")
    origins = np.arange(max(start, lags - 1), values.shape[1] - horizon, stride)
    if not len(origins):
        raise ValueError(
            f"`recording` has {values.shape[1]} time steps, too few for {lags} lags, a start at {start} "
            f"and a horizon of {horizon}."
        )
    trials = np.repeat(np.arange(len(values)), len(origins))
    origins = np.tile(origins, len(values))
    past = values[trials[:, None], origins[:, None] + np.arange(1 - lags, 1)]
    targets = values[trials[:, None], origins[:, None] + np.arange(1, horizon + 1)]
    return ForecastWindows(past, targets, origins, trials)


def compare_forecasts(
    forecasts: Float[AnyArray, "origins horizon channels"],
    windows: ForecastWindows,
    train: Float[AnyArray, "*trials time channels"],
) -> ForecastComparison:
    r"""R2 of a model's forecasts, of persistence, and of a linear model with as many lags as `windows.past`.

    $R^2_k = 1 - \sum (x_{t+k} - \hat x)^2 / \sum (x_{t+k} - \bar x)^2$ over origins and channels, $\bar x$ the mean of
    `train`. Scale the channels alike if all are to count alike.

    **Arguments:** `train`: what the model was trained on, for the linear model; no part of `windows`.

    **Raises:** `ValueError` for shapes that do not fit, or targets that are the mean of `train` throughout.
    """
    predictions = to_float64(forecasts, "forecasts")
    if predictions.shape != windows.targets.shape:
        raise ValueError(
            f"`forecasts` must have the shape of the targets, {windows.targets.shape}; got {predictions.shape}."
        )
    recording = to_float64(train, "train")
    recording = recording if recording.ndim == 3 else recording[None]
    horizon, lags = windows.targets.shape[1], windows.past.shape[1]
    mean = recording.mean((0, 1))
    total = ((windows.targets - mean) ** 2).sum((0, 2))
    if not np.all(total > 0):
        raise ValueError("`windows` must hold targets that differ from the mean of `train`: nothing is to be forecast.")
    last = np.repeat(windows.past[:, -1:], horizon, axis=1)
    linear = _linear_forecasts(recording, windows.past, horizon, lags)
    r2 = [1 - ((windows.targets - guess) ** 2).sum((0, 2)) / total for guess in (predictions, last, linear)]
    return ForecastComparison(*r2)


def _linear_forecasts(train: np.ndarray, past: np.ndarray, horizon: int, lags: int) -> np.ndarray:
    """A vector autoregression, least squares with a trace of ridge, run freely."""
    if train.shape[1] <= lags:
        raise ValueError(f"`train` has {train.shape[1]} time steps, too few to fit {lags} lags.")
    fit = forecast_windows(train, 1, lags=lags)
    matrix, offset = affine_fit(fit.past.reshape(len(fit.past), -1), fit.targets[:, 0], ridge=1e-6)
    guesses = []
    for _ in range(horizon):
        guess = past.reshape(len(past), -1) @ matrix.T + offset
        past = np.concatenate([past[:, 1:], guess[:, None]], axis=1)
        guesses.append(guess)
    return np.stack(guesses, axis=1)
