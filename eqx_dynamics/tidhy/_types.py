"""Words shared by the files of this room."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
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
    diverged = "Iterates or objective became non-finite; the starting point of this time step was kept instead."


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


def check_numbers(module: eqx.Module, names: tuple[str, ...], holds: Callable[[float], bool], what: str) -> None:
    """**Raises:** `ValueError` naming a field that is a Python number for which `holds` is false; arrays pass."""
    for name in names:
        value = getattr(module, name)
        if isinstance(value, int | float) and not holds(value):
            raise ValueError(f"`{name}` must {what}; got {value}.")


def check_sizes(**sizes: int) -> None:
    """**Raises:** `ValueError` naming a size that is not positive."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1; got {size}.")


def to_decompose(matrix: Float[Array, "..."]) -> Float[Array, "..."]:
    """`matrix` in float32 if it has fewer bits: LAPACK decomposes none of 16."""
    return matrix if jnp.finfo(matrix.dtype).bits >= 32 else matrix.astype(jnp.float32)
