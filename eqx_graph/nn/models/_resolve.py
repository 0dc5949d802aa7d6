"""From PyG's words to objects: activations and norms by name."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..norm import BatchNorm, GraphNorm, InstanceNorm, LayerNorm


Activation = Callable[..., Any]
Norm = BatchNorm | GraphNorm | InstanceNorm | LayerNorm | eqx.nn.Identity

_ACTIVATIONS: dict[str, Activation] = {
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "leakyrelu": jax.nn.leaky_relu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}
_NORMS: dict[str, Callable[[int], Norm]] = {
    "batchnorm": BatchNorm,
    "graphnorm": GraphNorm,
    "instancenorm": InstanceNorm,
    "layernorm": LayerNorm,
}


def as_activation(act: str | Activation | None) -> Activation | None:
    """The activation that `act` means: a function (returned as it is), None, or a name in any case.

    **Raises:** `ValueError` for an unknown name.
    """
    if not isinstance(act, str):
        return act
    name = act.lower().replace("_", "")
    if name not in _ACTIVATIONS:
        raise ValueError(f"`act` must be a function, None or one of {sorted(_ACTIVATIONS)}; got {act!r}.")
    return _ACTIVATIONS[name]


def as_norm(norm: str | Callable[[int], Norm] | None, features: int) -> Norm:
    """A norm of `features` features from its name, a function that makes it, or None (no norm).

    **Raises:** `ValueError` for an unknown name.
    """
    if norm is None:
        return eqx.nn.Identity()
    if not isinstance(norm, str):
        return norm(features)
    name = norm.lower().replace("_", "")
    if name not in _NORMS:
        raise ValueError(f"`norm` must be a function of the features, None or one of {sorted(_NORMS)}; got {norm!r}.")
    return _NORMS[name](features)


def apply_norm(
    norm: Norm, x: Any, batch: Any, batch_size: int | None, mask: Any, state: eqx.nn.State | None
) -> tuple[Any, eqx.nn.State | None]:
    """A norm with whatever it takes of the batch, the mask and the state."""
    if isinstance(norm, BatchNorm):
        return norm(x, state, mask=mask)
    if isinstance(norm, InstanceNorm) and state is not None:
        return norm(x, batch, batch_size, state=state)
    if isinstance(norm, GraphNorm | InstanceNorm | LayerNorm):
        return norm(x, batch, batch_size), state
    return x, state
