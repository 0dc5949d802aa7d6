"""Cells and stateless layers one after another."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.random as jr
from jaxtyping import Array, PRNGKeyArray

from ._cell import AbstractCell
from ._scan import AbstractScannable, scan


class Sequential(AbstractScannable[tuple[Any, ...]]):
    """Layers one after another; `scan` runs them layer by layer over the whole sequence, since nothing feeds back.

    Stateless layers act on every leading axis at once, cells are scanned on their own.
    """

    layers: tuple[AbstractCell | Callable, ...]

    def __init__(self, layers: Sequence[AbstractCell | Callable]):
        """**Arguments:** `layers`: cells, and stateless layers `array -> array` that accept any leading axes."""
        self.layers = tuple(layers)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> tuple[Any, ...]:
        keys = _split(key, len(self.layers))
        return tuple(
            layer.init_state(shape, key=k) if isinstance(layer, AbstractCell) else None
            for layer, k in zip(self.layers, keys, strict=True)
        )

    def __call__(
        self, x: Array, state: tuple[Any, ...], *, key: PRNGKeyArray | None = None
    ) -> tuple[Array, tuple[Any, ...]]:
        new_state = []
        for layer, layer_state, k in zip(self.layers, state, _split(key, len(self.layers)), strict=True):
            if isinstance(layer, AbstractCell):
                x, layer_state = layer(x, layer_state, key=k)
            else:
                x = layer(x)
            new_state.append(layer_state)
        return x, tuple(new_state)

    def scan_over(
        self, xs: Array, state: tuple[Any, ...], *, key: PRNGKeyArray | None, unroll: int, reverse: bool
    ) -> tuple[Array, tuple[Any, ...]]:
        new_state = []
        for layer, layer_state, k in zip(self.layers, state, _split(key, len(self.layers)), strict=True):
            if isinstance(layer, AbstractCell):
                xs, layer_state = scan(layer, xs, layer_state, key=k, unroll=unroll, reverse=reverse)
            else:
                xs = layer(xs)
            new_state.append(layer_state)
        return xs, tuple(new_state)


def _split(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray | None]:
    return [None] * num if key is None else list(jr.split(key, num))
