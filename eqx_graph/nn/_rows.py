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
    def __call__(self, x: Float[Array, "rows in"], *, state: eqx.nn.State | None = None) -> Any:
        """Every row's result; `(result, state)` if `state` is given."""


def apply_rows(
    nn: Callable[..., Any], x: Float[Array, "rows in"], state: eqx.nn.State | None = None
) -> tuple[Float[Array, "rows out"], eqx.nn.State | None]:
    """`nn` on every row of `x`, and the state after it."""
    if not isinstance(nn, AbstractRowModule):
        return jax.vmap(nn)(x), state
    return (nn(x), None) if state is None else nn(x, state=state)


def apply_row(nn: Callable[..., Any], x: Float[Array, " in"]) -> Float[Array, " out"]:
    """`nn` on one row."""
    return nn(x[None])[0] if isinstance(nn, AbstractRowModule) else nn(x)
