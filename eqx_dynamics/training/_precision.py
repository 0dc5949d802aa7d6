"""In which precision the loss is computed, and the scale that keeps small gradients alive in float16."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..transform._select import Filter, select


class DynamicLossScale(eqx.Module):
    r"""The factor $s$ by which the loss is multiplied before, and the gradient divided after differentiation.

    A step whose gradient is not finite is left out and halves $s$; `growth_interval` good steps in a row double it.

    ??? cite "Reference"
        Micikevicius et al., Mixed precision training, ICLR 2018, section 3.2.
    """

    value: Float[Array, ""]
    good_steps: Int[Array, ""]
    growth_interval: int = eqx.field(static=True)
    factor: float | int = eqx.field(static=True)

    def __init__(self, initial: float | int = 2.0**15, *, growth_interval: int = 2000, factor: float | int = 2.0):
        """**Arguments:** `initial` scale; `growth_interval` good steps between growths; `factor` of growth and cut."""
        if initial < 1 or growth_interval < 1 or factor <= 1:
            raise ValueError(
                "`initial` and `growth_interval` must be at least 1 and `factor` above 1; got "
                f"{initial}, {growth_interval}, {factor}."
            )
        self.value, self.good_steps = jnp.float32(initial), jnp.int32(0)
        self.growth_interval, self.factor = growth_interval, factor

    def adjust(self, finite: Bool[Array, ""]) -> "DynamicLossScale":
        """The scale after a step whose gradient was `finite` or not; never below 1."""
        good = jnp.where(finite, self.good_steps + 1, 0)
        grown = jnp.where(good == self.growth_interval, self.value * self.factor, self.value)
        value = jnp.where(finite, grown, jnp.maximum(self.value / self.factor, 1.0))
        good = jnp.where(good == self.growth_interval, 0, good)
        return eqx.tree_at(lambda scale: (scale.value, scale.good_steps), self, (value, good))


class Precision(eqx.Module):
    r"""Parameters and optimizer state keep their own dtypes; the loss and its gradient are computed in `compute`.

    `Precision()` changes nothing. `Precision(jnp.bfloat16)` needs no loss scale; `Precision(jnp.float16,
    loss_scale=DynamicLossScale())` does.
    """

    compute: Any = eqx.field(static=True)
    keep: Filter
    loss_scale: DynamicLossScale | None

    def __init__(self, compute: Any = None, *, keep: Filter = None, loss_scale: DynamicLossScale | None = None):
        """**Arguments:**

        - `compute`: dtype to which floating model leaves and batch leaves are cast; None leaves them as they are.
        - `keep`: filter of model leaves that are not cast (norms, say); see `eqx_dynamics.transform.select`.
        - `loss_scale`: a `DynamicLossScale`, or None.
        """
        self.compute = None if compute is None else jnp.dtype(compute)
        if self.compute is not None and not jnp.issubdtype(self.compute, jnp.floating):
            raise ValueError(f"`compute` must be a floating dtype; got {self.compute}.")
        self.keep, self.loss_scale = keep, loss_scale

    def cast_model(self, model: PyTree) -> PyTree:
        """The model in the computing precision."""
        if self.keep is None or self.compute is None:
            return self.cast(model)
        kept, rest = eqx.partition(model, select(model, self.keep, name="keep"))
        return eqx.combine(kept, self.cast(rest))

    def cast(self, tree: PyTree) -> PyTree:
        """Floating leaves in the computing precision."""
        if self.compute is None:
            return tree
        return jtu.tree_map(lambda leaf: leaf.astype(self.compute) if _is_floating(leaf) else leaf, tree)


def widened(dtype: Any) -> Any:
    """`dtype`, or float32 if it is a narrower floating type: what sums and reports are kept in."""
    is_narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
    return jnp.dtype(jnp.float32) if is_narrow else jnp.dtype(dtype)


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)


def scaled(loss: Float[Array, ""], scale: DynamicLossScale | None) -> Float[Array, ""]:
    """The loss to differentiate."""
    return loss if scale is None else loss * scale.value.astype(loss.dtype)


def unscaled(grads: PyTree, scale: DynamicLossScale | None) -> PyTree:
    """The gradient of the loss from the gradient of the scaled loss."""
    if scale is None:
        return grads
    return jax.tree.map(lambda g: (g.astype(jnp.float32) / scale.value).astype(g.dtype), grads)
