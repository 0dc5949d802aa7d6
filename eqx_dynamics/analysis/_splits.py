"""Which time steps train a readout and which test it."""

import abc
import itertools

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Int

from ._arrays import AnyArray


class Fold(eqx.Module):
    """One division of the time steps; those in neither set are the gap."""

    train: Bool[np.ndarray, " time"]
    test: Bool[np.ndarray, " time"]


class AbstractSplit(eqx.Module):
    """Folds that never put neighbouring time steps on different sides: a random split of time steps measures how smooth
    the features are (AR noise scores .89 of 1 by it where chance is .13)."""

    @abc.abstractmethod
    def folds(self, num_steps: int) -> tuple[Fold, ...]:
        """Every time step is tested in exactly one fold."""


class BlockedSplit(AbstractSplit):
    """Each fold tests one contiguous block and trains on the rest, less `gap` steps on either side of the block.

    **Arguments:** `gap`: in time steps; at least as long as the features remember.
    """

    num_folds: int = 5
    gap: int = 50

    def folds(self, num_steps: int) -> tuple[Fold, ...]:
        """**Raises:** `ValueError` if a block is shorter than the gap or there are fewer than two."""
        if self.num_folds < 2 or self.gap < 0:
            raise ValueError(
                f"`num_folds` must be at least 2 and `gap` not negative; got {self.num_folds} and {self.gap}."
            )
        if num_steps < self.num_folds * max(self.gap, 1):
            raise ValueError(
                f"`gap` of {self.gap} steps needs blocks at least as long; got {num_steps} time steps for "
                f"{self.num_folds} folds. Use fewer folds or a longer recording."
            )
        time = np.arange(num_steps)
        edges = np.linspace(0, num_steps, self.num_folds + 1).astype(int)
        blocks = itertools.pairwise(edges)
        return tuple(
            Fold((time < low - self.gap) | (time >= high + self.gap), (time >= low) & (time < high))
            for low, high in blocks
        )


class TrialSplit(AbstractSplit):
    """Each fold tests whole trials: trial number n, in ascending order of id, is tested in fold n modulo `num_folds`.

    **Arguments:** `trials`: the trial of every time step.
    """

    trials: Int[AnyArray, " time"]
    num_folds: int = 5

    def folds(self, num_steps: int) -> tuple[Fold, ...]:
        """**Raises:** `ValueError` if there are fewer trials than folds, or another number of time steps."""
        ids, number = np.unique(np.asarray(self.trials), return_inverse=True)
        if len(number) != num_steps:
            raise ValueError(f"`trials` must name the trial of each of {num_steps} time steps; got {len(number)}.")
        if not 2 <= self.num_folds <= len(ids):
            raise ValueError(f"`num_folds` must lie between 2 and the {len(ids)} trials; got {self.num_folds}.")
        fold = number % self.num_folds
        return tuple(Fold(fold != n, fold == n) for n in range(self.num_folds))
