"""Would a KD-tree be possible in JAX? For a fixed radius a cell list answers the question with static shapes.

Points are sorted by grid cell; every point looks at the cells around it, at `capacity` slots each. The restrictions:
the capacity is static (an overflow is REPORTED, never silent), indices have no gradient (distances have), and a moved
point means sorting again, which is cheap. A KD-tree needs data-dependent branches and pays for them under `vmap`.
"""

import functools as ft
import itertools as it

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.spatial import KDTree


@ft.partial(jax.jit, static_argnames="capacity")
def neighbors_within(
    points: Float[Array, "n 2"], radius: Float[Array, ""], *, capacity: int
) -> tuple[Int[Array, "n slots"], Bool[Array, "n slots"], Bool[Array, ""]]:
    """Candidates of every point, which of them are within `radius`, and whether a cell held more than `capacity`."""
    n = points.shape[0]
    cells = jnp.floor(points / radius).astype(jnp.int32)
    table = 2 * n  # cells are hashed into a table of static size; collisions are sorted out below

    def slot(cell: Int[Array, "*k 2"]) -> Int[Array, "*k"]:
        return (cell[..., 0] * 73856093 ^ cell[..., 1] * 19349663) % table

    order = jnp.argsort(slot(cells))
    ptr = jnp.searchsorted(slot(cells)[order], jnp.arange(table + 1))
    around = cells[:, None] + jnp.array(list(it.product((-1, 0, 1), repeat=2)))  # (n, 9, 2)
    position = ptr[slot(around)][..., None] + jnp.arange(capacity)  # (n, 9, capacity)
    candidate = order[jnp.minimum(position, n - 1)]
    in_bucket = position < ptr[slot(around) + 1][..., None]
    in_cell = jnp.all(cells[candidate] == around[:, :, None], axis=-1)  # a colliding cell's points are not ours
    distance = jnp.sum((points[candidate] - points[:, None, None]) ** 2, axis=-1)
    is_other = candidate != jnp.arange(n)[:, None, None]
    found = in_bucket & in_cell & is_other & (distance <= radius**2)
    return candidate.reshape(n, -1), found.reshape(n, -1), jnp.max(jnp.diff(ptr)) > capacity


def main() -> None:
    points = jr.uniform(jr.key(0), (2000, 2), minval=-1.0, maxval=1.0)
    radius = jnp.asarray(0.05)
    candidate, found, overflow = neighbors_within(points, radius, capacity=16)
    assert not bool(overflow)
    receivers, columns = np.nonzero(np.asarray(found))
    pairs = set(zip(np.asarray(candidate)[receivers, columns].tolist(), receivers.tolist(), strict=True))

    tree = KDTree(np.asarray(points)).query_pairs(0.05)
    expected = {(i, j) for i, j in tree} | {(j, i) for i, j in tree}
    assert pairs == expected

    assert bool(neighbors_within(points, jnp.asarray(0.5), capacity=16)[2])  # too many points a cell: said so

    def energy(points: Float[Array, "n 2"]) -> Float[Array, ""]:  # distances are differentiable, indices constants
        delta = points[candidate] - points[:, None]
        squared = jnp.where(found, jnp.sum(delta**2, axis=-1), 1.0)
        return jnp.sum(jnp.where(found, 1 / jnp.sqrt(squared + 1e-4), 0.0))

    assert bool(jnp.isfinite(jax.grad(energy)(points)).all())
    print(f"{len(pairs)} neighbour pairs of 2000 points, exactly those of SciPy's tree")


if __name__ == "__main__":
    main()
