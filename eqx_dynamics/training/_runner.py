"""Sending dispatches to the device, with as little as possible to do for the host between two of them."""

from typing import Any, no_type_check

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree

from .._scan import scan
from ._data import AbstractBatches, ArrayData, Stacked
from ._state import TrainState
from ._step import TrainStep


class Outcome(eqx.Module):
    """Means over the steps of a dispatch that were applied, how many those were, and whether the run has halted."""

    metrics: dict[str, Array]
    num_applied: Int[Array, ""]
    halted: Bool[Array, ""]


class Runner:
    """Holds the arrays of a run's state from one dispatch to the next; the caller's own arrays are left alone."""

    def __init__(self, step: TrainStep, state: TrainState):
        if step.donate:
            state = jtu.tree_map(lambda leaf: leaf.copy() if eqx.is_array(leaf) else leaf, state)
        if step.placement is not None:
            state = step.placement.put_replicated(state)
        self._placement = step.placement
        self._step, self._arrays, self._constants = _Constants.of(step, state)
        self._run = _run_donating if step.donate else _run_keeping

    @property
    @no_type_check  # between two dispatches a check would cost more than the call
    def state(self) -> TrainState:
        """The state after the last dispatch; its buffers go to the next one."""
        return self._constants.state(self._arrays)

    def place(self, data: Any) -> Any:
        """Data in memory on the devices of the step; anything else as it is."""
        if self._placement is None or not isinstance(data, ArrayData):
            return data
        return self._placement.put_replicated(data)

    @no_type_check  # between two dispatches a check would cost more than the call
    def __call__(self, batches: AbstractBatches) -> Outcome:
        """Send one dispatch to the device; returns before it is done."""
        if self._placement is not None and isinstance(batches, Stacked):
            batches = Stacked(self._placement.put_stacked(batches.batches))
        leaves, structure = jtu.tree_flatten(batches)
        outcome, self._arrays = self._run(self._constants, structure, self._step, leaves, self._arrays)
        return outcome


class _Constants:
    """What is not an array in a step and a state, as one object whose hash is computed once: keeps calls short."""

    def __init__(self, step: tuple[PyTree, Any], state: tuple[PyTree, Any]):
        self._step, self._state = step, state
        leaves, structure = jtu.tree_flatten((step[0], state[0]))
        # 1, 1.0 and True are equal but do not compile to the same code.
        self._identity = (tuple((type(leaf), leaf) for leaf in leaves), structure, step[1], state[1])
        self._hash = hash(self._identity)

    @classmethod
    def of(cls, step: TrainStep, state: TrainState) -> "tuple[list[Array], list[Array], _Constants]":
        """The arrays of a step, those of a state, and the rest."""
        step_arrays, step_rest = eqx.partition(step, eqx.is_array)
        state_arrays, state_rest = eqx.partition(state, eqx.is_array)
        step_leaves, step_structure = jtu.tree_flatten(step_arrays)
        state_leaves, state_structure = jtu.tree_flatten(state_arrays)
        return step_leaves, state_leaves, cls((step_rest, step_structure), (state_rest, state_structure))

    @no_type_check  # between two dispatches a check would cost more than the call
    def __hash__(self) -> int:
        return self._hash

    @no_type_check  # between two dispatches a check would cost more than the call
    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Constants) and self._identity == other._identity)

    def step(self, arrays: list[Array]) -> TrainStep:
        return eqx.combine(jtu.tree_unflatten(self._step[1], arrays), self._step[0])

    def state(self, arrays: list[Array]) -> TrainState:
        return eqx.combine(jtu.tree_unflatten(self._state[1], arrays), self._state[0])


class _OverArrays(eqx.Module):
    """The step as a cell over the arrays of its state."""

    step: TrainStep
    constants: _Constants = eqx.field(static=True)

    def __call__(self, x: PyTree, state: list[Array], *, key: PRNGKeyArray | None = None) -> tuple[Any, list[Array]]:
        metrics, new = self.step(x, self.constants.state(state))
        applied = jnp.bool_(True) if new.health is None else new.health.applied
        return (metrics, applied), jtu.tree_leaves(eqx.filter(new, eqx.is_array))


def _run(
    constants: _Constants, structure: Any, step_arrays: list[Array], leaves: list[Any], arrays: list[Array]
) -> tuple[Outcome, list[Array]]:
    step, batches = constants.step(step_arrays), jtu.tree_unflatten(structure, leaves)
    before = constants.state(arrays)
    xs = batches.stacked(before)
    if step.placement is not None:
        xs = step.placement.split(xs, axis=1)
    (metrics, applied), arrays = scan(_OverArrays(step, constants), xs, arrays, unroll=1)
    after = constants.state(arrays)
    after = eqx.tree_at(lambda state: state.epoch_start, after, batches.epoch_start(before, after))
    halted = jnp.bool_(False) if after.health is None else after.health.halted
    outcome = Outcome(jtu.tree_map(lambda m: jnp.mean(m, where=applied), metrics), applied.sum(), halted)
    result = (outcome, jtu.tree_leaves(eqx.filter(after, eqx.is_array)))
    return result if step.placement is None else step.placement.replicate(result)


# Not `eqx.filter_jit`, which waits for the result of every call: the host would never work while the device does.
_run_keeping = jax.jit(_run, static_argnums=(0, 1))
_run_donating = jax.jit(_run, static_argnums=(0, 1), donate_argnums=4)
