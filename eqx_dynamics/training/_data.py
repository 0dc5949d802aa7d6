"""Where batches come from: arrays in memory, gathered on the device, or any iterator, stacked on the host."""

import abc
from typing import Any, Literal, no_type_check

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from ._shuffle import random_order
from ._state import TrainState


_SHUFFLE = 0x5B0FF1E  # folded into the run's key, so that no step shares its key with a permutation


class ArrayData(eqx.Module):
    r"""Examples held in memory; an epoch is shuffled, cut into batches and trained on without leaving the device.

    With $n$ examples and batch size $b$ an epoch has $\lceil n / b \rceil$ batches. If $b$ does not divide $n$ the last
    batch is filled up with the first examples of the same shuffled order: every example is seen at least once, at most
    $b - 1$ (other ones in every epoch) are seen twice, and all batches share one shape.

    The order of an epoch is a function of the run's key and of the step at which the epoch began.
    """

    arrays: PyTree[Array]
    batch_size: int = eqx.field(static=True)
    shuffle: bool = eqx.field(static=True)
    last: Literal["wrap", "drop", "error"] = eqx.field(static=True)

    def __init__(
        self,
        arrays: PyTree,
        batch_size: int,
        *,
        shuffle: bool = True,
        last: Literal["wrap", "drop", "error"] = "wrap",
    ):
        """**Arguments:**

        - `arrays`: pytree of arrays (NumPy or JAX), examples along the first axis of each.
        - `batch_size`: examples in a batch.
        - `shuffle`: take the examples in a new random order in every epoch.
        - `last`: what becomes of a last batch that is not full: `"wrap"` fills it up with examples of the same epoch,
          `"drop"` leaves its examples out of this epoch, `"error"` refuses.

        **Raises:** `ValueError` for no examples, differing numbers of examples, a batch larger than the data, or a
        last batch that is not full under `"error"`.
        """
        self.arrays = jtu.tree_map(jnp.asarray, arrays)
        self.batch_size, self.shuffle, self.last = batch_size, shuffle, last
        sizes = {
            jtu.keystr(path) or "arrays": leaf.shape[0] if leaf.ndim else None
            for path, leaf in jtu.tree_leaves_with_path(self.arrays)
        }
        if len(set(sizes.values())) != 1 or None in sizes.values():
            raise ValueError(
                "`arrays` must be arrays with one number of examples along their first axis; got "
                f"{sizes or 'no array'}."
            )
        if not 1 <= batch_size <= self.num_examples:
            raise ValueError(
                f"`batch_size` must lie between 1 and the number of examples; got batch_size={batch_size} for "
                f"{self.num_examples} examples."
            )
        if last == "error" and self.num_examples % batch_size:
            raise ValueError(
                f"`batch_size`={batch_size} leaves a last batch of {self.num_examples % batch_size} of "
                f'{self.num_examples} examples, which `last="error"` refuses; use "wrap" or "drop".'
            )

    @property
    def num_examples(self) -> int:
        """Examples in one pass."""
        return jtu.tree_leaves(self.arrays)[0].shape[0]

    @property
    def num_batches(self) -> int:
        """Batches in one epoch."""
        full, rest = divmod(self.num_examples, self.batch_size)
        return full + bool(rest and self.last == "wrap")

    def rows(self, key: PRNGKeyArray) -> Int[Array, "num_batches batch"]:
        """Which examples make up each batch of the epoch that `key` shuffles."""
        order = (
            random_order(key, self.num_examples)
            if self.shuffle and self.num_examples > 1
            else jnp.arange(self.num_examples)
        )
        return jnp.resize(order, (self.num_batches, self.batch_size))

    def take(self, rows: Int[Array, "*leading batch"]) -> PyTree[Array]:
        """The examples `rows`, as one batch or as stacked ones."""
        return jtu.tree_map(lambda array: array.at[rows].get(mode="promise_in_bounds"), self.arrays)


class AbstractBatches(eqx.Module):
    """The batches of one dispatch to the device."""

    @abc.abstractmethod
    def stacked(self, state: TrainState) -> PyTree:
        """The batches along a new first axis; called under jit."""

    @abc.abstractmethod
    def epoch_start(self, before: TrainState, after: TrainState) -> Int[Array, ""]:
        """At which step the epoch began in which these batches left the run."""


class NextBatches(AbstractBatches):
    """The next `num_steps` batches over `data`, from the current epoch on, out of `num_epochs` epochs at most."""

    data: ArrayData
    num_steps: int = eqx.field(static=True)
    num_epochs: int = eqx.field(static=True)

    def stacked(self, state: TrainState) -> PyTree:
        start, per_epoch = self._start(state), self.data.num_batches
        shuffle = jr.fold_in(state.key, _SHUFFLE)
        starts = start + per_epoch * jnp.arange(self.num_epochs)
        rows = jax.lax.map(lambda first: self.data.rows(jr.fold_in(shuffle, first)), starts)
        rows = rows.reshape(-1, self.data.batch_size)
        if self.num_steps < len(rows):
            rows = jax.lax.dynamic_slice_in_dim(rows, state.step - start, self.num_steps)
        return self.data.take(rows)

    def epoch_start(self, before: TrainState, after: TrainState) -> Int[Array, ""]:
        start, per_epoch = self._start(before), self.data.num_batches
        return start + (after.step - start) // per_epoch * per_epoch

    def _start(self, state: TrainState) -> Int[Array, ""]:
        return jnp.where(state.step - state.epoch_start < self.data.num_batches, state.epoch_start, state.step)


@no_type_check  # between two dispatches a check would cost more than the call
class Stacked(AbstractBatches):
    """Batches of an iterator, stacked along a new first axis."""

    batches: PyTree

    def stacked(self, state: TrainState) -> PyTree:
        return self.batches

    def epoch_start(self, before: TrainState, after: TrainState) -> Int[Array, ""]:
        return after.step


@no_type_check  # between two dispatches a check would cost more than the call
def stack(batches: list[PyTree]) -> Stacked:
    """The batches of one dispatch as one pytree; they must agree in structure, shapes and dtypes."""
    leaves, (structure, *structures) = zip(*map(jtu.tree_flatten, batches), strict=True)
    for n, other in enumerate(structures, start=1):
        if other != structure:
            raise ValueError(
                f"The batches of one dispatch must have one structure; batch 0 is {structure}, batch {n} is {other}. "
                "Make them alike, or pass `steps_per_dispatch=1`."
            )
    columns = list(zip(*leaves, strict=True))
    for position, column in enumerate(columns):
        shapes = [np.shape(leaf) for leaf in column]
        odd = next((n for n, shape in enumerate(shapes) if shape != shapes[0]), None)
        if odd is not None:
            path = jtu.keystr(jtu.tree_leaves_with_path(batches[0])[position][0]) or "batch"
            raise ValueError(
                f"The batches of one dispatch must have the same sizes; leaf `{path}` is {shapes[0]} in batch 0 and "
                f"{shapes[odd]} in batch {odd}. Pad or drop the odd batch, or pass `steps_per_dispatch=1`."
            )
    return Stacked(jtu.tree_unflatten(structure, [_stack(column) for column in columns]))


@no_type_check  # between two dispatches a check would cost more than the call
def _stack(column: tuple[Any, ...]) -> Any:
    return jnp.stack(column) if isinstance(column[0], jax.Array) else np.stack(column)
