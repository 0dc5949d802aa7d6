"""How the mixture uses its components."""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from ._arrays import AnyArray, to_float64


class MixtureUsage(eqx.Module):
    """Shares of the components in the mixture; a weight counts by its size, relative to all weights of its time step.

    - `share`: mean share of every component; `dominance`: share of time in which it has the largest weight.
    - `entropy`: of `share`, in nats; `effective_number`: its exponential, from 1 to the number of components.
    - `effective_per_step`: mean over time of the same for single time steps: 1 if one component acts at a time.
    - `silent`: share of time in which every weight is zero (ReLU weights can do that); left out of all else.
    """

    share: Float[np.ndarray, " components"]
    dominance: Float[np.ndarray, " components"]
    entropy: float
    effective_number: float
    effective_per_step: float
    silent: float

    def __str__(self) -> str:
        shares = ", ".join(f"{s:.2f}" for s in self.share)
        return (
            f"{self.effective_number:.1f} of {len(self.share)} components in use (shares {shares}), "
            f"{self.effective_per_step:.1f} at a time, none in {self.silent:.0%} of the time"
        )


def mixture_usage(weights: Float[AnyArray, "*axes components"]) -> MixtureUsage:
    """Which components are used, how evenly, and how many at a time.

    **Arguments:** `weights`: mixture weights, such as `record.weights`, of any sign.

    **Raises:** `ValueError` if all of them are zero, or some are not finite.
    """
    sizes = np.abs(to_float64(weights, "weights"))
    sizes = sizes.reshape(-1, sizes.shape[-1])
    total = sizes.sum(1)
    if not np.any(total > 0):
        raise ValueError("`weights` must not all be zero: no component is ever used.")
    shares = sizes[total > 0] / total[total > 0][:, None]
    share = shares.mean(0)
    dominance = np.bincount(shares.argmax(1), minlength=shares.shape[1]) / len(shares)
    entropy = float(_entropy(share))
    per_step = float(np.exp(_entropy(shares)).mean())
    return MixtureUsage(share, dominance, entropy, float(np.exp(entropy)), per_step, float(np.mean(total == 0)))


def _entropy(shares: np.ndarray) -> np.ndarray:
    return np.asarray(-np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)), axis=-1))
