"""Layers of a network, cells and stateless ones alike: their states, one step of one, and a whole sequence of one."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.random as jr
from jaxtyping import Array, Key, PRNGKeyArray

from ._apply import apply_stateless
from ._cell import AbstractCell
from ._chunks import AbstractMembraneCell
from ._scan import AbstractScannable, scan


Layer: TypeAlias = AbstractCell | Callable[..., Any]
"""A cell, or a stateless layer (see `Sequential`)."""


def init_layers(layers: Sequence[Layer], shape: tuple[int, ...], key: PRNGKeyArray | None) -> tuple[Any, ...]:
    """One state per layer, None for stateless ones."""
    keys = split_keys(key, len(layers))
    return tuple(
        layer.init_state(shape, key=k) if isinstance(layer, AbstractCell) else None
        for layer, k in zip(layers, keys, strict=True)
    )


def step_layer(layer: Layer, x: Array, state: Any, key: PRNGKeyArray | None) -> tuple[Array, Any]:
    """One step of one layer."""
    return layer(x, state, key=key) if isinstance(layer, AbstractCell) else (apply_stateless(layer, x, key), state)


def scan_layer(
    layer: Layer, xs: Array, state: Any, keys: Key[Array, " time"] | None, *, unroll: int, reverse: bool
) -> tuple[Array, Any]:
    """All steps of one layer, by its own route if it has one; `keys` are those of its steps."""
    if not isinstance(layer, AbstractCell):
        return apply_stateless(layer, xs, keys, over_time=True), state
    if keys is None:
        return scan(layer, xs, state, unroll=unroll, reverse=reverse)
    if isinstance(layer, AbstractScannable):
        return layer.scan_over(xs, state, key=keys, unroll=unroll, reverse=reverse)
    keyed = lambda x_and_key, state, *, key=None: layer(x_and_key[0], state, key=x_and_key[1])  # noqa: E731
    return scan(keyed, (xs, keys), state, unroll=unroll, reverse=reverse)


def keep_membranes(layers: Sequence[Layer]) -> bool:
    """Whether there is a cell and every cell `keeps_membranes`."""
    cells = [layer for layer in layers if isinstance(layer, AbstractCell)]
    return bool(cells) and all(isinstance(cell, AbstractMembraneCell) and cell.keeps_membranes for cell in cells)


def split_keys(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray | None]:
    """A key for each layer, in one step."""
    return [None] * num if key is None else list(jr.split(key, num))


def step_keys(key: Key[Array, "..."] | None, num_steps: int, num_layers: int) -> list[Key[Array, " time"] | None]:
    """For each layer the keys that the step loop would give it; `key` is one key, or one a step."""
    if key is None:
        return [None] * num_layers
    steps = jr.split(key, num_steps) if key.ndim == 0 else key
    by_step = jax.vmap(lambda k: jr.split(k, num_layers))(steps)
    return [by_step[:, layer] for layer in range(num_layers)]


def check_states(state: tuple[Any, ...], num: int, what: str) -> tuple[Any, ...]:
    """The states of `num` layers (`what` they are called), or a `ValueError`."""
    if len(state) != num:
        raise ValueError(
            f"`state` must have one entry for each of the {num} {what} (None for stateless ones); got {len(state)}. "
            "Use `init_state`."
        )
    return state
