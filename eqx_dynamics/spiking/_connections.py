"""Weights under constraints: masked, and of one sign per sender (Dale's law)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._apply import rows_by
from .._scan import merge_time
from ._neuron import Input
from ._parameter import AbstractParameter, ParameterLike, concrete


class Masked(AbstractParameter):
    """A weight that is zero, and stays zero in training, where its mask is False.

    **Arguments:**

    - `weight`: an array or another parameter, such as a `Dale`.
    - `mask`: True where there is a synapse, the shape of the weight.
    """

    weight: ParameterLike
    mask: Bool[Array, "..."]

    def __check_init__(self):
        shape = jnp.shape(value_of(self.weight))
        if shape != self.mask.shape:
            raise ValueError(f"`mask` must have the shape {shape} of the weight; got {self.mask.shape}.")

    def value(self) -> Float[Array, "..."]:
        return jnp.where(self.mask, value_of(self.weight), 0)


class Dale(AbstractParameter):
    r"""Weights whose signs are their senders': $w_{ij} = \sigma_j\, \mathrm{softplus}(r_{ij})$, $r$ learned.

    ??? cite "Reference"
        Song, Yang and Wang, Training excitatory-inhibitory recurrent neural networks for cognitive tasks, PLoS
        Computational Biology 12, 2016, with softplus where they rectify: no weight dies at zero.
    """

    raw: Float[Array, "..."]
    sign: Int[Array, "..."]

    def __init__(self, initial: Float[Array, "..."], sign: Int[Array, "..."] | Int[np.ndarray, "..."]):
        """**Arguments:**

        - `initial`: weights to start from; their size counts, their sign is replaced. Exact zeros start tiny.
        - `sign`: 1 for excitatory senders, -1 for inhibitory ones. For a matrix `(receivers, senders)` one per sender,
          `(senders,)`; for the rows of a `SparseConnection`, `(senders, 1)`.

        **Raises:** `ValueError` for signs other than 1 and -1, or of a shape that does not fit.
        """
        known = concrete(jnp.asarray(sign))
        if known is not None and not np.isin(known, (-1, 1)).all():
            raise ValueError(f"`sign` must be 1 or -1 for each sender; got {np.unique(known).tolist()}.")
        shape = (1,) * (initial.ndim - jnp.ndim(sign)) + jnp.shape(sign)
        if len(shape) != initial.ndim or any(n not in (1, m) for n, m in zip(shape, initial.shape, strict=True)):
            raise ValueError(
                f"`sign` must fit the weights {initial.shape}, with one entry per sender; got {jnp.shape(sign)}."
            )
        magnitude = jnp.maximum(jnp.abs(initial), 1e-6)
        self.raw = magnitude + jnp.log(-jnp.expm1(-magnitude))  # The inverse of softplus.
        self.sign = jnp.asarray(sign, jnp.int32)

    def value(self) -> Float[Array, "..."]:
        magnitude = jax.nn.softplus(self.raw)
        sign = self.sign.astype(magnitude.dtype)
        return sign.reshape((1,) * (magnitude.ndim - sign.ndim) + sign.shape) * magnitude


class DenseConnection(eqx.Module):
    """Every sender to every receiver, `y = W x`, with a weight under a constraint (or a plain one).

    Where the weight is free `eqx.nn.Linear` does the same. A stateless layer for `Sequential` and a weight for
    `Recurrent`, such as `DenseConnection(Masked(Dale(weight, sign), mask))`.

    **Arguments:**

    - `weight`: `(receivers, senders)`, an array or a parameter.
    - `bias`: None or one number per receiver.
    """

    weight: ParameterLike
    bias: Float[Array, " receivers"] | None = None

    def __check_init__(self):
        shape = jnp.shape(value_of(self.weight))
        if len(shape) != 2 or (self.bias is not None and self.bias.shape != shape[:1]):
            raise ValueError(
                "`weight` must be a matrix (receivers, senders) and `bias` None or one number per receiver; got shapes "
                f"{shape} and {None if self.bias is None else self.bias.shape}."
            )

    @jax.named_scope("eqx_dynamics.DenseConnection")
    def __call__(self, x: Input) -> Float[Array, "..."]:
        """`(*any, senders)` to `(*any, receivers)`."""
        weight = value_of(self.weight)
        if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
            raise ValueError(f"`x` must end in the {weight.shape[1]} senders; got shape {x.shape}.")
        merged, leading = merge_time(x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(weight.dtype))
        y = rows_by(merged, weight.astype(merged.dtype))
        y = y if self.bias is None else y + self.bias[None].astype(y.dtype)
        return jnp.reshape(y, (*leading, y.shape[-1]))


def value_of(weight: ParameterLike) -> Array:
    """A weight as the equations see it."""
    return jnp.asarray(weight.value() if isinstance(weight, AbstractParameter) else weight)
