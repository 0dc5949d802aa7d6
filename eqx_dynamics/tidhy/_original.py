"""Weights of the original implementations, read into this model."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
from jaxtyping import Array, PyTree

from ._decoders import LinearDecoder, MLPDecoder
from ._mlp import NormedMLP
from ._model import TiDHy
from ._priors import LearnedPrior
from ._transitions import FullRankTransition, LowRankTransition


def load_original(model: TiDHy, weights: Mapping[str, np.ndarray]) -> TiDHy:
    """A model with the weights of the PyTorch code (`state_dict` names) or of the later Flax code (path names).

    **Arguments:**

    - `model`: of the same architecture, from `TiDHy.original(...)`.
    - `weights`: `temporal`, `spatial_decoder.0.weight`, `hypernet.4.bias`, ... in PyTorch's layout, or `temporal`,
      `spatial_decoder/dense/kernel`, `hypernet/norm1/scale`, ... in Flax's.

    **Raises:** `ValueError` naming what is missing, unexpected, or of another shape.
    """
    weights = dict(weights)
    if any("/" in name for name in weights):
        weights = _from_flax(weights)
    left = set(weights)

    def take(name: str, old: Array | None) -> Array:
        assert old is not None
        if name not in weights:
            raise ValueError(f"`weights` has no {name!r}; got {sorted(weights)}.")
        left.discard(name)
        value = np.asarray(weights[name])
        if value.size != old.size:
            raise ValueError(f"`weights[{name!r}]` must hold {old.shape}; got {value.shape}.")
        return jnp.asarray(value.reshape(old.shape), old.dtype)

    def take_linear(prefix: str, linear: eqx.nn.Linear) -> eqx.nn.Linear:
        linear = eqx.tree_at(lambda m: m.weight, linear, take(f"{prefix}.weight", linear.weight))
        if linear.bias is None:
            return linear
        return eqx.tree_at(lambda m: m.bias, linear, take(f"{prefix}.bias", linear.bias))

    def take_mlp(prefix: str, mlp: NormedMLP) -> NormedMLP:
        assert mlp.second is not None
        norm = eqx.tree_at(
            lambda m: (m.weight, m.bias),
            mlp.norm,
            (take(f"{prefix}.1.weight", mlp.norm.weight), take(f"{prefix}.1.bias", mlp.norm.bias)),
        )
        parts = (
            take_linear(f"{prefix}.0", mlp.first),
            norm,
            take_linear(f"{prefix}.3", mlp.second),
            take_linear(f"{prefix}.4", mlp.third),
        )
        return eqx.tree_at(lambda m: (m.first, m.norm, m.second, m.third), mlp, parts)

    if isinstance(model.decoder, LinearDecoder):
        linear = take_linear("spatial_decoder.0", model.decoder.linear)
        model = eqx.tree_at(lambda m: m.decoder.linear, model, linear)
    elif isinstance(model.decoder, MLPDecoder):
        model = eqx.tree_at(lambda m: m.decoder.mlp, model, take_mlp("spatial_decoder", model.decoder.mlp))
    model = eqx.tree_at(lambda m: m.hypernetwork.mlp, model, take_mlp("hypernet", model.hypernetwork.mlp))
    if isinstance(model.transition, FullRankTransition):
        model = eqx.tree_at(lambda m: m.transition.basis, model, take("temporal", model.transition.basis))
    elif isinstance(model.transition, LowRankTransition):
        model = eqx.tree_at(lambda m: m.transition.left, model, take("temporal", model.transition.left))
    if model.transition.bias is not None:
        model = eqx.tree_at(lambda m: m.transition.bias, model, take("temporal_bias", model.transition.bias))
    if isinstance(model.prior, LearnedPrior):
        model = eqx.tree_at(lambda m: m.prior.mlp, model, take_mlp("R2_Decoder", model.prior.mlp))
    if left:
        raise ValueError(f"`weights` has entries that `model` does not: {sorted(left)}.")
    return model


_FLAX_NAMES = {"dense": "0", "dense1": "0", "norm1": "1", "dense2": "3", "dense3": "4"}


def _from_flax(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    renamed = {}
    for name, value in weights.items():
        if "/" not in name:
            renamed[name] = value
            continue
        module, layer, kind = name.split("/")
        kind = {"kernel": "weight", "scale": "weight"}.get(kind, kind)
        renamed[f"{module}.{_FLAX_NAMES[layer]}.{kind}"] = value.T if value.ndim == 2 else value
    return renamed


def normalize(model: TiDHy) -> TiDHy:
    """Unit-length decoder columns (one per latent) and components of unit Frobenius norm, as the PyTorch code can do.

    What is zero stays zero. Only what is linear is touched: the columns of a `LinearDecoder`, the matrices of a
    `FullRankTransition`.
    """
    if isinstance(model.decoder, LinearDecoder):
        weight = model.decoder.linear.weight
        unit = _unit(weight, axis=0)
        model = eqx.tree_at(lambda m: m.decoder.linear.weight, model, unit)
    if isinstance(model.transition, FullRankTransition):
        basis = model.transition.basis
        unit = _unit(basis, axis=(1, 2))
        model = eqx.tree_at(lambda m: m.transition.basis, model, unit)
    return model


def _unit(x: Array, axis: int | tuple[int, int]) -> Array:
    norm = jnp.linalg.norm(x, axis=axis, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1.0)


def clip_like_torch(max_norm: float) -> optax.GradientTransformation:
    r"""Global-norm clipping with PyTorch's guard: gradients times $\min(1, c / (\lVert g \rVert + 10^{-6}))$."""

    def update(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jtu.tree_leaves(updates)))
        factor = jnp.minimum(1.0, max_norm / (norm + 1e-6))
        return jtu.tree_map(lambda leaf: leaf * factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
