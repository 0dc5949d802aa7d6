"""Ready-made models."""

from ._mlp import MLP as MLP
