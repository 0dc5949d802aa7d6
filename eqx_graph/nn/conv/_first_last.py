"""Taking a network's first or last linear map out of it, so that it can be applied to nodes in place of edges."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx


Network = Callable[..., Any]


def split_first(nn: Network) -> tuple[eqx.nn.Linear | None, Network]:
    """`(linear, rest)` with `nn(z) = rest(linear(z))`; `(None, nn)` if `nn` does not begin with a linear map."""
    if isinstance(nn, eqx.nn.Linear) and _is_vector_map(nn):
        return nn, eqx.nn.Identity()
    if isinstance(nn, eqx.nn.Sequential | eqx.nn.MLP) and nn.layers:
        first = nn.layers[0]
        if isinstance(first, eqx.nn.Linear) and _is_vector_map(first):
            return first, eqx.tree_at(lambda n: n.layers[0], nn, eqx.nn.Identity())
    return None, nn


def split_last(nn: Network) -> tuple[Network, eqx.nn.Linear | None]:
    """`(rest, linear)` with `nn(z) = linear(rest(z))`; `(nn, None)` if `nn` does not end with a linear map."""
    if isinstance(nn, eqx.nn.Linear) and _is_vector_map(nn):
        return eqx.nn.Identity(), nn
    if isinstance(nn, eqx.nn.MLP) and nn.final_activation is not _NO_ACTIVATION:
        return nn, None
    if isinstance(nn, eqx.nn.Sequential | eqx.nn.MLP) and nn.layers:
        last = nn.layers[-1]
        if isinstance(last, eqx.nn.Linear) and _is_vector_map(last):
            return eqx.tree_at(lambda n: n.layers[-1], nn, eqx.nn.Identity()), last
    return nn, None


_NO_ACTIVATION = inspect.signature(eqx.nn.MLP.__init__).parameters["final_activation"].default


def _is_vector_map(linear: eqx.nn.Linear) -> bool:
    return isinstance(linear.in_features, int) and isinstance(linear.out_features, int)
