"""Learning without a backward pass through time: online training through time."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from .._apply import apply_stateless
from .._cell import AbstractCell
from .._scan import scan
from .._sequential import Sequential
from ._connections import DenseConnection
from ._li import LICell
from ._lif import LIFCell
from ._parameter import resolve
from ._reset import NoReset, SubtractReset
from ._sparse import SparseConnection


_AFFINE = (eqx.nn.Linear, eqx.nn.Conv, DenseConnection, SparseConnection)


class _Online(eqx.Module):
    """What is carried from step to step."""

    network: tuple[Any, ...]
    traces: tuple[Float[Array, "..."] | None, ...]  # Of the inputs of each affine layer.
    counts: tuple[Float[Array, ""] | None, ...]  # The trace of a one, for biases.
    gradient: PyTree


def ottt(
    network: Sequential,
    xs: Shaped[Array, "time *batch inputs"],
    targets: PyTree,
    step_loss: Callable[[Array, Any], Float[Array, ""]],
) -> tuple[Float[Array, ""], Sequential]:
    r"""Loss and its gradient by online training through time (OTTT): no backward pass through time, no memory in it.

    $\frac{dE}{dW^l} \approx \sum_t \delta_l^t\, \hat a_{l-1}^t$ with $\hat a^t = \beta\, \hat a^{t-1} + x^t$ the trace
    of a layer's input, which decays like the membranes it drives, and $\delta_l^t$ the error of step $t$ sent back
    through the layers of that step alone.

    Exact for the weights below the last spiking layer, if what follows keeps no state; further down it leaves out what
    the membranes above remember. Every affine layer (Linear, Conv, `DenseConnection`, `SparseConnection`) is trained,
    layers of other kinds with parameters by the step alone.

    **Arguments:**

    - `network`: affine and stateless layers, `LIFCell`s, and possibly a `LICell` at the end.
    - `xs`: inputs, time first; spikes may be bool or integers.
    - `targets`: anything with time first.
    - `step_loss`: `(y, target) -> scalar` for one step, with the batch averaged; the loss is its mean over time.

    **Returns:** the loss, and the estimate as a pytree like `network`, zero where nothing is trained.

    **Raises:** `ValueError` for cells whose membrane does not simply decay: a synapse, adaptation, refractory period,
    a reset to a value or one that is not detached, or more than one time constant in a layer.

    ??? cite "Reference"
        Xiao, Meng, Zhang, He and Lin, Online training through time for spiking neural networks, NeurIPS 2022, section
        4, with the weights changed after the last step (there OTTT-A).
    """
    betas = _betas(network)
    step = _Step(network, step_loss, betas, xs.shape[0])
    losses, last = scan(step, (xs, targets), step.start(xs[0]))
    return jnp.mean(losses), last.gradient


class _Step(eqx.Module):
    """One step of the network, with the gradient that it adds."""

    network: Sequential
    step_loss: Callable[[Array, Any], Float[Array, ""]]
    betas: tuple[Any, ...]
    num_steps: int

    def start(self, x: Array) -> _Online:
        """Empty traces for inputs like `x`."""
        state = self.network.init_state(self._batch(x))
        shapes = jax.eval_shape(lambda x: self._run(self.network, x, state, None)[2], x)
        traces = tuple(None if s is None else jnp.zeros(s.shape, s.dtype) for s in shapes)
        counts = tuple(None if s is None else jnp.zeros((), s.dtype) for s in shapes)
        return _Online(state, traces, counts, jtu.tree_map(no_gradient, self.network))

    def __call__(self, x: tuple[Array, Any], state: _Online, *, key: PRNGKeyArray | None = None) -> tuple:
        inputs, target = x
        params, static = eqx.partition(self.network, eqx.is_inexact_array)

        def loss(params: PyTree) -> tuple[Array, tuple]:
            y, *after = self._run(eqx.combine(params, static), inputs, state.network, state)
            return self.step_loss(y, target), tuple(after)

        (value, (network, traces, counts)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        total, rest = eqx.partition(state.gradient, eqx.is_inexact_array)
        total = jtu.tree_map(lambda t, g: t + g / self.num_steps, total, grads)
        return value, _Online(network, traces, counts, eqx.combine(total, rest))

    def _run(self, network: Sequential, x: Array, state: tuple[Any, ...], before: _Online | None) -> tuple:
        """The output, and the new states, input traces and counts; without `before`, inputs in place of traces."""
        states, traces, counts = [], [], []
        for i, layer in enumerate(network.layers):
            new, trace, count = state[i], None, None
            if isinstance(layer, AbstractCell):
                x, new = layer(x, jax.lax.stop_gradient(state[i]))
                new = jax.lax.stop_gradient(new)
            elif isinstance(layer, _AFFINE):
                trace = jax.lax.stop_gradient(x.astype(float))
                if before is None:
                    x = apply_stateless(layer, x, None)
                else:
                    trace = self.betas[i] * before.traces[i] + trace
                    count = self.betas[i] * before.counts[i] + 1
                    x = _through_trace(layer, x, trace, count)
            else:
                x = apply_stateless(layer, x, None)
            states.append(new)
            traces.append(trace)
            counts.append(count)
        return x, tuple(states), tuple(traces), tuple(counts)

    def _batch(self, x: Array) -> tuple[int, ...]:
        first = self.network.layers[0]
        trailing = first.num_spatial_dims + 1 if isinstance(first, eqx.nn.Conv) else 1
        return x.shape[: x.ndim - trailing]


def _through_trace(layer: Any, x: Array, trace: Array, count: Array) -> Array:
    """The layer of `x`, whose parameters see the trace of `x`; a bias is the weight of a one, traced by `count`."""
    held = jtu.tree_map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, layer)
    value = apply_stateless(held, x, None)
    seen = count * apply_stateless(layer, trace / count, None)
    return value + (seen - jax.lax.stop_gradient(seen)).astype(value.dtype)


def _betas(network: Sequential) -> tuple[Any, ...]:
    """For each layer how fast what it drives forgets: the decay of the next cell, or zero if there is none."""
    betas: list[Any] = []
    beta: Any = 0.0
    for layer in network.layers[::-1]:
        if isinstance(layer, AbstractCell):
            beta = _decay(layer)
        betas.append(beta)
        if isinstance(layer, _AFFINE):
            beta = 0.0
    return tuple(betas[::-1])


def _decay(cell: AbstractCell) -> Array:
    simple = isinstance(cell, LICell)
    if isinstance(cell, LIFCell):
        reset = cell.reset
        resets = isinstance(reset, NoReset) or (isinstance(reset, SubtractReset) and reset.detach)
        simple = resets and cell.adaptation is None and cell.refractory is None and reset.timing != "discounted"
    if not (simple and isinstance(cell, LICell | LIFCell) and cell.synapse is None):
        raise ValueError(
            "`network` must hold cells whose membranes simply decay: LICell, or LIFCell with a detached soft reset or "
            f"none, without synapse, adaptation or refractory period. Got {type(cell).__name__}; use `eprop` for those."
        )
    tau = resolve(cell.tau_mem, jnp.zeros(cell.size))
    if jnp.size(tau) != 1:
        raise ValueError(f"`network` must have one `tau_mem` in a layer; got shape {jnp.shape(tau)}.")
    return jnp.reshape(jnp.asarray(cell.decay.factor(cell.dt, jnp.reshape(jnp.asarray(tau), ()))), ())


def no_gradient(leaf: Any) -> Any:
    """No gradient of an array; None for what is no array, as `eqx.filter_grad` has it: a constant is not updated."""
    return jnp.zeros_like(leaf) if eqx.is_inexact_array(leaf) else None
