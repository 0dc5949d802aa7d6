"""Tables of costly scalar functions on a uniform grid, with an error bound."""

import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._grid import hermite_basis


class Table(eqx.Module):
    """A tabulated function: cubic Hermite pieces through exact values and slopes; made by `tabulate`.

    `table(x)` acts elementwise on any shape, costs two gathers and a cubic, and is differentiable once everywhere,
    twice between the grid points.
    """

    values: Float[Array, " num_points"]
    slopes: Float[Array, " num_points"]
    lower: float | Float[Array, ""]
    upper: float | Float[Array, ""]
    error_bound: float = eqx.field(static=True)
    slope_error_bound: float = eqx.field(static=True)
    outside: Literal["error", "clamp", "extend"] = eqx.field(static=True)

    @jax.named_scope("eqx_dynamics.Table")
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The tabulated function at `x`."""
        if self.outside == "error":
            is_out = jnp.any((x < self.lower) | (x > self.upper) | jnp.isnan(x))
            x = eqx.error_if(
                x, is_out, '`x` is outside the table; widen it, or choose `outside="clamp"` or `"extend"`.'
            )
        elif self.outside == "clamp":
            x = jnp.clip(x, self.lower, self.upper)
        num_cells = self.values.shape[0] - 1
        width = (self.upper - self.lower) / num_cells
        position = (x - self.lower) / width
        cell = jnp.clip(jax.lax.stop_gradient(position).astype(jnp.int32), 0, num_cells - 1)
        t = position - cell.astype(position.dtype)
        from_value, to_value, from_slope, to_slope = hermite_basis(t)
        out = from_value * self.values[cell] + to_value * self.values[cell + 1]
        return out + width * (from_slope * self.slopes[cell] + to_slope * self.slopes[cell + 1])


def tabulate(
    fn: Callable[[Array], Array],
    lower: float | int,
    upper: float | int,
    *,
    num_points: int | None = None,
    tolerance: float | int | None = None,
    outside: Literal["error", "clamp", "extend"] = "error",
) -> Table:
    """Tabulate a smooth scalar function on `[lower, upper]`.

    With grid width $h$ the cubic Hermite interpolant of exact values and slopes satisfies
    $|f - p| \\leq \\frac{h^4}{384} \\max |f''''|$ and $|f' - p'| \\leq \\frac{\\sqrt 3 h^3}{216} \\max |f''''|$.

    **Arguments:**

    - `fn`: function of one scalar, four times differentiable by JAX.
    - `lower`, `upper`: the interval, in units of the argument of `fn`.
    - `num_points`: size of the table, at least 2; or
    - `tolerance`: largest error of a value, from which the size follows. Give one of the two.
    - `outside`: beyond the interval, `"error"` at run time, `"clamp"` to the end values (slope zero), or `"extend"`
      the last cubic.

    **Returns:** a `Table` with `error_bound` and `slope_error_bound`: the bounds above, with the maximum of $|f''''|$
    taken over eight points a cell, plus the rounding of the table's dtype. Tested functions stay inside them, but it
    is no proof for a function with a feature narrower than an eighth of a cell.

    **Raises:** `ValueError` if the interval is empty, `fn` is not a finite function of a scalar there, not exactly one
    of `num_points` and `tolerance` is given, or `tolerance` is below what the dtype can hold.
    """
    lower, upper = float(lower), float(upper)
    if not lower < upper:
        raise ValueError(f"`lower` must be less than `upper`; got {lower} and {upper}.")
    if (num_points is None) == (tolerance is None):
        raise ValueError(f"Give `num_points` or `tolerance`; got num_points={num_points}, tolerance={tolerance}.")
    if num_points is not None and num_points < 2:
        raise ValueError(f"`num_points` must be at least 2; got {num_points}.")
    if jax.eval_shape(fn, jnp.asarray(lower)).shape != ():
        raise ValueError("`fn` must map a scalar to a scalar; `Table` is applied elementwise by itself.")

    derivatives = [fn]
    for _ in range(4):
        derivatives.append(jax.grad(derivatives[-1]))
    num_cells = 64 if num_points is None else num_points - 1
    curvature, rounding = _scales(derivatives, lower, upper, num_cells)
    if tolerance is not None:
        if not tolerance > rounding:
            raise ValueError(
                f"`tolerance` must exceed the rounding error {rounding:.1e} of the table; got {tolerance}. "
                "Tabulate in float64, or a smaller interval."
            )
        num_cells = 1
        while (needed := _cells_for(tolerance - rounding, curvature, upper - lower)) > num_cells:
            num_cells = needed  # The finer grid may find more curvature.
            curvature, _ = _scales(derivatives, lower, upper, num_cells)
    grid = jnp.linspace(lower, upper, num_cells + 1)
    values, slopes = jax.jit(lambda x: (jax.vmap(fn)(x), jax.vmap(derivatives[1])(x)))(grid)
    width = (upper - lower) / num_cells
    error_bound = width**4 / 384 * curvature + rounding
    slope_error_bound = math.sqrt(3) * width**3 / 216 * curvature + 2 * rounding / width
    return Table(values, slopes, lower, upper, error_bound, slope_error_bound, outside)


def _cells_for(tolerance: float, curvature: float, length: float) -> int:
    return max(1, math.ceil(length * (curvature / (384 * tolerance)) ** 0.25))


def _scales(derivatives: list[Callable], lower: float, upper: float, num_cells: int) -> tuple[float, float]:
    """The largest fourth derivative, and the rounding error of value and position."""
    fine = jnp.linspace(lower, upper, 8 * num_cells + 1)
    largest = jax.jit(lambda x: [jnp.max(jnp.abs(jax.vmap(derivatives[order])(x))) for order in (0, 1, 4)])
    value, slope, fourth = map(float, largest(fine))
    if not math.isfinite(value + slope + fourth):
        raise ValueError(f"`fn` must be finite with four derivatives on [{lower}, {upper}]; it is not.")
    eps = float(jnp.finfo(fine.dtype).eps)
    return fourth, eps * (4 * value + 2 * slope * max(abs(lower), abs(upper)))
