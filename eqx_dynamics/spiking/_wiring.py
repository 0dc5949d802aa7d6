"""Cells made of cells: a shortcut around one, several side by side, and a line that delays."""

import functools as ft
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from .._cell import AbstractCell
from .._chunks import AbstractMembraneCell
from .._layers import (
    Layer,
    check_states,
    init_layers,
    keep_membranes,
    scan_layer,
    split_keys,
    step_keys,
    step_layer,
)
from .._scan import AbstractScannable
from ._neuron import Input, as_size, check_input, out_dtype, zeros
from ._parameter import ParameterLike, concrete, require_fits, require_step, resolve
from ._units import Constant, Step, in_ms, plain


class Residual(AbstractMembraneCell[Any], AbstractScannable[Any]):
    """A shortcut: the output of a cell plus its input, `y + x`. The state is the cell's."""

    cell: AbstractCell

    @property
    def keeps_membranes(self) -> bool:
        """As its cell."""
        return keep_membranes([self.cell])

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> Any:
        """The cell's own state, with `shape` as leading (batch) axes."""
        return self.cell.init_state(shape, key=key)

    @jax.named_scope("eqx_dynamics.Residual")
    def __call__(self, x: Array, state: Any, *, key: PRNGKeyArray | None = None) -> tuple[Array, Any]:
        """One step: `x` to the cell's output plus `x`, which must have one shape."""
        y, state = self.cell(x, state, key=key)
        return _shortcut(y, x), state

    def scan_over(
        self, xs: Array, state: Any, *, key: Key[Array, " time"] | None, unroll: int, reverse: bool
    ) -> tuple[Array, Any]:
        """All steps, by the cell's own route."""
        ys, state = scan_layer(self.cell, xs, state, key, unroll=unroll, reverse=reverse)
        return _shortcut(ys, xs), state


def add(outputs: Sequence[Array]) -> Array:
    """The sum of the outputs of branches.

    **Raises:** `ValueError` if their shapes differ.
    """
    shapes = [y.shape for y in outputs]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"`branches` of Parallel must put out one shape to be added up; got {shapes}. Give a `merge`.")
    return ft.reduce(jnp.add, outputs)


class Parallel(AbstractMembraneCell[tuple[Any, ...]], AbstractScannable[tuple[Any, ...]]):
    """Branches side by side: each gets the same input, their outputs are merged."""

    branches: tuple[Layer, ...]
    merge: Callable[[Sequence[Array]], Array]

    def __init__(self, branches: Sequence[Layer], merge: Callable[[Sequence[Array]], Array] = add):
        """**Arguments:**

        - `branches`: cells, and stateless layers as in `Sequential`.
        - `merge`: a list of outputs to one; on trailing axes only, as time and batch stand in front. Their sum, or e.g.
          `functools.partial(jnp.concatenate, axis=-1)`.

        **Raises:** `ValueError` if there is no branch.
        """
        if not branches:
            raise ValueError("`branches` must hold at least one cell or layer; got none.")
        self.branches, self.merge = tuple(branches), merge

    @property
    def keeps_membranes(self) -> bool:
        """Whether every cell does, and there is one."""
        return keep_membranes(self.branches)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> tuple[Any, ...]:
        """One state per branch, None for stateless ones; `shape` is the batch."""
        return init_layers(self.branches, shape, key)

    @jax.named_scope("eqx_dynamics.Parallel")
    def __call__(
        self, x: Array, state: tuple[Any, ...], *, key: PRNGKeyArray | None = None
    ) -> tuple[Array, tuple[Any, ...]]:
        """One step of every branch on the same `x`."""
        state = check_states(state, len(self.branches), "branches")
        keys = split_keys(key, len(self.branches))
        return self._merged([step_layer(b, x, s, k) for b, s, k in zip(self.branches, state, keys, strict=True)])

    def scan_over(
        self, xs: Array, state: tuple[Any, ...], *, key: Key[Array, "..."] | None, unroll: int, reverse: bool
    ) -> tuple[Array, tuple[Any, ...]]:
        """All steps, branch by branch."""
        state = check_states(state, len(self.branches), "branches")
        keys = step_keys(key, xs.shape[0], len(self.branches))
        run = ft.partial(scan_layer, unroll=unroll, reverse=reverse)
        return self._merged([run(b, xs, s, k) for b, s, k in zip(self.branches, state, keys, strict=True)])

    def _merged(self, done: list[tuple[Array, Any]]) -> tuple[Array, tuple[Any, ...]]:
        return self.merge([y for y, _ in done]), tuple(state for _, state in done)


class DelayState(eqx.Module):
    """State of `Delay`."""

    history: Float[Array, "..."]  # (*batch, steps + 1, *size), a ring
    newest: Int[Array, "..."]  # (*batch,), where in the ring the last input is; behind it is the oldest.


