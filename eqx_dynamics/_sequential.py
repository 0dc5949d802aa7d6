"""Cells and stateless layers one after another."""

import functools as ft
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PRNGKeyArray

from ._apply import apply_stateless
from ._chunks import AbstractMembraneCell, in_chunks, near_divisor
from ._derivative import with_tangent
from ._layers import Layer, check_states, init_layers, keep_membranes, scan_layer, split_keys, step_keys, step_layer
from ._scan import AbstractScannable


class Sequential(AbstractMembraneCell[tuple[Any, ...]], AbstractScannable[tuple[Any, ...]]):
    """Layers one after another; `scan` runs them layer by layer over the whole sequence, since nothing feeds back.

    A stateless layer is then one operation on many time steps (a Linear layer is one matrix product with time and batch
    merged), and only the cells are scanned, each on its own. The numbers are those of the step loop, to rounding;
    dropout masks and stochastic spikes are the same ones.

    !!! note "Memory and caches"
        On CPU a long sequence runs layer by layer in chunks whose states stay in the cache, and of a spiking layer only
        the membranes are kept for the gradient: spikes and slopes are worked out again from them, which costs no matrix
        product. That is half the memory of keeping everything and a fifth less time (docs/spiking.md). A network with
        convolutions runs in one piece, each convolution over all steps and samples at once.
    """

    layers: tuple[Layer, ...]

    def __init__(self, layers: Sequence[Layer]):
        """**Arguments:**

        - `layers`: cells, and stateless layers: those of `eqx.nn` (Linear, Conv, pooling, norms, Dropout, MLP,
          Sequential) as they are, `PerSample(layer, feature_ndim)` for other functions of one sample, and functions
          `array -> array` of one time step with its batch axes (activations, `lambda x: 2 * x`).
        """
        self.layers = tuple(layers)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> tuple[Any, ...]:
        """One state per layer, None for stateless ones; `shape` is the batch."""
        return init_layers(self.layers, shape, key)

    def __call__(
        self, x: Array, state: tuple[Any, ...], *, key: PRNGKeyArray | None = None
    ) -> tuple[Array, tuple[Any, ...]]:
        """One step through every layer: `x` of shape `(*batch, features)`."""
        new_state = []
        states = check_states(state, len(self.layers), "layers")
        for layer, layer_state, k in zip(self.layers, states, split_keys(key, len(self.layers)), strict=True):
            x, layer_state = step_layer(layer, x, layer_state, k)
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
        check_states(state, len(self.layers), "layers")
        keys = step_keys(key, xs.shape[0], len(self.layers))
        run = ft.partial(self._layer_by_layer, unroll=unroll, reverse=reverse)
        chunk = _chunk(xs.shape[0], state) if self.keeps_membranes and not _convolves(self.layers) else None
        if chunk is None:
            return run(xs, state, keys)
        arrays, static = eqx.partition(state, eqx.is_array)

        def run_chunk(carry: Any, part: tuple[Array, Any, Array | None]) -> tuple[Any, Array]:
            ys, new = run(part[0], eqx.combine(carry, static), part[1], ahead=part[2])
            return eqx.filter(new, eqx.is_array), ys

        inputs = (xs, keys, self._product_ahead(xs))
        ys, arrays = in_chunks(run_chunk, inputs, arrays, chunk, reverse=reverse)
        return ys, eqx.combine(arrays, static)

    @property
    def keeps_membranes(self) -> bool:
        """Whether every cell does, and there is one."""
        return keep_membranes(self.layers)

    def _layer_by_layer(
        self,
        xs: Array,
        state: tuple[Any, ...],
        keys: list[Key[Array, " time"] | None],
        *,
        unroll: int,
        reverse: bool,
        ahead: Array | None = None,
    ) -> tuple[Array, tuple[Any, ...]]:
        """All layers over all of `xs`; `ahead` is what the first puts out, if known: it then only adds derivatives."""
        new_state = []
        for layer, layer_state, k in zip(self.layers, state, keys, strict=True):
            xs, layer_state = scan_layer(layer, xs, layer_state, k, unroll=unroll, reverse=reverse)
            if ahead is not None:
                xs, ahead = with_tangent(ahead, xs), None
            new_state.append(layer_state)
        return xs, tuple(new_state)

    def _product_ahead(self, xs: Array) -> Array | None:
        """What a first Linear layer puts out at all steps, if it is small: forward no chunk then copies its inputs."""
        first = self.layers[0]
        if not isinstance(first, eqx.nn.Linear) or not jnp.issubdtype(xs.dtype, jnp.floating):
            return None
        outputs, inputs = first.weight.shape
        if outputs >= inputs or xs.size // inputs * outputs > _AHEAD_ELEMENTS:
            return None
        return jax.lax.stop_gradient(apply_stateless(first, xs, None))


def _convolves(layers: tuple[Layer, ...]) -> bool:
    """Whether there is a convolution: on CPU XLA runs it several times slower in a loop, such as one over chunks."""
    is_convolution = lambda node: isinstance(node, eqx.nn.Conv | eqx.nn.ConvTranspose)  # noqa: E731
    return any(is_convolution(node) for node in jax.tree.leaves(layers, is_leaf=is_convolution))


def _chunk(num_steps: int, state: Any) -> int | None:
    """Steps whose states fill about a megabyte, adjusted to divide the sequence if a near number does."""
    if jax.default_backend() != "cpu":
        return None
    elements = sum(leaf.size for leaf in jax.tree.leaves(state) if eqx.is_array(leaf))
    target = max(8, _CHUNK_ELEMENTS // max(elements, 1))
    return None if num_steps < 2 * target else near_divisor(num_steps, target)


_CHUNK_ELEMENTS = 330_000
_AHEAD_ELEMENTS = 2_000_000
"""Of a product ahead of the chunks, at most: 8 MB, which stay in a large cache and add little to the memory."""
