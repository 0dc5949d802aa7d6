"""Which axis of which leaf is the batch: for `eqx.filter_vmap`, and for shardings."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from .._cell import AbstractCell
from ._select import Filter, choose, is_array, leaf_paths


def state_axes(tree: PyTree, axes: Mapping[Filter, int | None], *, of_one_member: bool = False) -> PyTree[int | None]:
    """A batch axis, or None, for every leaf: "batch these states, share those parameters".

    Goes into `in_axes` or `out_axes` of `eqx.filter_vmap`: `in_axes=(state_axes(net, {LIFState: 0, ...: None}), 0)`.

    **Arguments:**

    - `tree`: the batched value, or its shapes from `eqx.filter_eval_shape`.
    - `axes`: filter to axis, see `select` for filters; the first filter that chooses a leaf wins, `...` is the rest.
    - `of_one_member`: `tree` has no batch axes yet, as the result of the un-batched function, for `out_axes`.

    **Returns:** a tree of axes in the structure of `tree`, with None at whatever is not an array.

    **Raises:** `ValueError` naming the path if an array is matched by no filter or has not that axis, and if a filter
    matches nothing.
    """
    assigned, treedef = _assign(tree, axes, int(of_one_member)), jtu.tree_structure(tree)
    return jtu.tree_unflatten(treedef, [None if axis is _NOT_AN_ARRAY else axis for axis in assigned])


def state_shardings(
    tree: PyTree, axes: Mapping[Filter, int | None], mesh: Mesh, axis_name: str = "batch"
) -> PyTree[NamedSharding | None]:
    """The same choice as shardings: the batch axis of a leaf is split over `axis_name`, leaves without one replicated.

    **Arguments:** `tree` and `axes` as for `state_axes`; `mesh` has an axis `axis_name` and comes from
    `jax.make_mesh(..., axis_types=(AxisType.Auto,))`.

    **Returns:** a tree for `eqx.filter_shard(tree, shardings)`, with None at whatever is not an array.

    **Raises:** `ValueError` as `state_axes`, and if `mesh` has no such axis or does not divide a batch evenly.
    """
    if axis_name not in mesh.axis_names:
        raise ValueError(f"`axis_name` must be an axis of `mesh`; got {axis_name!r} for {mesh.axis_names}.")
    leaves, treedef = jtu.tree_flatten(tree)
    shardings = []
    for path, leaf, axis in zip(leaf_paths(tree), leaves, _assign(tree, axes), strict=True):
        if axis is _NOT_AN_ARRAY:
            shardings.append(None)
            continue
        spec = PartitionSpec()
        if axis is not None:
            if leaf.shape[axis] % mesh.shape[axis_name]:
                raise ValueError(
                    f"`{path}` has {leaf.shape[axis]} entries along axis {axis}, which {mesh.shape[axis_name]} devices "
                    f"of the mesh axis {axis_name!r} do not divide; choose another batch size or mesh."
                )
            spec = PartitionSpec(*[None] * (axis % leaf.ndim), axis_name)
        shardings.append(NamedSharding(mesh, spec))
    return jtu.tree_unflatten(treedef, shardings)


def ensemble(make: Callable[[Array], PyTree], keys: Array) -> PyTree:
    """One batched tree from many keys: `make(keys[0]), make(keys[1]), ...` stacked along a new leading axis.

    **Arguments:**

    - `make`: `key -> tree`, for example `lambda key: eqx.nn.MLP(2, 2, 8, 1, key=key)`.
    - `keys`: typed keys of shape `(num_members,)`, from `jr.split(key, num_members)`.

    **Returns:** the tree, every array with a leading axis `num_members`, everything else as in one member. Call it as
    `eqx.filter_vmap(lambda member, x: member(x))(members, xs)`, or with `in_axes=(eqx.if_array(0), None)` on one `x`.

    **Raises:** `ValueError` if `keys` is a single key or not a typed key array.
    """
    if not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.ndim != 1:
        raise ValueError(
            f"`keys` must be typed keys of shape `(num_members,)`; got {keys.dtype} {keys.shape}. "
            "Make them with `jr.split(jr.key(seed), num_members)`."
        )
    return eqx.filter_vmap(make)(keys)


def init_states(cell: AbstractCell, keys: Array) -> PyTree:
    """A batch of initial states of one cell, one per key, stacked along a new leading axis.

    For identical members `cell.init_state((num_members,))` is the same without keys.

    **Arguments:** `cell`; `keys`, typed, of shape `(num_members,)`.

    **Returns:** the states. **Raises:** `ValueError` as `ensemble`.
    """
    return ensemble(lambda key: cell.init_state(key=key), keys)


_NOT_AN_ARRAY = object()


def _assign(tree: PyTree, axes: Mapping[Filter, int | None], new_axes: int = 0) -> list[Any]:
    """Axis, None or `_NOT_AN_ARRAY` for each leaf, checked."""
    leaves = jtu.tree_leaves(tree)
    chosen = [
        range(len(leaves)) if which is Ellipsis else set(jtu.tree_leaves(choose(tree, which, name="axes").template))
        for which in axes
    ]
    assigned = []
    for i, (path, leaf) in enumerate(zip(leaf_paths(tree), leaves, strict=True)):
        if not is_array(leaf):
            assigned.append(_NOT_AN_ARRAY)
            continue
        matching = [axis for axis, positions in zip(axes.values(), chosen, strict=True) if i in positions]
        if not matching:
            raise ValueError(
                f"`axes` matches no filter to `{path or '<root>'}`; name it, or add `...: None` for the rest."
            )
        axis, ndim = matching[0], len(leaf.shape) + new_axes
        if axis is not None and not -ndim <= axis < ndim:
            raise ValueError(
                f"`axes` gives `{path or '<root>'}` the batch axis {axis}, but it has shape {leaf.shape}; batch it "
                "first (`init_state((batch,))`, `ensemble`), or share it with axis None."
            )
        assigned.append(axis)
    return assigned