class Delay(AbstractMembraneCell[DelayState], AbstractScannable[DelayState]):
    r"""A delay line, $y_t = (1 - f)\, x_{t - k} + f\, x_{t - k - 1}$ with $d / \Delta t = k + f$, $0 \le f \le 1$.

    A delay of whole steps is exact. The interpolation gives every delay a gradient,
    $\partial y_t / \partial d = (x_{t-k-1} - x_{t-k}) / \Delta t$, so delays can be learned. A whole sequence is one
    gather, without a loop over time.

    ??? cite "Reference"
        Delays learned by linear interpolation: Hammouamri, Khalfaoui-Hassani and Masquelier, ICLR 2024, section 3
        (there in the limit of a narrow kernel).
    """

    delay: ParameterLike  # ms
    dt: float  # ms
    steps: int = eqx.field(static=True)
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, ...],
        delay: Constant,
        *,
        max_delay: Step | None = None,
        dt: Step = 1.0,
    ):
        """**Arguments:**

        - `size`: number of lines, or their shape.
        - `delay`: ms, one value or one per line. A number or `Frozen` is fixed, a JAX array is learned and is cut off
          at 0 and `max_delay`, `Bounded(initial, upper=max_delay)` is learned and stays between.
        - `max_delay`: ms, sets how much is remembered; needed unless `delay` is a number.
        - `dt`: length of a step, ms.

        **Raises:** `ValueError` for a delay below 0 or above `max_delay`, a missing `max_delay`, a `dt` that is not
        positive, or a `delay` that does not fit `size`.
        """
        delay, dt = plain(delay, "ms"), in_ms(dt)
        require_step(dt)
        if max_delay is None:
            if not isinstance(delay, float | int):
                raise ValueError("`max_delay` (ms) is needed unless `delay` is a number: it sets what is remembered.")
            max_delay = float(delay)
        max_delay = in_ms(max_delay)
        values = concrete(delay)
        if values is not None and not ((values >= 0) & (values <= max_delay)).all():
            raise ValueError(f"`delay` must lie between 0 and `max_delay`, {max_delay:g} ms; got {values.tolist()}.")
        self.size, self.delay, self.dt = as_size(size), delay, dt
        self.steps = max(1, math.ceil(max_delay / dt - 1e-6))
        require_fits(delay, "delay", self.size)

    @property
    def keeps_membranes(self) -> bool:
        """True: a line computes nothing."""
        return True

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> DelayState:
        """Nothing came before, with `shape` as leading (batch) axes."""
        return DelayState(zeros((*shape, self.steps + 1), self.size), jnp.zeros(shape, jnp.int32))

    @jax.named_scope("eqx_dynamics.Delay")
    def __call__(
        self, x: Input, state: DelayState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], DelayState]:
        """One step: `(*batch, *size)` to what came in `delay` ms ago. Of the history only that is touched."""
        inputs = check_input("Delay", x, self.size, jnp.take(state.history, 0, axis=state.newest.ndim))
        step = self._step
        for _ in range(state.newest.ndim):
            step = jax.vmap(step)
        y, ring, newest = step(inputs, state.history, state.newest)
        return out_dtype(x, y), DelayState(ring, newest)

    def scan_over(
        self, xs: Input, state: DelayState, *, key: Key[Array, "..."] | None, unroll: int, reverse: bool
    ) -> tuple[Float[Array, "..."], DelayState]:
        """All steps at once."""
        if xs.shape[0]:
            check_input("Delay", xs[0], self.size, jnp.take(state.history, 0, axis=state.newest.ndim))
        inputs = (xs[::-1] if reverse else xs).astype(state.history.dtype)
        steps = self._steps
        for _ in range(state.newest.ndim):
            steps = jax.vmap(steps, in_axes=(1, 0, 0), out_axes=(1, 0, 0))
        ys, ring, newest = steps(inputs, state.history, state.newest)
        return out_dtype(xs, ys[::-1] if reverse else ys), DelayState(ring, newest)

    def _step(self, x: Array, ring: Array, newest: Array) -> tuple[Array, Array, Array]:
        """One step of one sample."""
        newest = (newest + 1) % ring.shape[0]
        ring = ring.at[newest].set(x)

        def ago(steps: int | Array) -> Array:
            where = (newest - steps) % ring.shape[0]
            return ring[where] if where.ndim == 0 else jnp.take_along_axis(ring, where[None], axis=0)[0]

        return self._read(ago, x), ring, newest

    def _steps(self, xs: Array, ring: Array, newest: Array) -> tuple[Array, Array, Array]:
        """All steps of one sample."""
        length, num_steps = ring.shape[0], xs.shape[0]
        window = jnp.concatenate([jnp.roll(ring, -newest - 1, axis=0), xs])  # In the order of time.

        def ago(steps: int | Array) -> Array:
            if isinstance(steps, int):
                return jax.lax.slice_in_dim(window, length - steps, length - steps + num_steps)
            time = jnp.arange(length, length + num_steps, dtype=jnp.int32).reshape((-1,) + (1,) * steps.ndim)
            return jnp.take_along_axis(window, time - steps[None], axis=0)

        newest = (newest + num_steps) % length
        return self._read(ago, ring[0]), jnp.roll(window[num_steps:], newest + 1, axis=0), newest

    def _read(self, ago: Callable[[int | Array], Array], like: Array) -> Array:
        """`ago(k)` is what came in `k` steps ago, the same for all lines (an int) or one for each."""
        delay = resolve(self.delay, like)
        if isinstance(delay, float):
            in_steps = round(delay / self.dt, 6)
            whole = min(math.floor(in_steps), self.steps)
            fraction = in_steps - whole
            return (1 - fraction) * ago(whole) + fraction * ago(whole + 1) if fraction else ago(whole)
        in_steps = jnp.clip(delay / self.dt, 0, self.steps)
        in_steps = in_steps.reshape((1,) * (like.ndim - in_steps.ndim) + in_steps.shape)
        whole = jnp.minimum(jnp.floor(jax.lax.stop_gradient(in_steps)), self.steps - 1).astype(jnp.int32)
        later, earlier = ago(whole), ago(whole + 1)
        fraction = jnp.expand_dims(in_steps - whole.astype(in_steps.dtype), tuple(range(later.ndim - whole.ndim)))
        return (1 - fraction) * later + fraction * earlier


def _shortcut(y: Array, x: Array) -> Array:
    if y.shape != x.shape:
        raise ValueError(f"`cell` of Residual must keep the shape {x.shape} of its input; it puts out {y.shape}.")
    return y + x.astype(y.dtype)
