"""Learning without a backward pass through time: e-prop."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from .._cell import AbstractCell
from .._scan import scan
from .._sequential import Sequential
from ._connections import DenseConnection, value_of
from ._feedback import AbstractFeedback, SymmetricFeedback
from ._li import LICell
from ._neuron import AbstractNeuron
from ._ottt import no_gradient
from ._parameter import resolve
from ._recurrent import Recurrent, RecurrentState


StepLoss = Callable[[Array, Any], Float[Array, ""]]


class EProp(eqx.Module):
    """What e-prop trains: a network with one layer of neurons, and the feedback that teaches them.

    **Arguments:**

    - `network`: `Sequential([affine, neurons, affine])` or with a `LICell` at the end, where affine is an
      `eqx.nn.Linear` or a `DenseConnection` and neurons any spiking cell of this room (`LIFCell`, with threshold
      adaptation the ALIF of the paper, ...), or `Recurrent` of one with an affine weight.
    - `feedback`: `SymmetricFeedback()`, `RandomFeedback(matrix)` or `AdaptiveFeedback(matrix)`.
    """

    network: Sequential
    feedback: AbstractFeedback = SymmetricFeedback()

    def __check_init__(self):
        layers = self.network.layers
        if len(layers) not in (3, 4) or not _is_taught(*layers[:3]) or not all(map(_reads_out, layers[3:])):
            raise ValueError(
                "`network` must be Sequential([affine, neurons, affine]), or with a LICell without synapse as fourth "
                "layer; affine: eqx.nn.Linear or DenseConnection, neurons: a spiking cell, or Recurrent of one. Got "
                f"{[type(layer).__name__ for layer in layers]}."
            )


def _is_taught(before: Any, neurons: Any, after: Any) -> bool:
    affine = [before, after]
    if isinstance(neurons, Recurrent):
        affine, neurons = [*affine, neurons.weight], neurons.cell
    return isinstance(neurons, AbstractNeuron) and all(isinstance(a, eqx.nn.Linear | DenseConnection) for a in affine)


def _reads_out(layer: Any) -> bool:
    return isinstance(layer, LICell) and layer.synapse is None


class _Traces(eqx.Module):
    """What e-prop carries from step to step."""

    network: Any
    eligibility: list[Float[Array, "*batch neurons sources"]]  # Of each variable of a neuron, to each of its synapses.
    filtered: Float[Array, "*batch neurons sources"]
    filtered_spikes: Float[Array, "*batch neurons_plus_one"]
    gradients: tuple[Float[Array, "neurons sources"], Float[Array, "outputs neurons_plus_one"]]


def eprop(
    model: EProp, xs: Shaped[Array, "time *batch inputs"], targets: PyTree, step_loss: StepLoss
) -> tuple[Float[Array, ""], EProp]:
    r"""Loss and e-prop's estimate of its gradient, found while the network runs: no backward pass, no memory in time.

    $\frac{dE}{dW_{ji}} \approx \sum_t L_j^t\, \bar e_{ji}^t$, $\;\epsilon_{ji}^t = \frac{\partial h_j^t}{\partial
    h_j^{t-1}} \epsilon_{ji}^{t-1} + \frac{\partial h_j^t}{\partial W_{ji}}$, $\;e_{ji}^t = \frac{\partial
    z_j^t}{\partial h_j^t} \epsilon_{ji}^t$. The derivatives of a neuron's state $h_j$ are those of the cell itself,
    whatever its variables; $\bar e$ is filtered as the readout filters spikes, and $L^t = B^\top \frac{\partial
    \ell}{\partial y^t}$.

    With `SymmetricFeedback` this is the gradient of backpropagation through time when spikes that neurons send to one
    another are taken as given: exact without recurrence. Only the weights and biases of the affine layers are trained.

    **Arguments:**

    - `model`: the network and its feedback.
    - `xs`: inputs, time first; spikes may be bool or integers.
    - `targets`: anything with time first.
    - `step_loss`: `(y, target) -> scalar` for one step, with the batch averaged; the loss is its mean over time.

    **Returns:** the loss, and the estimate as a pytree like `model`, zero where nothing is trained.

    **Raises:** `ValueError` if a variable of the neurons is not one number per neuron.

    !!! note
        Each synapse of each sample has one trace per variable of a neuron, and one filtered: time and memory of a step
        are `batch * neurons * (inputs + neurons)` times these. (The paper's ALIF needs as many.)

    ??? cite "Reference"
        Bellec, Scherr, Subramoney, Hajek, Salaj, Legenstein and Maass, A solution to the learning dilemma for recurrent
        networks of spiking neurons, Nature Communications 11, 2020, Methods: eligibility traces of LIF and ALIF
        neurons, and learning signals for regression and classification. Their loss is the sum over time, and their
        regularisation of firing rates is not included.
    """
    network = model.network
    batch = xs.shape[1:-1]
    step = _Step(model, step_loss, xs.shape[0])
    losses, traces = scan(step, (xs, targets), step.init_state(batch))
    hidden, readout = traces.gradients
    num_inputs = xs.shape[-1]
    parts = jnp.split(hidden, [num_inputs, hidden.shape[1] - 1], axis=1)  # From inputs, from neurons, biases.
    layers: list[Any] = [jtu.tree_map(no_gradient, layer) for layer in network.layers]
    layers[0] = _pulled_back(network.layers[0], parts[0], parts[2][:, 0])
    if isinstance(network.layers[1], Recurrent):
        weight = _pulled_back(network.layers[1].weight, parts[1], parts[2][:, 0])
        layers[1] = eqx.tree_at(lambda r: r.weight, layers[1], weight)
    layers[2] = _pulled_back(network.layers[2], readout[:, :-1], readout[:, -1])
    grads = eqx.tree_at(lambda n: n.layers, network, tuple(layers))
    return jnp.mean(losses), EProp(grads, model.feedback.gradient(readout[:, :-1]))


class _Step(AbstractCell[_Traces]):
    """One step of the network, of the eligibility traces, and of the sums that become the gradient."""

    model: EProp
    step_loss: StepLoss
    num_steps: int

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> _Traces:
        layers = self.model.network.layers
        (weight, _), (readout, _) = _matrix(layers[0]), _matrix(layers[2])
        neurons, inputs = weight.shape
        sources = inputs + 1 + (neurons if isinstance(layers[1], Recurrent) else 0)
        state = self.model.network.init_state(shape)
        zero = jnp.zeros((*shape, neurons, sources))
        return _Traces(
            state,
            [zero] * len(_variables(state[1])),
            zero,
            jnp.zeros((*shape, neurons + 1)),
            (jnp.zeros((neurons, sources)), jnp.zeros((readout.shape[0], neurons + 1))),
        )

    def __call__(self, x: tuple[Array, Any], state: _Traces, *, key: PRNGKeyArray | None = None) -> tuple:
        inputs, target = x
        layers: Any = self.model.network.layers
        neurons, readout = layers[1], layers[2]
        cell: Any = neurons.cell if isinstance(neurons, Recurrent) else neurons
        sources, current = self._sources(inputs, state.network[1])
        cell_state = state.network[1].cell if isinstance(neurons, Recurrent) else state.network[1]
        spikes, new, eligibility, slope = _eligibility(cell, current, cell_state, sources, state.eligibility)
        # The readout, and the error that it sends back.
        keep, gain = _filter(layers[3], state.network[3]) if len(layers) == 4 else (0.0, 1.0)
        filtered = keep * state.filtered + slope
        sent = jnp.concatenate([spikes, jnp.ones_like(spikes[..., :1])], axis=-1)
        filtered_spikes = keep * state.filtered_spikes + sent
        drive = _apply(readout, spikes)
        y, last = layers[3](drive, state.network[3]) if len(layers) == 4 else (drive, state.network[-1])
        loss, error = jax.value_and_grad(self.step_loss)(y, target)
        error = gain * error / self.num_steps
        signal = error @ self.model.feedback.matrix_for(_matrix(readout)[0])
        gradients = (
            state.gradients[0] + jnp.einsum("bj,bji->ji", _flat(signal, 1), _flat(filtered, 2)),
            state.gradients[1] + jnp.einsum("bk,bj->kj", _flat(error, 1), _flat(filtered_spikes, 1)),
        )
        if isinstance(neurons, Recurrent):
            new = eqx.tree_at(lambda s: (s.cell, s.spikes), state.network[1], (new, spikes))
        network = (None, new, None, last)[: len(layers)]
        return loss, _Traces(network, eligibility, filtered, filtered_spikes, gradients)

    def _sources(self, inputs: Array, state: Any) -> tuple[Array, Array]:
        """What stands before every synapse (inputs, neurons, the constant of a bias), and the current it makes."""
        neurons = self.model.network.layers[1]
        inputs = inputs if jnp.issubdtype(inputs.dtype, jnp.floating) else inputs.astype(float)
        parts, current = [inputs], _apply(self.model.network.layers[0], inputs)
        if isinstance(neurons, Recurrent):
            fed_back = neurons.fed_back(state)
            parts, current = [inputs, fed_back], current + _apply(neurons.weight, fed_back)
        return jnp.concatenate([*parts, jnp.ones_like(inputs[..., :1])], axis=-1), current


def _eligibility(
    cell: AbstractNeuron, current: Array, state: Any, sources: Array, before: list[Array]
) -> tuple[Array, Any, list[Array], Array]:
    """One step of the neurons with its derivatives: spikes, state, the new traces, and those of the spikes."""
    treedef = jtu.tree_structure(state)

    def step(current: Array, variables: list[Array]) -> tuple[Array, list[Array]]:
        spikes, new = cell(current, jtu.tree_unflatten(treedef, variables))
        return spikes, jtu.tree_leaves(new)

    variables = _variables(state)
    (spikes, new), derivative = jax.linearize(step, current, variables)
    silent = [jnp.zeros_like(v) for v in variables]
    # Neurons do not see each other here, so that a tangent of ones reads off every neuron's own derivative.
    directions = [(jnp.ones_like(current), silent)]
    for i, variable in enumerate(variables):
        alone = [*silent[:i], jnp.ones_like(variable), *silent[i + 1 :]]
        directions.append((jnp.zeros_like(current), alone))
    slope = jnp.zeros(())
    after: list[Any] = [0.0] * len(variables)
    for direction, trace in zip(directions, [sources[..., None, :], *before], strict=True):
        d_spikes, d_new = derivative(*direction)
        slope = slope + d_spikes[..., None] * trace
        after = [a + d[..., None] * trace for a, d in zip(after, d_new, strict=True)]
    return spikes, jtu.tree_unflatten(treedef, new), after, slope


def _variables(state: Any) -> list[Array]:
    """The variables of a neuron, one number each."""
    cell_state = state.cell if isinstance(state, RecurrentState) else state
    variables = jtu.tree_leaves(cell_state)
    if any(v.shape != cell_state.membrane.shape for v in variables):
        raise ValueError(
            f"`network` has neurons with a state that is not one number each: {type(cell_state).__name__}."
        )
    return variables


def _filter(readout: LICell, state: Any) -> tuple[Array | float, Array | float]:
    """How much of its membrane the readout keeps in a step, and how much of its drive it takes."""
    tau = resolve(readout.tau_mem, state.membrane)
    if jnp.size(tau) > 1:
        raise ValueError(f"`network` must read out with one `tau_mem` for all outputs; got shape {jnp.shape(tau)}.")
    tau = jnp.reshape(jnp.asarray(tau, state.membrane.dtype), ())
    keep = readout.decay.factor(readout.dt, tau)
    gain = readout.input_gain.factor(readout.dt, tau, keep, state.membrane)
    return keep, gain


def _matrix(layer: Any) -> tuple[Array, Array | None]:
    """The weight `(out, in)` and the bias of an affine layer."""
    return value_of(layer.weight), layer.bias


def _apply(layer: Any, x: Array) -> Array:
    weight, bias = _matrix(layer)
    y = x @ weight.T
    return y if bias is None else y + jnp.reshape(bias, (1,) * (y.ndim - 1) + bias.shape)


def _pulled_back(layer: Any, weight: Array, bias: Array) -> Any:
    """The gradient of an affine layer's parameters, given those of its weight and bias; zero for all the rest."""
    params, static = eqx.partition(layer, eqx.is_inexact_array)
    matrix, vjp = jax.vjp(lambda p: _matrix(eqx.combine(p, static)), params)
    (grads,) = vjp((weight, None if matrix[1] is None else bias))
    return eqx.combine(grads, jtu.tree_map(no_gradient, static))


def _flat(x: Array, num_trailing: int) -> Array:
    return jnp.reshape(x, (-1, *x.shape[x.ndim - num_trailing :]))
