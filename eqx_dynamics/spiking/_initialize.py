"""Weights for a fresh network that fires, from constants alone."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._apply import PerSample
from .._sequential import Sequential
from ._connections import DenseConnection
from ._lif import LIFCell
from ._neuron import AbstractSpikingCell
from ._parameter import require, resolve
from ._recurrent import Recurrent
from ._sparse import SparseConnection


def fluctuation_std(
    cell: LIFCell, fan_in: float | int, input_rate: float, *, distance: float = 1.0
) -> Float[Array, "..."]:
    r"""The standard deviation of weights that makes inputs drive a membrane about its threshold.

    $\sigma_w = \frac{\theta - v_{rest}}{\xi}\, (n\, p\, \hat\epsilon)^{-1/2}$, where $n p$ is the number of input
    spikes in a step, and $\hat\epsilon = \sum_k \epsilon_k^2$ is the energy of the membrane's response to one:
    $\hat\epsilon = \frac{g^2}{1 - \beta^2}$, with a synaptic current of decay $\alpha$ times
    $\frac{1 + \alpha\beta}{(1 - \alpha^2)(1 - \alpha\beta)}$. Zero-mean weights then leave the membrane, were it not
    reset, at $v_{rest}$ on average, $\xi$ standard deviations below threshold.

    **Arguments:**

    - `cell`: the neurons; $\beta$, the gain $g$ and $\theta$ are theirs.
    - `fan_in`: $n$, synapses of a neuron.
    - `input_rate`: $p$, probability of a spike of an input in a step.
    - `distance`: $\xi$; 1 to 3 in the paper. The smaller, the more they fire.

    **Returns:** the standard deviation, a scalar, or one per neuron if the cell's constants are.

    **Raises:** `ValueError` for a fan-in, rate or distance that is not positive, or a rate above 1.

    ??? cite "Reference"
        Rossbroich, Gygax and Zenke, Fluctuation-driven initialization for spiking neural network training,
        Neuromorphic Computing and Engineering 2, 2022, section 2, in discrete time and with zero-mean weights.
    """
    require(fan_in, "fan_in", above=0.0, unit="")
    require(input_rate, "input_rate", above=0.0, up_to=1.0, unit="")
    require(distance, "distance", above=0.0, unit="")
    like = jnp.zeros(cell.size)
    beta, alpha = _factors(cell)
    decay = cell.decay.factor(cell.dt, resolve(cell.tau_mem, like))
    gain = jnp.asarray(cell.input_gain.factor(cell.dt, resolve(cell.tau_mem, like), decay, like))
    energy = gain**2 / (1 - beta**2)
    if cell.synapse is not None:
        energy = energy * (1 + alpha * beta) / ((1 - alpha**2) * (1 - alpha * beta))
    height = jnp.asarray(resolve(cell.threshold, like)) - jnp.asarray(resolve(cell.rest, like))
    return height / distance / jnp.sqrt(fan_in * input_rate * energy)


def fluctuation_rate(cell: LIFCell, distance: float = 1.0) -> Float[Array, "..."]:
    r"""The probability of a spike in a step, with such weights: $r = \frac{\arccos \rho}{2 \pi} e^{-\xi^2/2}$.

    How often a Gaussian process with the correlation $\rho = \frac{\alpha + \beta}{1 + \alpha\beta}$ between one step
    and the next rises through a level $\xi$ standard deviations above its mean.

    **Arguments:** as for `fluctuation_std`.

    **Returns:** the probability, a scalar, or one per neuron if the cell's constants are.

    ??? cite "Reference"
        Rice, Mathematical analysis of random noise, Bell System Technical Journal 24, 1945, section 3.3; in discrete
        time, where it is exact for $\xi = 0$.
    """
    require(distance, "distance", above=0.0, unit="")
    beta, alpha = _factors(cell)
    return jnp.arccos((alpha + beta) / (1 + alpha * beta)) / (2 * jnp.pi) * math.exp(-(distance**2) / 2)


def _factors(cell: LIFCell) -> tuple[Array, Array]:
    """How much of membrane and current is left after a step; neurons that do not leak remember 100 steps."""
    like = jnp.zeros(cell.size)
    beta = jnp.minimum(jnp.asarray(cell.decay.factor(cell.dt, resolve(cell.tau_mem, like))), 0.99)
    if cell.synapse is None:
        return beta, jnp.zeros_like(beta)
    return beta, jnp.asarray(cell.decay.factor(cell.dt, resolve(cell.synapse.tau_syn, like)))


def initialize(
    network: Sequential,
    *,
    input_rate: float = 0.05,
    distance: float = 1.0,
    feedback_share: float = 0.1,
    key: PRNGKeyArray,
) -> Sequential:
    """A network whose spiking layers are driven by fluctuations, from their constants alone.

    Every `eqx.nn.Linear` and `eqx.nn.Conv` that drives a `LIFCell`, and the feedback of a `Recurrent` one, is drawn
    anew, normal with zero mean and `fluctuation_std`; its bias is zero. A layer is expected to fire at its
    `fluctuation_rate`. Other layers stay. `calibrate` does better, given data.

    **Arguments:**

    - `network`: layers in a row.
    - `input_rate`: probability of a spike in a step at each input.
    - `distance`: standard deviations from rest to threshold.
    - `feedback_share`: of the variance of a membrane, what a `Recurrent` layer's own spikes contribute. (With much of
      it a layer excites itself.)
    - `key`: draws the weights.

    **Returns:** a new network.

    **Raises:** `ValueError` as `fluctuation_std`, for a share that is not between 0 and 1, or if nothing in the
    network drives a LIF neuron.
    """
    layers: list[Any] = list(network.layers)
    rate: Any = jnp.asarray(input_rate, dtype=float)
    require(input_rate, "input_rate", above=0.0, up_to=1.0, unit="")
    require(feedback_share, "feedback_share", above=0.0, below=1.0, unit="")
    drawn = False
    for i, k in enumerate(jr.split(key, len(layers))):
        layer, before = layers[i], driver(layers[:i])
        neurons = layer.cell if isinstance(layer, Recurrent) else layer
        if not isinstance(neurons, LIFCell) or before is None or not isinstance(layers[before], _DRAWN):
            continue
        own = jnp.mean(fluctuation_rate(neurons, distance))
        feedback = layer.weight if isinstance(layer, Recurrent) else None
        share = feedback_share if isinstance(feedback, _DRAWN) else 0.0
        # For one spike a step, to be divided among as many as there are.
        std = jnp.mean(fluctuation_std(neurons, 1, 1.0, distance=distance))
        keys = jr.split(k)
        layers[before] = _normal(
            layers[before], std * jnp.sqrt((1 - share) / (_fan_in(layers[before]) * rate)), keys[0]
        )
        if isinstance(feedback, _DRAWN):
            weight = _normal(feedback, std * jnp.sqrt(share / (_fan_in(feedback) * own)), keys[1])
            layers[i] = eqx.tree_at(lambda r: r.weight, layer, weight)
        rate, drawn = own, True
    if not drawn:
        raise ValueError(
            "`network` must hold an eqx.nn.Linear or Conv layer that drives a LIFCell; got "
            f"{[type(layer).__name__ for layer in layers]}."
        )
    return eqx.tree_at(lambda n: n.layers, network, tuple(layers))


_DRAWN = (eqx.nn.Linear, eqx.nn.Conv)
_NORMS = (eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm)
_SCALABLE = (eqx.nn.Linear, eqx.nn.Conv, DenseConnection, SparseConnection, *_NORMS)


def driver(layers: list[Any], start: int = 0) -> int | None:
    """The last layer with weights, if no spiking layer stands behind it."""
    for i in range(len(layers) - 1, start - 1, -1):
        if isinstance(layers[i], AbstractSpikingCell | Recurrent):
            return None
        inner = layers[i].layer if isinstance(layers[i], PerSample) else layers[i]
        if isinstance(inner, _SCALABLE) and inner.weight is not None:
            return i
    return None


def _fan_in(layer: Any) -> int:
    return math.prod(layer.weight.shape[1:])


def _normal(layer: Any, std: Array, key: PRNGKeyArray) -> Any:
    weight = std.astype(layer.weight.dtype) * jr.normal(key, layer.weight.shape, layer.weight.dtype)
    layer = eqx.tree_at(lambda m: m.weight, layer, weight)
    return layer if layer.bias is None else eqx.tree_at(lambda m: m.bias, layer, jnp.zeros_like(layer.bias))
