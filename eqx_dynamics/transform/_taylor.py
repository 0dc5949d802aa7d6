"""Time derivatives of a flow, in Taylor mode."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.experimental.jet import jet, jet_rules
from jaxtyping import Array, Float


def time_derivatives(
    vector_field: Callable[[Array], Array], x: Float[Array, " *shape"], order: int
) -> Float[Array, " order *shape"]:
    """Time derivatives of the solution of $\\dot x = f(x)$ through `x`, in Taylor mode.

    $(\\dot x, \\ddot x, \\dots, x^{(K)})$, with $x^{(k)} = \\frac{d^{k-1}}{dt^{k-1}} f(x(t))$. The work grows as $K^3$
    where nested Jacobian-vector products grow as $2^K$.

    **Arguments:**

    - `vector_field`: `x -> dx/dt` of the same shape, of smooth operations. For one that depends on time, append the
      time to `x` and 1 to its derivative.
    - `x`: the state.
    - `order`: static, $K \\geq 1$.

    **Returns:** the derivatives stacked along a new leading axis, in units of `x` per time unit to the power of $k$;
    differentiable.

    **Raises:** `ValueError` if `order < 1`, if the shapes differ, or if `vector_field` uses an operation without a
    Taylor rule. `jax.nn.relu`, `jax.nn.softplus` and everything built on them (custom derivative rules) are among
    those; `tanh`, `gelu`, `silu`, `elu`, `sigmoid`, `sin`, `exp` work.

    ??? cite "Reference"
        Bettencourt, Johnson & Duvenaud, Taylor-mode automatic differentiation for higher-order derivatives in JAX,
        2019; Kelly et al., Learning differential equations that are easy to solve, NeurIPS 2020, section 4.
    """
    if order < 1:
        raise ValueError(f"`order` must be at least 1; got {order}.")
    jaxpr, first = jax.make_jaxpr(vector_field, return_shape=True)(x)
    if first.shape != x.shape or first.dtype != x.dtype:
        raise ValueError(
            f"`vector_field` must return dx/dt in the shape and dtype of `x`, {x.dtype}{list(x.shape)}; "
            f"got {first.dtype}{list(first.shape)}."
        )
    without_rule = sorted({primitive.name for primitive in _primitives(jaxpr.jaxpr) if primitive not in jet_rules})
    if without_rule:
        raise ValueError(f"`vector_field` uses {', '.join(without_rule)}, for which there is no Taylor rule. {_REMEDY}")
    derivatives = [vector_field(x)]
    for _ in range(order - 1):
        try:
            value, series = jet(vector_field, (x,), (tuple(derivatives),))
        except TypeError as error:  # A rule that cannot handle its shapes; `vector_field` itself has run above.
            raise ValueError(
                f"`vector_field` uses an operation whose Taylor rule fails ({error}). {_REMEDY}"
            ) from error
        derivatives = [value, *series]
    return jnp.stack(derivatives)


_REMEDY = (
    "`relu`, `softplus` and other functions with custom derivative rules have none: use `tanh`, `gelu`, `silu`, `elu` "
    "or `sigmoid`, or nest `jax.jvp`."
)


def _primitives(jaxpr: Any) -> Iterator[Any]:
    """Every primitive of a jaxpr, except that a function with a custom rule counts as one."""
    for equation in jaxpr.eqns:
        yield equation.primitive
        if equation.primitive in jet_rules:
            for inner in jtu.tree_leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(inner):
                    yield from _primitives(inner.jaxpr if isinstance(inner, jex.ClosedJaxpr) else inner)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (jex.ClosedJaxpr, jex.Jaxpr))
