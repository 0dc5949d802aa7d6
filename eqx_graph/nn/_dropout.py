"""Dropout with errors that say what to do: a rate that is no probability, a key that is missing."""

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray


def make_dropout(rate: float) -> eqx.nn.Dropout:
    """`eqx.nn.Dropout(rate)`; a rate outside $[0, 1]$ is a `ValueError`."""
    if not 0 <= rate <= 1:
        raise ValueError(f"`dropout` must be a probability in [0, 1]; got {rate}.")
    return eqx.nn.Dropout(rate)


def is_active(dropout: eqx.nn.Dropout) -> bool:
    """Whether `dropout` changes its input."""
    return not (dropout.inference or (isinstance(dropout.p, int | float) and dropout.p == 0))


def drop(dropout: eqx.nn.Dropout, x: Float[Array, "..."], key: PRNGKeyArray | None) -> Float[Array, "..."]:
    """`dropout(x, key=key)`; an active dropout without a key is a `ValueError` naming the remedy."""
    if not is_active(dropout):
        return x
    if key is None:
        raise ValueError(
            f"`key` must be given while dropout is active; got key=None with dropout={dropout.p}. Pass `key=...`, or "
            "switch dropout off with `eqx.nn.inference_mode(layer)`."
        )
    return dropout(x, key=key)
