"""Recordings as arrays: trials, time, channels."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int, Real

from ._windows import stack_windows


class Recording(eqx.Module):
    """Trials of one measurement, all padded to the longest.

    - `observations`: NaN where a value is missing; zero beyond the end of a trial.
    - `mask`: False beyond the end of a trial.
    - `labels`: one per trial or one per time step; -1 where there is none.
    - `label_names`: what the labels stand for.
    - `time_step`: in seconds, unless a reader says otherwise.
    """

    observations: Float[np.ndarray, "trials time channels"]
    mask: Bool[np.ndarray, "trials time"]
    labels: Int[np.ndarray, " trials"] | Int[np.ndarray, "trials time"]
    label_names: tuple[str, ...] = eqx.field(static=True)
    time_step: float

    @classmethod
    def from_trials(
        cls,
        trials: Sequence[Real[np.ndarray, "_ channels"]] | Real[np.ndarray, "trials time channels"],
        labels: Sequence[Int[np.ndarray, " _"]] | Int[np.ndarray, " labelled *time"] | None = None,
        *,
        label_names: tuple[str, ...] = (),
        time_step: float = 1.0,
    ) -> "Recording":
        """From arrays `(time, channels)` of any length, or one array of all; real types become float32 or stay float64.

        **Arguments:** `labels`: an array with one label per trial, or for every trial an array with one per time step.

        **Raises:** `ValueError` for trials without time steps or with other channels, values that are infinite, labels
        that do not fit, or a time step that is not positive.
        """
        arrays = [np.asarray(trial) for trial in trials]
        if not arrays or any(a.ndim != 2 or 0 in a.shape for a in arrays) or len({a.shape[1] for a in arrays}) != 1:
            raise ValueError(
                "`trials` must be arrays of shape (time, channels), none of them empty, with the same channels; got "
                f"{[a.shape for a in arrays[:5]]}."
            )
        if not time_step > 0:
            raise ValueError(f"`time_step` must be positive; got {time_step}.")
        for number, array in enumerate(arrays):
            if np.any(np.isinf(array)):
                raise ValueError(f"`trials`: trial {number} has infinite values. Mark missing values by NaN.")
        lengths = np.array([len(a) for a in arrays])
        dtype = np.float64 if all(a.dtype == np.float64 for a in arrays) else np.float32
        observations = np.zeros((len(arrays), lengths.max(), arrays[0].shape[1]), dtype)
        for row, array in zip(observations, arrays, strict=True):
            row[: len(array)] = array
        mask = np.arange(lengths.max())[None] < lengths[:, None]
        return cls(observations, mask, _pad_labels(labels, lengths), label_names, float(time_step))

    @property
    def lengths(self) -> Int[np.ndarray, " trials"]:
        """Time steps of every trial."""
        return self.mask.sum(axis=1)

    @property
    def is_observed(self) -> Bool[np.ndarray, "trials time channels"]:
        """Where there is a value: the mask that `tidhy.infer` and `tidhy.Windows` take."""
        return self.mask[..., None] & ~np.isnan(self.observations)

    def select(self, trials: Int[np.ndarray, " chosen"] | Bool[np.ndarray, " trials"] | slice) -> "Recording":
        """Some of the trials."""
        return Recording(
            self.observations[trials], self.mask[trials], self.labels[trials], self.label_names, self.time_step
        )

    def standardize(self, like: "Recording | None" = None) -> "Recording":
        """Zero mean and unit variance per channel, by the statistics of `like` (the training trials), or its own.

        **Raises:** `ValueError` naming the channels that never change.
        """
        source = self if like is None else like
        values = np.where(source.is_observed, source.observations, np.nan).astype(np.float64)
        # Not by the deviation: rounding gives that of a constant in float32 a size.
        varies = np.fmax.reduce(values, axis=(0, 1)) > np.fmin.reduce(values, axis=(0, 1))
        if not varies.all():
            constant = np.flatnonzero(~varies).tolist()
            raise ValueError(f"`observations` has channels of zero variance: {constant}. Leave them out.")
        mean, std = np.nanmean(values, axis=(0, 1)), np.nanstd(values, axis=(0, 1))
        scaled = np.where(self.mask[..., None], (self.observations - mean) / std, 0).astype(self.observations.dtype)
        return Recording(scaled, self.mask, self.labels, self.label_names, self.time_step)

    def pad(self, length: int) -> "Recording":
        """The same trials with room for `length` time steps.

        **Raises:** `ValueError` if there is room for more already.
        """
        extra = length - self.mask.shape[1]
        if extra < 0:
            raise ValueError(f"`length` must be at least the {self.mask.shape[1]} time steps there are; got {length}.")
        labels = self.labels
        if labels.ndim == 2:
            labels = np.pad(labels, ((0, 0), (0, extra)), constant_values=-1)
        observations = np.pad(self.observations, ((0, 0), (0, extra), (0, 0)))
        mask = np.pad(self.mask, ((0, 0), (0, extra)))
        return Recording(observations, mask, labels, self.label_names, self.time_step)

    def windows(self, length: int, *, stride: int | None = None) -> "Recording":
        """Windows of equal length as trials of their own, labels included; those that reach past a trial's end are left
        out.

        **Raises:** `ValueError` if every trial is shorter than a window.
        """
        longest = int(self.lengths.max())
        if length > longest:
            raise ValueError(f"`length` must be at most the longest trial's {longest} time steps; got {length}.")
        mask = stack_windows(self.mask[..., None], length, stride=stride)[..., 0]
        is_full = mask.all(axis=1)
        labels = self.labels
        per_step = labels if labels.ndim == 2 else np.repeat(labels[:, None], self.mask.shape[1], axis=1)
        stacked = stack_windows(per_step[..., None], length, stride=stride)[is_full, :, 0]
        labels = stacked if labels.ndim == 2 else stacked[:, 0]
        observations = stack_windows(self.observations, length, stride=stride)[is_full]
        return Recording(observations, mask[is_full], labels, self.label_names, self.time_step)


def _pad_labels(
    labels: Sequence[Int[np.ndarray, " _"]] | Int[np.ndarray, " labelled *time"] | None,
    lengths: Int[np.ndarray, " trials"],
) -> np.ndarray:
    if labels is None:
        return np.full(len(lengths), -1, np.int32)
    if isinstance(labels, np.ndarray) and labels.ndim == 1:
        if len(labels) != len(lengths):
            raise ValueError(f"`labels` must have one entry for each of {len(lengths)} trials; got {len(labels)}.")
        return labels.astype(np.int32)
    if len(labels) != len(lengths) or any(len(x) != n for x, n in zip(labels, lengths, strict=False)):
        raise ValueError("`labels` must have one entry for every time step of every trial; the lengths do not agree.")
    padded = np.full((len(lengths), lengths.max()), -1, np.int32)
    for row, values in zip(padded, labels, strict=True):
        row[: len(values)] = values
    return padded
