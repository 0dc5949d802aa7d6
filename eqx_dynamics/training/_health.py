"""What to do when the loss or a gradient is not finite."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree


class Health(eqx.Module):
    """What a run has seen of values that are not finite.

    - `applied`: whether the last step changed the model.
    - `halted`: whether the run has ended; a halted state ignores further batches.
    - `skipped`, `in_a_row`: updates left out so far, and without a good one between.
    - `step`, `where`: of the last bad step: its number, and what was not finite (the loss, then each gradient leaf).
    """

    applied: Bool[Array, ""]
    halted: Bool[Array, ""]
    skipped: Int[Array, ""]
    in_a_row: Int[Array, ""]
    step: Int[Array, ""]
    where: Bool[Array, " num_values"]


class NonFiniteError(FloatingPointError):
    """The loss or a gradient was not finite; `state` is the last good state, `step` the step, `names` the culprits."""

    def __init__(self, message: str, *, state: Any, step: int, names: tuple[str, ...]):
        super().__init__(message)
        self.state, self.step, self.names = state, step, names


class AbstractNanPolicy(eqx.Module):
    """Decides on the device whether a bad step ends the run, on the host how it ends; no bad step is ever applied."""

    @abc.abstractmethod
    def halts(self, in_a_row: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the run ends after this many bad steps in a row."""

    @abc.abstractmethod
    def conclude(self, message: str, *, state: Any, step: int, names: tuple[str, ...]) -> None:
        """Called once for a halted run: raise, or let `fit` return the last good state."""


class RaiseOnNaN(AbstractNanPolicy):
    """Raise a `NonFiniteError` that names the step and the leaf and carries the last good state."""

    def halts(self, in_a_row: Int[Array, ""]) -> Bool[Array, ""]:
        return in_a_row >= 1

    def conclude(self, message: str, *, state: Any, step: int, names: tuple[str, ...]) -> None:
        raise NonFiniteError(message, state=state, step=step, names=names)


class SkipOnNaN(AbstractNanPolicy):
    """Leave the update out and count it in `state.health.skipped`; raise after `limit` bad steps in a row.

    Metrics of skipped steps are left out of the means that `fit` reports.
    """

    limit: int = 100

    def __check_init__(self):
        if self.limit < 1:
            raise ValueError(f"`limit` must be at least 1; got {self.limit}.")

    def halts(self, in_a_row: Int[Array, ""]) -> Bool[Array, ""]:
        return in_a_row >= self.limit

    def conclude(self, message: str, *, state: Any, step: int, names: tuple[str, ...]) -> None:
        raise NonFiniteError(f"{self.limit} times in a row: {message}", state=state, step=step, names=names)


class StopOnNaN(AbstractNanPolicy):
    """End the run; `fit` returns (and a `Checkpoint` saves) the last good state, with `state.health.halted` set."""

    def halts(self, in_a_row: Int[Array, ""]) -> Bool[Array, ""]:
        return in_a_row >= 1

    def conclude(self, message: str, *, state: Any, step: int, names: tuple[str, ...]) -> None:
        return None


def init_health(params: PyTree) -> Health:
    """Nothing bad seen yet."""
    yes, no, zero = jnp.bool_(True), jnp.bool_(False), jnp.int32(0)
    return Health(yes, no, zero, zero, zero, jnp.zeros(1 + len(jtu.tree_leaves(params)), bool))


def not_finite(loss: Array, grads: PyTree) -> Bool[Array, " num_values"]:
    """For the loss and each leaf of the gradient: whether anything in it is not finite."""
    return jnp.stack([~jnp.isfinite(value).all() for value in [loss, *jtu.tree_leaves(grads)]])


def examine(
    policy: AbstractNanPolicy, health: Health, where: Bool[Array, " num_values"], step: Array, *, excused: Any = False
) -> Health:
    """The health after a step at which `where` was not finite; an `excused` bad step is left out but not counted."""
    bad = where.any()
    counts = bad & ~health.halted & jnp.logical_not(excused)
    in_a_row = jnp.where(counts, health.in_a_row + 1, jnp.where(bad, health.in_a_row, 0))
    return Health(
        applied=~bad & ~health.halted,
        halted=health.halted | (counts & policy.halts(in_a_row)),
        skipped=health.skipped + counts.astype(jnp.int32),
        in_a_row=jnp.where(health.halted, health.in_a_row, in_a_row),
        step=jnp.where(counts, step, health.step),
        where=jnp.where(counts, where, health.where),
    )


def conclude(policy: AbstractNanPolicy, params: PyTree, state: Any) -> None:
    """Say what went wrong in a halted run; `params` gives the names of the gradient's leaves."""
    names = ["loss", *(jtu.keystr(path, simple=True, separator=".") for path, _ in jtu.tree_leaves_with_path(params))]
    bad = tuple(name for name, is_bad in zip(names, np.asarray(state.health.where), strict=True) if is_bad)
    step, gradients = int(state.health.step), [name for name in bad if name != "loss"]
    parts = ["the loss"] * ("loss" in bad) + [f"the gradient of `{name}`" for name in gradients[:3]]
    more = f" and of {len(gradients) - 3} more leaves" if len(gradients) > 3 else ""
    policy.conclude(f"Not finite at step {step}: {', '.join(parts)}{more}.", state=state, step=step, names=bad)
