"""What every measure does to its arrays first."""

from typing import TypeAlias

import numpy as np
from jaxtyping import Array, Float, Shaped


# Host arrays and JAX arrays alike; what is not differentiable is computed by NumPy in float64.
AnyArray: TypeAlias = np.ndarray | Array


def to_float64(array: Shaped[AnyArray, "*axes"], name: str) -> Float[np.ndarray, "*axes"]:
    """On the host, in float64. **Raises:** `ValueError` naming the argument if a value is not finite."""
    values = np.asarray(array, np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"`{name}` must be finite; got {int(np.sum(~np.isfinite(values)))} values that are not.")
    return values


def affine_fit(
    inputs: Float[np.ndarray, "steps in"], targets: Float[np.ndarray, "steps out"], *, ridge: float = 0.0
) -> tuple[Float[np.ndarray, "out in"], Float[np.ndarray, " out"]]:
    """Least squares, `targets = matrix @ inputs + offset`; `ridge` is relative to the mean square of the inputs."""
    center, level = inputs.mean(0), targets.mean(0)
    x, y = inputs - center, targets - level
    if ridge:
        size = np.sqrt(ridge * np.mean(x**2) * len(x))
        x = np.concatenate([x, size * np.eye(x.shape[1])])
        y = np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))])
    matrix = np.linalg.lstsq(x, y, rcond=None)[0].T
    return matrix, level - matrix @ center
