"""How layers call the networks that users hand to them."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .norm._kinds import NormOverRows


class AbstractRowModule(eqx.Module):
    """A network that takes all rows at once, because it mixes them (a norm over nodes) or is faster so.

    Layers call any other network on one row and vectorise it themselves.
    """

    @property
    @abc.abstractmethod
    def mixes_rows(self) -> bool:
        """Whether the result of a row depends on other rows, so that one alone would give another number."""

    @abc.abstractmethod
    def __call__(
        self,
        x: Float[Array, "rows in"],
        *,
        mask: Bool[Array | np.ndarray, " rows"] | None = None,
        state: eqx.nn.State | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Any:
        """Every row's result; `(result, state)` if `state` is given. Norms leave out rows where `mask` is False; `key`
        draws dropout masks.
        """


def mixes_rows(nn: Callable[..., Any]) -> bool:
    """Whether `nn` must see all rows at once."""
    _check(nn)
    return isinstance(nn, AbstractRowModule) and nn.mixes_rows


def _check(nn: Callable[..., Any]) -> None:
    """Raises `ValueError` for an `eqx.nn.Sequential` with a norm over rows in it, which it would run on one row."""
    norms = (
        [layer for layer in nn.layers if isinstance(layer, NormOverRows | eqx.nn.BatchNorm)]
        if isinstance(nn, eqx.nn.Sequential)
        else []
    )
    if norms:
        raise ValueError(
            f"`nn` is an eqx.nn.Sequential, which runs on one row, with a {type(norms[0]).__name__} in it, which takes "
            "all rows. Use `eqx_graph.nn.MLP([in, hidden, ..., out], norm=...)`: linear, norm, activation, ..., linear."
        )


def apply_rows(
    nn: Callable[..., Any],
    x: Float[Array, "rows in"],
    state: eqx.nn.State | None = None,
    mask: Bool[Array | np.ndarray, " rows"] | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "rows out"], eqx.nn.State | None]:
    """`nn` on every row of `x`, and the state after it; with `key` every row draws its own dropout mask."""
    if not isinstance(nn, AbstractRowModule):
        _check(nn)
        if key is None:
            return jax.vmap(nn)(x), state
        return jax.vmap(lambda row, key: nn(row, key=key))(x, jr.split(key, x.shape[0])), state
    return (nn(x, mask=mask, key=key), None) if state is None else nn(x, mask=mask, state=state, key=key)


def apply_row(nn: Callable[..., Any], x: Float[Array, " in"]) -> Float[Array, " out"]:
    """`nn`, which must not mix rows, on one row."""
    return nn(x[None])[0] if isinstance(nn, AbstractRowModule) else nn(x)
