"""Sending dispatches to the device, with as little as possible to do for the host between two of them."""

from typing import Any, no_type_check

import equinox as eqx
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
        self._step, step_static = eqx.partition(step, eqx.is_array)
        self._arrays, self._static = eqx.partition(state, eqx.is_array)
        self._arrays, treedef = jtu.tree_flatten(self._arrays)
        self._constants = _Constants((step_static, self._static, treedef))
        self._run = _run_donating if step.donate else _run_keeping

    @property
    @no_type_check  # between two dispatches a check would cost more than the call
    def state(self) -> TrainState:
        """The state after the last dispatch; its buffers go to the next one."""
        return self._constants.join(self._arrays)

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
        outcome, self._arrays = self._run((self._constants, self._step, batches), self._arrays)
        return outcome


class _Constants:
    """What is not an array in a step and a state, as one leaf whose hash is computed once: keeps calls short."""

    def __init__(self, parts: tuple[PyTree, PyTree, Any]):
        self.step, self.state, self.treedef = parts
        leaves, structure = jtu.tree_flatten((self.step, self.state))
        # 1, 1.0 and True are equal but do not compile to the same code.
        self._identity = (tuple((type(leaf), leaf) for leaf in leaves), structure, self.treedef)
        self._hash = hash(self._identity)

    @no_type_check  # between two dispatches a check would cost more than the call
    def __hash__(self) -> int:
        return self._hash

    @no_type_check  # between two dispatches a check would cost more than the call
    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Constants) and self._identity == other._identity)

    def join(self, arrays: list[Array]) -> TrainState:
        return eqx.combine(jtu.tree_unflatten(self.treedef, arrays), self.state)


class _OverArrays(eqx.Module):
    """The step as a cell over the arrays of its state."""

    step: TrainStep
    constants: _Constants = eqx.field(static=True)

    def __call__(self, x: PyTree, state: list[Array], *, key: PRNGKeyArray | None = None) -> tuple[Any, list[Array]]:
        metrics, new = self.step(x, self.constants.join(state))
        applied = jnp.bool_(True) if new.health is None else new.health.applied
        return (metrics, applied), jtu.tree_leaves(eqx.filter(new, eqx.is_array))


def _run(fixed: tuple[_Constants, PyTree, AbstractBatches], arrays: list[Array]) -> tuple[Outcome, list[Array]]:
    constants, step_arrays, batches = fixed
    step: TrainStep = eqx.combine(step_arrays, constants.step)
    before = constants.join(arrays)
    xs = batches.stacked(before)
    if step.placement is not None:
        xs = step.placement.split(xs, axis=1)
    (metrics, applied), arrays = scan(_OverArrays(step, constants), xs, arrays, unroll=1)
    after = constants.join(arrays)
    after = eqx.tree_at(lambda state: state.epoch_start, after, batches.epoch_start(before, after))
    halted = jnp.bool_(False) if after.health is None else after.health.halted
    outcome = Outcome(jtu.tree_map(lambda m: jnp.mean(m, where=applied), metrics), applied.sum(), halted)
    result = (outcome, jtu.tree_leaves(eqx.filter(after, eqx.is_array)))
    return result if step.placement is None else step.placement.replicate(result)


_run_keeping = eqx.filter_jit(_run)
_run_donating = eqx.filter_jit(_run, donate="all-except-first")
