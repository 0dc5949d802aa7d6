"""Shuffled, padded, checkpointable streams of graphs (extra `data`)."""

from ._grain import graph_loader as graph_loader
