"""Weights for a fresh network that fires, calibrated on data."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._apply import PerSample
from .._scan import scan
from .._sequential import Sequential
from ._connections import Dale, Masked, value_of
from ._initialize import driver
from ._neuron import AbstractSpikingCell
from ._parameter import Frozen, ParameterLike, require
from ._recurrent import Recurrent


def calibrate(
    network: Sequential,
    xs: Array,
    target_rate: float = 0.05,
    *,
    num_halvings: int = 14,
    key: PRNGKeyArray | None = None,
) -> Sequential:
    """A network whose every spiking layer fires at the target rate on these data.

    Layer after layer, the weights and biases of what drives it (and of its feedback) are multiplied by one factor,
    found by bisection between 1/1000 and 1000; the layers above then see its new spikes. The input network is not
    changed. Works under `jit`.

    **Arguments:**

    - `network`: layers in a row; spiking cells and `Recurrent` ones are calibrated, others only passed through.
    - `xs`: inputs `(time, batch, ...)`; a few hundred samples are plenty.
    - `target_rate`: probability of a spike of a neuron in a step, averaged over the layer.
    - `num_halvings`: of the search; 14 leave a factor within 0.1 %.
    - `key`: for layers that draw.

    **Returns:** a new network.

    **Raises:** `ValueError` for a rate out of range, or a spiking layer without weights before it; an error at run time
    if no factor makes a layer fire at half its target or more, as when its input is silent.

    ??? cite "Reference"
        Data-dependent initialisation layer by layer, as of Mishkin & Matas, All you need is a good init, ICLR 2016
        (there for the variance of activations).
    """
    require(target_rate, "target_rate", above=0.0, below=1.0, unit="")
    layers, start = list(network.layers), 0
    for i, layer in enumerate(network.layers):
        if not isinstance(layer.cell if isinstance(layer, Recurrent) else layer, AbstractSpikingCell):
            continue
        before = driver(layers[:i], start)
        if before is None:
            raise ValueError(f"`network` has no weights between `layers[{i}]` and the spiking layer before it.")
        part, at = layers[start : i + 1], before - start

        def multiplied(factor: Array, part: list = part, at: int = at) -> list[Any]:
            new = [*part[:at], scaled(part[at], factor), *part[at + 1 :]]
            if isinstance(new[-1], Recurrent):
                new[-1] = eqx.tree_at(lambda r: r.weight, new[-1], scaled(new[-1].weight, factor))
            return new

        def run(factor: Array, xs: Array = xs, multiplied: Callable = multiplied) -> Array:
            piece = Sequential(multiplied(factor))
            return scan(piece, xs, piece.init_state(xs.shape[1:2]), key=key)[0]

        factor = _bisect(lambda c, run=run: jnp.mean(run(c).astype(float)), target_rate, num_halvings)
        xs = run(factor)
        factor = eqx.error_if(
            factor,
            jnp.mean(xs.astype(float)) < target_rate / 2,
            f"`network` cannot be calibrated: no weights make `layers[{i}]` fire at the target. Its input may be "
            "silent, or nothing but inhibitory, or normalised away.",
        )
        layers[start : i + 1] = multiplied(factor)
        start = i + 1
    return eqx.tree_at(lambda n: n.layers, network, tuple(layers))


def scaled(layer: Any, factor: Float[Array, ""]) -> Any:
    """The layer whose output is `factor` times as large."""
    if isinstance(layer, PerSample):
        return eqx.tree_at(lambda m: m.layer, layer, scaled(layer.layer, factor))
    bias = getattr(layer, "bias", None)
    weight = _scaled_weight(layer.weight, factor)
    layer = eqx.tree_at(lambda m: m.weight, layer, weight, is_leaf=lambda leaf: leaf is layer.weight)
    return layer if bias is None else eqx.tree_at(lambda m: m.bias, layer, bias * factor.astype(bias.dtype))


def _scaled_weight(weight: ParameterLike, factor: Float[Array, ""]) -> ParameterLike:
    if isinstance(weight, Masked):
        return Masked(_scaled_weight(weight.weight, factor), weight.mask)
    if isinstance(weight, Dale):
        return Dale(value_of(weight) * factor, weight.sign)
    if isinstance(weight, jax.Array):
        return weight * factor.astype(weight.dtype)
    return Frozen(value_of(weight) * factor)


def _bisect(rate: Callable[[Array], Array], target: float, num_halvings: int) -> Array:
    """The factor at which a rate that rises with it reaches the target."""

    def halve(bounds: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        middle = (bounds[0] + bounds[1]) / 2
        low = rate(jnp.exp(middle)) < target
        return (jnp.where(low, middle, bounds[0]), jnp.where(low, bounds[1], middle)), None

    limit = jnp.asarray(math.log(1000.0), dtype=float)
    (low, high), _ = jax.lax.scan(halve, (-limit, limit), None, length=num_halvings)
    return jnp.exp((low + high) / 2)
