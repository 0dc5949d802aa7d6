"""Data parallelism: the batch is split over the devices, everything else is on all of them."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def data_mesh(devices: Sequence[Any] | None = None, *, axis: str = "batch") -> Mesh:
    """A one-dimensional mesh of all devices of all processes (or of `devices`), whose `axis` splits batches.

    XLA places the communication (`AxisType.Auto`): explicit sharding does not cover segment sums.

    **Arguments:** `devices`: which, default `jax.devices()`; `axis`: its name.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (axis,), axis_types=(AxisType.Auto,), devices=devices)


class DataParallel(eqx.Module):
    r"""Splits the first axis of every batch leaf over one axis of a mesh; parameters are replicated.

    The loss still sees the whole batch, so that its value does not depend on the number of devices. For batches that
    must not be mixed (padded graphs: one sub-batch per device) stack the sub-batches along a new first axis and map the
    loss over it: `stacked(loss_fn)`. Either way XLA sums the gradients once per step.
    """

    mesh: Mesh = eqx.field(static=True)
    axis: str = eqx.field(static=True)

    def __init__(self, mesh: Mesh, *, axis: str | None = None):
        """**Arguments:** `mesh` of devices; `axis` of it that splits batches, default its first.

        **Raises:** `ValueError` if the mesh has no such axis, or the axis is not of type `Auto`.
        """
        self.mesh, self.axis = mesh, mesh.axis_names[0] if axis is None else axis
        if self.axis not in mesh.axis_names:
            raise ValueError(f"`axis` must be an axis of the mesh {mesh.axis_names}; got {axis!r}.")
        if dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[self.axis] != AxisType.Auto:
            raise ValueError(f"`mesh` axis {self.axis!r} must have `AxisType.Auto`; make the mesh with `data_mesh()`.")

    @property
    def num_parts(self) -> int:
        """Into how many parts a batch is split."""
        return self.mesh.shape[self.axis]

    def split(self, batch: PyTree, *, axis: int = 0) -> PyTree:
        """The batch with the first axis of every array split over the devices; `axis=1` for stacked batches.

        **Raises:** `ValueError` naming the leaf whose axis cannot be split evenly.
        """
        self._check(batch, axis=axis)
        return eqx.filter_shard(batch, NamedSharding(self.mesh, PartitionSpec(*[None] * axis, self.axis)))

    def replicate(self, tree: PyTree) -> PyTree:
        """Every array on all devices."""
        return eqx.filter_shard(tree, NamedSharding(self.mesh, PartitionSpec()))

    def put_replicated(self, tree: PyTree) -> PyTree:
        """Host or device arrays, equal in all processes, as arrays on all devices; called outside jit."""
        return self._put(tree, PartitionSpec())

    def put_stacked(self, batches: PyTree) -> PyTree:
        """Batches stacked along a first axis, from host to devices, their second axis split; called outside jit.

        With several processes each brings its own part of every batch, in the order of the processes.
        """
        if jax.process_count() == 1:
            self._check(batches, axis=1)
        return self._put(batches, PartitionSpec(None, self.axis))

    def _put(self, tree: PyTree, spec: PartitionSpec) -> PyTree:
        sharding = NamedSharding(self.mesh, spec)
        put = jax.device_put if jax.process_count() == 1 else _from_process
        return jtu.tree_map(
            lambda leaf: put(leaf, sharding) if isinstance(leaf, jax.Array | np.ndarray) else leaf, tree
        )

    def _check(self, batch: PyTree, axis: int) -> None:
        for path, leaf in jtu.tree_leaves_with_path(batch):
            if isinstance(leaf, jax.Array | np.ndarray) and (leaf.ndim <= axis or leaf.shape[axis] % self.num_parts):
                raise ValueError(
                    f"`mesh` splits the first axis of every batch leaf into {self.num_parts} parts; leaf "
                    f"`batch{jtu.keystr(path)}` has shape {leaf.shape[axis:]}. Use a batch size that is a multiple of "
                    f"{self.num_parts}, or stack sub-batches along a new first axis (`stacked`)."
                )


def _from_process(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.make_array_from_process_local_data(sharding, np.asarray(jax.random.key_data(leaf)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
