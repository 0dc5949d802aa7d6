"""Words shared by the files of this room."""

from typing import Any, TypeAlias

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int


# A number that may also be an array: to be swept by `jax.vmap`, or learned.
RealScalar: TypeAlias = float | int | Float[Array, ""]

# The name of the vmapped axis over sequences: the published solver couples a batch through it, nothing else does.
SEQUENCES = "sequences"


class LatentState(eqx.Module):
    """The latents of one time step, or of many with leading axes."""

    latents: Float[Array, "*batch latents"]
    context_latents: Float[Array, "*batch context"]


class RESULTS(eqx.Enumeration):
    """How one inference ended."""

    successful = ""
    max_steps_reached = "The solver stopped at `max_steps` before its convergence criterion held."
    diverged = "The iterates became non-finite; the starting point of this time step was kept instead."


class Solution(eqx.Module):
    """What one inference returns, per time step; leading axes are time and sequences."""

    latents: Float[Array, "*batch latents"]
    context_latents: Float[Array, "*batch context"]
    result: Any
    num_steps: Int[Array, "*batch"]
    objective: Float[Array, "*batch"]

    @property
    def has_diverged(self) -> Bool[Array, "*batch"]:
        """Where `result` is `RESULTS.diverged`."""
        return self.result == RESULTS.diverged
