"""Pytrees as named arrays, for files."""

import json
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, PyTree


class CheckpointError(ValueError):
    """A file or folder that cannot be used, and why."""


def to_json(config: Any) -> str:
    """`config` as text.

    **Raises:** `TypeError` if JSON cannot hold it.
    """
    try:
        return json.dumps(config)
    except TypeError as error:
        raise TypeError(
            f"`config` must be what JSON can hold; got {type(config).__name__} ({error}). Pass "
            "`dataclasses.asdict(config)`, with plain numbers, strings, lists and dicts inside."
        ) from error


def to_named(tree: PyTree) -> dict[str, Array]:
    """The arrays of `tree` by path (`layers.0.weight`); typed keys as their data.

    **Raises:** `ValueError` if two leaves have one name.
    """
    return {name: jr.key_data(leaf) if is_key(leaf) else leaf for name, leaf in _slots(eqx.filter(tree, eqx.is_array))}


def from_named(like: PyTree, named: Mapping[str, Any], *, source: str) -> PyTree:
    """`like` with the arrays in `named`; `like` may hold `jax.ShapeDtypeStruct`s.

    **Raises:** `CheckpointError` naming the leaf that is missing, unknown, or of another shape or dtype.
    """
    check_named(like, {name: (tuple(array.shape), str(array.dtype)) for name, array in named.items()}, source=source)

    def put(path: Any, leaf: Any) -> Any:
        if not _is_slot(leaf):
            return leaf
        array = jnp.asarray(named[_name(path)])
        return jr.wrap_key_data(array, impl=_impl(leaf)) if is_key(leaf) else array

    return jtu.tree_map_with_path(put, like, is_leaf=lambda node: isinstance(node, jax.ShapeDtypeStruct))


def describe(tree: PyTree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each named array of `tree`."""
    data = {name: jax.eval_shape(jr.key_data, leaf) if is_key(leaf) else leaf for name, leaf in _slots(tree)}
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in data.items()}


def check_named(like: PyTree, got: Mapping[str, tuple[tuple[int, ...], str]], *, source: str) -> None:
    """Raise a `CheckpointError` unless `got` describes the arrays of `like`."""
    wanted = describe(like)
    for name, (shape, dtype) in wanted.items():
        if name not in got:
            raise CheckpointError(f"{source} lacks `{name}`, which the given structure has.")
        found_shape, found_dtype = got[name]
        if (tuple(found_shape), found_dtype) != (shape, dtype):
            raise CheckpointError(
                f"{source} holds `{name}` as {found_dtype}{list(found_shape)}; the given structure has it as "
                f"{dtype}{list(shape)}."
            )
    for name in got:
        if name not in wanted:
            raise CheckpointError(f"{source} holds `{name}`, which the given structure has not.")


def is_key(leaf: Any) -> bool:
    """Whether `leaf` is an array of typed PRNG keys, or the shape of one."""
    return _is_slot(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _slots(tree: PyTree) -> list[tuple[str, Any]]:
    """The arrays of `tree`, or shapes of them, with their names."""
    leaves = [(_name(path), leaf) for path, leaf in jtu.tree_leaves_with_path(tree) if _is_slot(leaf)]
    names = [name for name, _ in leaves]
    twice = next((name for n, name in enumerate(names) if name in names[:n]), None)
    if twice is not None:
        raise ValueError(f"Two leaves have the name `{twice}`; rename a dictionary key.")
    return leaves


def _name(path: Any) -> str:
    return jtu.keystr(path, simple=True, separator=".") or "value"


def _is_slot(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _impl(leaf: Any) -> Any:
    return jr.key_impl(_zeros(leaf))


def _zeros(leaf: Any) -> Any:
    return leaf if eqx.is_array(leaf) else jnp.empty(leaf.shape, leaf.dtype)
