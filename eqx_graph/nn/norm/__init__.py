"""Normalisation over nodes and graphs."""

from ._batch import BatchNorm as BatchNorm, RunningStatistics as RunningStatistics
