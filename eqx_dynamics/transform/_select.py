"""Choosing leaves of a pytree: one mechanism for derivatives, batch axes, shardings and optimiser groups."""

import dataclasses
import fnmatch
import types
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree


# A type, a path pattern, a `where` function, a predicate of one leaf, a `Tag`, a `Not`, `...`, or a tree of bools.
Filter: TypeAlias = Any


@dataclasses.dataclass(frozen=True)
class Tag:
    """Chooses every array below a field declared with this tag: `eqx.field(metadata={"tags": ("state",)})`."""

    name: str


@dataclasses.dataclass(frozen=True)
class Not:
    """Chooses every array that `which` does not choose."""

    which: Filter


def select(tree: PyTree, which: Filter, *, name: str = "which") -> PyTree[bool]:
    """A tree of bools, True at the chosen array leaves of `tree`; an Equinox filter specification.

    **Arguments:**

    - `tree`: any pytree; only its arrays (or `jax.ShapeDtypeStruct`s) can be chosen.
    - `which`: one of
        - a type: every array inside a node of that type (`eqx.nn.Linear`);
        - a path pattern: `"layers.0"` chooses all below it, `*` stands for one part of the path and `**` for any
          number of parts (`"layers.*.weight"`, `"**.bias"`);
        - a `where` function from the tree to the chosen node or nodes (`lambda model: (model.encoder, model.bias)`);
        - a predicate of one array (`eqx.is_inexact_array`, `lambda leaf: leaf.ndim == 2`); a function that answers
          the whole tree with a bool, or cannot take it, is a predicate;
        - `Tag(name)`, `Not(which)`, or `...` for everything;
        - a tree of bools with the structure of `tree` or of its top.
    - `name`: what errors call `which`.

    **Returns:** the bools, in the structure of `tree`.

    **Raises:** `ValueError` if nothing is chosen, or one leaf twice.
    """
    choice = choose(tree, which, name=name)
    mask = [False] * len(choice.leaves)
    for position in jtu.tree_leaves(choice.template):
        mask[position] = True
    return jtu.tree_unflatten(choice.treedef, mask)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Some leaves of a tree: `template` holds their positions, in the structure in which they are handed out."""

    leaves: list[Any]
    treedef: Any
    template: PyTree[int]

    def get(self) -> PyTree:
        """The chosen leaves: the structure a `where` function returned, else that of the tree with None elsewhere."""
        return jtu.tree_map(lambda position: self.leaves[position], self.template)

    def put(self, chosen: PyTree) -> PyTree:
        """The whole tree with other values for the chosen leaves."""
        leaves = list(self.leaves)
        for position, leaf in zip(jtu.tree_leaves(self.template), jtu.tree_leaves(chosen), strict=True):
            leaves[position] = leaf
        return jtu.tree_unflatten(self.treedef, leaves)


def is_array(leaf: Any) -> bool:
    """An array, or the shape of one."""
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def leaf_paths(tree: PyTree) -> list[str]:
    """One dotted path (`layers.0.weight`) per leaf, in the order of the leaves."""
    return [jtu.keystr(path, simple=True, separator=".") for path, _ in jtu.tree_flatten_with_path(tree)[0]]


def choose(tree: PyTree, which: Filter, *, name: str, eligible: Callable[[Any], bool] = is_array) -> Choice:
    """As `select`, but keeping what is needed to take the chosen leaves out and to put others in."""
    leaves, treedef = jtu.tree_flatten(tree)
    template = _template(tree, which, name)
    template = jtu.tree_map(lambda position: position if eligible(leaves[position]) else None, template)
    positions = jtu.tree_leaves(template)
    if not positions:
        kind = "differentiable (floating point) array" if eligible is eqx.is_inexact_array else "array"
        raise ValueError(
            f"`{name}` selects no {kind} of {type(tree).__name__}; got {name}={_show(which)}. "
            f"Its arrays are {_arrays(tree)}."
        )
    if len(set(positions)) != len(positions):
        raise ValueError(f"`{name}` selects a leaf twice; got {name}={_show(which)}. Return each node once.")
    return Choice(leaves, treedef, template)


class _Mark:
    def __init__(self, position: int):
        self.position = position


def _template(tree: PyTree, which: Filter, name: str) -> PyTree[int]:
    leaves, treedef = jtu.tree_flatten(tree)
    if callable(which) and not isinstance(which, (type, eqx.Module)):
        predicate_or_where: Callable[[Any], Any] = which
        marked = jtu.tree_unflatten(treedef, [_Mark(i) if is_array(leaf) else leaf for i, leaf in enumerate(leaves)])
        try:
            nodes = predicate_or_where(marked)
        except (AttributeError, TypeError) as error:  # Not a function of the tree: a predicate, or a slip.
            whole_tree_error = error
        else:
            whole_tree_error = None
            if not isinstance(nodes, (bool, np.bool_)):
                return jtu.tree_map(lambda leaf: leaf.position if isinstance(leaf, _Mark) else None, nodes)
        try:
            chosen = [is_array(leaf) and bool(predicate_or_where(leaf)) for leaf in leaves]
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"`{name}` must be a function from the tree to some of its nodes, unchanged, or from one array to a "
                f"bool; got {_show(which)}, which failed on {type(tree).__name__} ({whole_tree_error}) and on an "
                f"array ({error})."
            ) from error
    else:
        chosen = _chosen(tree, which, name)
    return jtu.tree_unflatten(treedef, [i if c else None for i, c in enumerate(chosen)])


def _chosen(tree: PyTree, which: Filter, name: str) -> list[bool]:
    """One bool per leaf, for every kind of filter that is not a function."""
    num_leaves = len(jtu.tree_leaves(tree))
    match which:
        case types.EllipsisType():
            return [True] * num_leaves
        case Not(inner):
            return [not chosen for chosen in jtu.tree_leaves(select(tree, inner, name=name))]
        case Tag(tag):
            return [tag in _tags(tree, path) for path, _ in jtu.tree_flatten_with_path(tree)[0]]
        case str():
            return [_matches(which.split("."), path.split(".")) for path in leaf_paths(tree)]
        case type():
            is_node = lambda node: isinstance(node, which)  # noqa: E731
            below = jtu.tree_map(lambda node: jtu.tree_map(lambda _: is_node(node), node), tree, is_leaf=is_node)
            return jtu.tree_leaves(below)
    if not all(isinstance(leaf, (bool, np.bool_)) for leaf in jtu.tree_leaves(which)):
        raise ValueError(
            f"`{name}` must be a type, a path pattern, a function, a `Tag`, `...` or a tree of bools; got {which!r}."
        )
    try:
        return jtu.tree_leaves(jtu.tree_map(lambda chosen, below: jtu.tree_map(lambda _: chosen, below), which, tree))
    except ValueError as error:
        raise ValueError(
            f"`{name}` must have the structure of {type(tree).__name__}, or of its top; "
            "build it with `select` or with `jax.tree.map(lambda _: False, tree)` and `eqx.tree_at`."
        ) from error


def _matches(pattern: list[str], path: list[str]) -> bool:
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(pattern[1:], path[skipped:]) for skipped in range(len(path)))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _matches(pattern[1:], path[1:])


def _tags(tree: PyTree, path: tuple[Any, ...]) -> set[str]:
    """The tags of every dataclass field on the way from the root to a leaf."""
    tags: set[str] = set()
    node = tree
    for entry in path:
        match entry:
            case jtu.GetAttrKey(name):
                fields = node.__dataclass_fields__ if dataclasses.is_dataclass(node) else {}
                if name in fields:
                    tags |= set(fields[name].metadata.get("tags", ()))
                node = getattr(node, name)
            case jtu.DictKey(key):
                node = node[key]
            case jtu.SequenceKey(idx):
                node = node[idx]
            case _:  # A custom node that names its children by number only.
                break
    return tags


def _show(which: Filter) -> str:
    return getattr(which, "__name__", None) or (type(which).__name__ if isinstance(which, eqx.Module) else repr(which))


def _arrays(tree: PyTree, limit: int = 8) -> str:
    paths = [p or "<root>" for p, leaf in zip(leaf_paths(tree), jtu.tree_leaves(tree), strict=True) if is_array(leaf)]
    return (", ".join(paths[:limit]) + (", ..." if len(paths) > limit else "")) or "none"
