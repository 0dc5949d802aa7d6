"""How much of the true states a linear readout finds in the latents, on data it was not fitted to."""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from ._arrays import AnyArray, affine_fit, to_float64
from ._splits import AbstractSplit, BlockedSplit


class Alignment(eqx.Module):
    """Latents against the truth.

    - `correlations`: canonical correlations on held-out data, mean over folds; `in_sample`: on the data that were
      fitted, what is usually published.
    - `r2`: of every true dimension, predicted linearly from the latents, on held-out data.
    - `predicted`: those predictions: every time step by the fold that did not see it.
    """

    correlations: Float[np.ndarray, " modes"]
    in_sample: Float[np.ndarray, " modes"]
    r2: Float[np.ndarray, " true"]
    predicted: Float[np.ndarray, "time true"]

    def __str__(self) -> str:
        held_out, in_sample = (", ".join(f"{c:.3f}" for c in cs) for cs in (self.correlations, self.in_sample))
        return f"held-out CCA ({held_out}), in sample ({in_sample}); held-out R2 {self.r2.mean():.3f}"


def canonical_correlations(x: Float[AnyArray, "time x"], y: Float[AnyArray, "time y"]) -> Float[np.ndarray, " modes"]:
    r"""Correlations of the most correlated directions, in sample, largest first.

    The singular values of $U_x^T U_y$, with $U$ the left singular vectors of the centred data (Björck and Golub, Math.
    Comp. 1973). Directions without variance are dropped; `modes` is the smaller rank.
    """
    a, b = to_float64(x, "x"), to_float64(y, "y")
    return _fit(a, b)[2]


def align(
    latents: Float[AnyArray, "time latents"],
    truth: Float[AnyArray, "time true"],
    split: AbstractSplit = BlockedSplit(),
) -> Alignment:
    """Canonical correlations and linear predictability of the truth from latents, fitted and tested on separate blocks.

    **Raises:** `ValueError` for values that are not finite or true dimensions that do not vary.
    """
    x, y = to_float64(latents, "latents"), to_float64(truth, "truth")
    if np.any(np.ptp(y, axis=0) == 0):
        raise ValueError("`truth` has dimensions that never change; leave them out.")
    in_sample = _fit(x, y)[2]
    predicted, scores = np.full(y.shape, np.nan), []
    for fold in split.folds(len(x)):
        matrix, offset = affine_fit(x[fold.train], y[fold.train])
        predicted[fold.test] = x[fold.test] @ matrix.T + offset
        to_x, to_y, correlations = _fit(x[fold.train], y[fold.train])
        u, v = (to_x(x[fold.test]), to_y(y[fold.test]))
        held_out = np.zeros(len(in_sample))
        held_out[: len(correlations)] = [_correlation(u[:, n], v[:, n]) for n in range(len(correlations))]
        scores.append(held_out)
    r2 = 1 - ((y - predicted) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
    return Alignment(np.mean(scores, axis=0), in_sample, r2, predicted)


def _fit(x: np.ndarray, y: np.ndarray):
    """Projections to canonical variates, and their correlations."""
    x_mean, x_basis, x_whiten = _whiten(x)
    y_mean, y_basis, y_whiten = _whiten(y)
    left, correlations, right = np.linalg.svd(x_basis.T @ y_basis, full_matrices=False)
    x_map, y_map = x_whiten @ left, y_whiten @ right.T
    to_x, to_y = (lambda new: (new - x_mean) @ x_map), (lambda new: (new - y_mean) @ y_map)
    return to_x, to_y, np.clip(correlations, 0, 1)


def _whiten(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = x.mean(0)
    basis, singular, axes = np.linalg.svd(x - mean, full_matrices=False)
    kept = singular > singular.max(initial=0.0) * max(x.shape) * np.finfo(x.dtype).eps
    return mean, basis[:, kept], axes[kept].T / singular[kept]


def _correlation(u: np.ndarray, v: np.ndarray) -> float:
    u, v = u - u.mean(), v - v.mean()
    size = np.sqrt((u @ u) * (v @ v))
    return float(u @ v / size) if size > 0 else 0.0
