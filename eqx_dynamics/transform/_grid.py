"""Interpolation between the values on an n-dimensional grid."""

import functools as ft
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class GridInterpolator(eqx.Module):
    """Values between the points of a rectilinear grid, differentiable in the values, the grid and the query.

    Linear: $f(x) = \\sum_{c \\in \\{0,1\\}^d} v_{i + c} \\prod_k w_{k, c_k}(x_k)$, the multilinear blend of the $2^d$
    corners of the cell around $x$. Cubic: the same product over four points an axis, Hermite polynomials with the
    slopes of parabolas through three neighbours (one-sided at the ends), which is once continuously differentiable.

    Call it on one query `(num_axes,)`, or several `(*batch, num_axes)`.

    ??? cite "Reference"
        Keys, Cubic convolution interpolation for digital image processing, 1981 (uniform grids; the slopes here are
        those of non-uniform ones).
    """

    points: tuple[Float[Array, " _"], ...]
    values: Float[Array, "*grid_and_channels"]
    method: Literal["linear", "cubic"] = eqx.field(static=True)
    outside: Literal["error", "clamp", "extend"] = eqx.field(static=True)

    def __init__(
        self,
        points: Sequence[Float[Array, " _"] | Float[np.ndarray, " _"]],
        values: Float[Array, "*grid_and_channels"] | Float[np.ndarray, "*grid_and_channels"],
        *,
        method: Literal["linear", "cubic"] = "linear",
        outside: Literal["error", "clamp", "extend"] = "error",
    ):
        """**Arguments:**

        - `points`: for each axis the strictly increasing coordinates, of shapes `(n_1,), ..., (n_d,)`.
        - `values`: shape `(n_1, ..., n_d, *channels)`.
        - `method`: `"linear"` (at least 2 points an axis) or `"cubic"` (at least 3).
        - `outside`: what a query outside the grid gets. `"error"`: a run-time error. `"clamp"`: the value at the
          nearest point of the boundary, with gradient zero along the clamped axis. `"extend"`: the polynomial of the
          outermost cell, which for cubic ones leaves the data quickly.

        **Raises:** `ValueError` for shapes that do not fit and, if they are concrete, points that do not increase.
        """
        self.points = tuple(jnp.asarray(axis) for axis in points)
        self.values = jnp.asarray(values)
        self.method, self.outside = method, outside
        sizes = tuple(axis.shape[0] for axis in self.points)
        if not sizes or self.values.shape[: len(sizes)] != sizes:
            raise ValueError(
                f"`values` must have one leading axis for each array in `points`, {sizes}; got shape "
                f"{self.values.shape}. Channels go last."
            )
        fewest = 2 if method == "linear" else 3
        if min(sizes) < fewest:
            raise ValueError(f"`points` must have at least {fewest} entries an axis for {method!r}; got {sizes}.")
        for number, axis in enumerate(self.points):
            if not isinstance(axis, jax.core.Tracer) and not np.all(np.diff(np.asarray(axis)) > 0):
                raise ValueError(f"`points[{number}]` must increase strictly; sort it and drop repeated entries.")

    @jax.named_scope("eqx_dynamics.GridInterpolator")
    def __call__(self, query: Float[Array, "*batch num_axes"]) -> Float[Array, "*batch_and_channels"]:
        """Interpolated values, shape `(*batch, *channels)`."""
        if query.shape[-1] != len(self.points):
            raise ValueError(f"`query` must end in {len(self.points)} coordinates; got shape {query.shape}.")
        flat = jnp.reshape(query, (-1, query.shape[-1]))
        if self.outside == "error":
            low, high = (jnp.stack([axis[end] for axis in self.points])[None] for end in (0, -1))
            is_out = jnp.any((flat < low) | (flat > high) | jnp.isnan(flat))
            flat = eqx.error_if(flat, is_out, '`query` is outside the grid; choose `outside="clamp"` or `"extend"`.')
        values = jax.vmap(self._one)(flat)
        return jnp.reshape(values, (*query.shape[:-1], *values.shape[1:]))

    def _one(self, query: Float[Array, " num_axes"]) -> Float[Array, "*channels"]:
        clamp = self.outside == "clamp"
        weights_of = _linear_weights if self.method == "linear" else _cubic_weights
        indices, weights = zip(*map(ft.partial(weights_of, clamp=clamp), self.points, query), strict=True)
        corners = self.values[jnp.ix_(*indices)]
        for axis_weights in weights:  # Each contraction uses up the leading axis.
            corners = jnp.tensordot(axis_weights.astype(corners.dtype), corners, axes=1)
        return corners


def _cell(points: Float[Array, " n"], x: Float[Array, ""], clamp: bool) -> tuple[Array, Array, Array]:
    """Number of the cell around `x`, its width, and the position in it (0 to 1 inside the grid)."""
    if clamp:
        x = jnp.clip(x, points[0], points[-1])
    cell = jnp.clip(jnp.searchsorted(points, x, side="right").astype(jnp.int32) - 1, 0, points.shape[0] - 2)
    width = points[cell + 1] - points[cell]
    return cell, width, (x - points[cell]) / width


def _linear_weights(points: Float[Array, " n"], x: Float[Array, ""], *, clamp: bool) -> tuple[Array, Array]:
    cell, _, t = _cell(points, x, clamp)
    return cell + jnp.arange(2, dtype=jnp.int32), jnp.stack([1 - t, t])


def _cubic_weights(points: Float[Array, " n"], x: Float[Array, ""], *, clamp: bool) -> tuple[Array, Array]:
    cell, width, t = _cell(points, x, clamp)
    basis = hermite_basis(t)
    around = jnp.clip(cell + jnp.arange(-1, 3, dtype=jnp.int32), 0, points.shape[0] - 1)
    left, right = points[cell] - points[around[0]], points[around[3]] - points[cell + 1]
    # Slope times the width of the cell, as weights of the four values; a side without neighbour is one-sided.
    first = _slope_weights(left, width) * width
    last = -_slope_weights(right, width)[::-1] * width
    zero, one = jnp.zeros((1,), t.dtype), jnp.eye(4, dtype=t.dtype)
    weights = basis[0] * one[1] + basis[1] * one[2]
    weights = weights + basis[2] * jnp.concatenate([first, zero]) + basis[3] * jnp.concatenate([zero, last])
    return around, weights


def _slope_weights(before: Array, after: Array) -> Array:
    """Weights of (previous, this, next) in the slope here: of their parabola, or one-sided without previous."""
    has_previous = before > 0
    safe = jnp.where(has_previous, before, 1)
    central = jnp.stack(
        [-after / (safe * (safe + after)), (after - safe) / (safe * after), safe / (after * (safe + after))]
    )
    one_sided = jnp.stack([jnp.zeros_like(after), -1 / after, 1 / after])
    return jnp.where(has_previous, central, one_sided)


def hermite_basis(t: Float[Array, "*shape"]) -> tuple[Array, Array, Array, Array]:
    """Cubic polynomials on [0, 1] with value (first two) or slope (last two) 1 at one end and 0 otherwise."""
    s = 1 - t
    return (1 + 2 * t) * s * s, t * t * (3 - 2 * t), t * s * s, -t * t * s
