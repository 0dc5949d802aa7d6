"""Cells and stateless layers one after another."""

import functools as ft
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Key, PRNGKeyArray

from ._apply import apply_stateless
from ._cell import AbstractCell
from ._chunks import AbstractMembraneCell, in_chunks
from ._scan import AbstractScannable, scan


class Sequential(AbstractScannable[tuple[Any, ...]]):
    """Layers one after another; `scan` runs them layer by layer over the whole sequence, since nothing feeds back.

    A stateless layer is then one operation on many time steps (a Linear layer is one matrix product with time and batch
    merged), and only the cells are scanned, each on its own. The numbers are those of the step loop, to rounding;
    dropout masks and stochastic spikes are the same ones.

    !!! note "Memory and caches"
        On CPU a long sequence runs layer by layer in chunks whose states stay in the cache, and of a spiking layer only
        the membranes are kept for the gradient: spikes and slopes are worked out again from them, which costs no matrix
        product. That is half the memory of keeping everything and a fifth less time (docs/spiking.md).
    """

    layers: tuple[AbstractCell | Callable, ...]

    def __init__(self, layers: Sequence[AbstractCell | Callable]):
        """**Arguments:**

        - `layers`: cells, and stateless layers: those of `eqx.nn` (Linear, Conv, pooling, norms, Dropout, MLP,
          Sequential) as they are, `PerSample(layer, feature_ndim)` for other functions of one sample, and functions
          `array -> array` that accept any leading axes (activations, `lambda x: 2 * x`).
        """
        self.layers = tuple(layers)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> tuple[Any, ...]:
        """One state per layer, None for stateless ones; `shape` is the batch."""
        keys = _split(key, len(self.layers))
        return tuple(
            layer.init_state(shape, key=k) if isinstance(layer, AbstractCell) else None
            for layer, k in zip(self.layers, keys, strict=True)
        )

    def __call__(
        self, x: Array, state: tuple[Any, ...], *, key: PRNGKeyArray | None = None
    ) -> tuple[Array, tuple[Any, ...]]:
        """One step through every layer: `x` of shape `(*batch, features)`."""
        new_state = []
        for layer, layer_state, k in zip(self.layers, self._check(state), _split(key, len(self.layers)), strict=True):
            if isinstance(layer, AbstractCell):
                x, layer_state = layer(x, layer_state, key=k)
            else:
                x = apply_stateless(layer, x, k)
            new_state.append(layer_state)
        return x, tuple(new_state)

    def scan_over(
        self,
        xs: Array,
        state: tuple[Any, ...],
        *,
        key: Key[Array, "..."] | None,
        unroll: int,
        reverse: bool,
    ) -> tuple[Array, tuple[Any, ...]]:
        """All steps, layer by layer; `key` is one key, or one a step when this network is a layer of another."""
        keys = _step_keys(key, xs.shape[0], len(self.layers))
        run = ft.partial(self._layer_by_layer, unroll=unroll, reverse=reverse)
        chunk = _chunk(xs.shape[0], self._check(state)) if self.keeps_membranes else None
        if chunk is None:
            return run(xs, state, keys)
        arrays, static = eqx.partition(state, eqx.is_array)

        def run_chunk(carry: Any, part: tuple[Array, Any]) -> tuple[Any, Array]:
            ys, new = run(part[0], eqx.combine(carry, static), part[1])
            return eqx.filter(new, eqx.is_array), ys

        ys, arrays = in_chunks(run_chunk, (xs, keys), arrays, chunk, reverse=reverse)
        return ys, eqx.combine(arrays, static)

    @property
    def keeps_membranes(self) -> bool:
        """Whether every cell does, and there is one."""
        cells = [layer for layer in self.layers if isinstance(layer, AbstractCell)]
        return bool(cells) and all(
            isinstance(c, AbstractMembraneCell | Sequential) and c.keeps_membranes for c in cells
        )

    def _layer_by_layer(
        self, xs: Array, state: tuple[Any, ...], keys: list[Key[Array, " time"] | None], *, unroll: int, reverse: bool
    ) -> tuple[Array, tuple[Any, ...]]:
        new_state = []
        for layer, layer_state, k in zip(self.layers, state, keys, strict=True):
            if isinstance(layer, AbstractCell):
                xs, layer_state = _scan_layer(layer, xs, layer_state, k, unroll, reverse)
            else:
                xs = apply_stateless(layer, xs, k)
            new_state.append(layer_state)
        return xs, tuple(new_state)

    def _check(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(state) != len(self.layers):
            raise ValueError(
                f"`state` must have one entry for each of the {len(self.layers)} layers (None for stateless ones); got "
                f"{len(state)}. Use `init_state`."
            )
        return state


class _Keyed(eqx.Module):
    """A cell that takes its key with its input."""

    cell: AbstractCell

    def __call__(self, x: tuple[Any, PRNGKeyArray], state: Any, *, key: PRNGKeyArray | None = None) -> tuple[Any, Any]:
        return self.cell(x[0], state, key=x[1])


def _scan_layer(
    layer: AbstractCell, xs: Array, state: Any, keys: Key[Array, " time"] | None, unroll: int, reverse: bool
) -> tuple[Array, Any]:
    if keys is None:
        return scan(layer, xs, state, unroll=unroll, reverse=reverse)
    if isinstance(layer, AbstractScannable):
        return layer.scan_over(xs, state, key=keys, unroll=unroll, reverse=reverse)
    return scan(_Keyed(layer), (xs, keys), state, unroll=unroll, reverse=reverse)


def _chunk(num_steps: int, state: Any) -> int | None:
    """Steps whose states fill about a megabyte, adjusted to divide the sequence if a near number does."""
    if jax.default_backend() != "cpu":
        return None
    elements = sum(leaf.size for leaf in jax.tree.leaves(state) if eqx.is_array(leaf))
    target = max(8, _CHUNK_ELEMENTS // max(elements, 1))
    if num_steps < 2 * target:
        return None
    near = [size for size in range(target // 2, 2 * target) if num_steps % size == 0]
    return min(near, key=lambda size: abs(size - target), default=target)


_CHUNK_ELEMENTS = 330_000


def _split(key: PRNGKeyArray | None, num: int) -> list[PRNGKeyArray | None]:
    return [None] * num if key is None else list(jr.split(key, num))


def _step_keys(key: Key[Array, "..."] | None, num_steps: int, num_layers: int) -> list[Key[Array, " time"] | None]:
    """For each layer the keys that the step loop would give it."""
    if key is None:
        return [None] * num_layers
    steps = jr.split(key, num_steps) if key.ndim == 0 else key
    by_step = jax.vmap(lambda k: jr.split(k, num_layers))(steps)
    return [by_step[:, layer] for layer in range(num_layers)]
