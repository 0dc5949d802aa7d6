"""From PyG's words to objects: activations and norms by name."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._activation import leaky_relu, relu
from ..aggr._multi import plain_name
from ..norm import BatchNorm, GraphNorm, InstanceNorm, LayerNorm, PairNorm
from ..norm._kinds import NormByGraph, NormOverRows


Activation = Callable[..., Any]
Norm = NormOverRows | eqx.nn.Identity

_ACTIVATIONS: dict[str, Activation] = {
    "relu": relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "leakyrelu": leaky_relu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "celu": jax.nn.celu,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "hardswish": jax.nn.hard_silu,
    "hardshrink": lambda x: jnp.where(jnp.abs(x) > 0.5, x, 0.0),
    "hardtanh": jax.nn.hard_tanh,
    "logsigmoid": jax.nn.log_sigmoid,
    "mish": jax.nn.mish,
    "relu6": jax.nn.relu6,
    "softshrink": lambda x: jnp.where(jnp.abs(x) > 0.5, x - 0.5 * jnp.sign(x), 0.0),
    "softsign": jax.nn.soft_sign,
    "tanhshrink": lambda x: x - jnp.tanh(x),
}
_NORMS: dict[str, Callable[[int], Norm]] = {
    "batch": BatchNorm,
    "graph": GraphNorm,
    "instance": InstanceNorm,
    "layer": LayerNorm,
    "pair": lambda features: PairNorm(scale=float(features)),
}


def as_activation(act: str | Activation | None) -> Activation | None:
    """The activation that `act` means: a function (returned as it is), None, or a name in any case.

    `"prelu"` is a new `eqx.nn.PReLU`, whose slope is learned.

    **Raises:** `ValueError` for an unknown name.
    """
    if not isinstance(act, str):
        return act
    name = plain_name(act)
    if name == "prelu":
        return eqx.nn.PReLU()
    if name not in _ACTIVATIONS:
        raise ValueError(f"`act` must be a function, None or one of {sorted([*_ACTIVATIONS, 'prelu'])}; got {act!r}.")
    return _ACTIVATIONS[name]


def as_norm(norm: str | Callable[[int], Norm] | None, features: int) -> Norm:
    """A norm of `features` features from its name, a function that makes it, or None (no norm).

    As in PyTorch Geometric 2.8, the name `"pair_norm"` means a `PairNorm` whose `scale` is `features`.

    **Raises:** `ValueError` for an unknown name.
    """
    if norm is None:
        return eqx.nn.Identity()
    if not isinstance(norm, str):
        return norm(features)
    name = plain_name(norm).removesuffix("norm")
    if name not in _NORMS:
        names = [f"{name}_norm" for name in sorted(_NORMS)]
        raise ValueError(f"`norm` must be a function of the features, None or one of {names}; got {norm!r}.")
    return _NORMS[name](features)


def apply_norm(
    norm: Norm, x: Any, batch: Any, batch_size: int | None, mask: Any, state: eqx.nn.State | None
) -> tuple[Any, eqx.nn.State | None]:
    """A norm with whatever it takes of the batch, the mask and the state."""
    if isinstance(norm, BatchNorm):
        return norm(x, state, mask=mask)
    if mask is not None and batch is None:  # rows that do not count are a graph of their own
        batch, batch_size = jnp.where(jnp.asarray(mask), 0, 1), 2
    if isinstance(norm, InstanceNorm) and state is not None:
        return norm(x, batch, batch_size, mask=mask, state=state)
    if isinstance(norm, NormByGraph):
        return norm(x, batch, batch_size), state
    return x, state
