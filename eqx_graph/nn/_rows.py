"""How layers call the networks that users hand to them."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float


class AbstractRowModule(eqx.Module):
    """A network that takes all rows at once, because it mixes them (a norm over nodes) or is faster so.

    Layers call any other network on one row and vectorise it themselves.
    """

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "rows in"]) -> Float[Array, "rows out"]:
        """Every row's result."""


def apply_rows(nn: Callable[..., Any], x: Float[Array, "rows in"]) -> Float[Array, "rows out"]:
    """`nn` on every row of `x`."""
    return nn(x) if isinstance(nn, AbstractRowModule) else jax.vmap(nn)(x)


def apply_row(nn: Callable[..., Any], x: Float[Array, " in"]) -> Float[Array, " out"]:
    """`nn` on one row."""
    return nn(x[None])[0] if isinstance(nn, AbstractRowModule) else nn(x)
