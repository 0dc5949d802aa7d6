"""What every module of both packages keeps to, found by walking them: no name has to be registered."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import pytest
from beartype import beartype
from beartype.roar import BeartypeDecorHintException

import eqx_dynamics
import eqx_graph
from registry import AGGREGATIONS, CELLS, CONVS


def _modules() -> list[ModuleType]:
    found: list[ModuleType] = []
    for package in (eqx_graph, eqx_dynamics):
        found.append(package)
        found += [
            importlib.import_module(m.name) for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        ]
    return found


MODULES = _modules()


def _defined() -> Iterator[tuple[str, Any]]:
    """Every class and function defined in the packages, by its dotted name."""
    for module in MODULES:
        for name, value in vars(module).items():
            if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module.__name__:
                yield f"{module.__name__}.{name}", value


def _public() -> dict[str, Any]:
    """What a user can name: classes and functions in an `__init__` without an underscore in their path."""
    return {
        f"{module.__name__}.{name}": value
        for module in MODULES
        if hasattr(module, "__path__") and "._" not in module.__name__
        for name, value in vars(module).items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
        if value.__module__.split(".")[0] in ("eqx_graph", "eqx_dynamics")
    }


CLASSES = {name: cls for name, cls in _defined() if inspect.isclass(cls) and issubclass(cls, eqx.Module)}


def test_every_public_name_has_a_docstring() -> None:
    bare = [name for name, value in _public().items() if not _own_doc(value)]
    for name, cls in _public().items():
        if inspect.isclass(cls):
            bare += [
                f"{name}.{member}"
                for member, value in vars(cls).items()
                if not member.startswith("_") and inspect.isfunction(value) and not inspect.getdoc(getattr(cls, member))
            ]
    assert not bare, bare


def _own_doc(value: Any) -> bool:
    doc = value.__doc__ or ""
    return bool(doc.strip()) and not doc.startswith(f"{value.__name__}(")  # the one a dataclass generates


def test_modules_are_abstract_or_final() -> None:
    """Nothing inherits from a concrete module, and no concrete method is overridden."""
    problems = []
    for name, cls in CLASSES.items():
        for base in cls.__mro__[1:]:
            if base in (eqx.Module, object) or base.__module__.split(".")[0] not in ("eqx_graph", "eqx_dynamics"):
                continue
            if not _is_abstract(base):
                problems.append(f"{name} inherits from the final {base.__name__}")
            for member, value in vars(cls).items():
                inherited = vars(base).get(member)
                functions = inspect.isfunction(value) and inspect.isfunction(inherited) and not member.startswith("__")
                if functions and not getattr(inherited, "__isabstractmethod__", False):
                    problems.append(f"{name}.{member} overrides the concrete one of {base.__name__}")
    assert not problems, "\n".join(problems)


def _is_abstract(cls: type) -> bool:
    return inspect.isabstract(cls) or bool(
        getattr(cls, "__abstractvars__", ()) or getattr(cls, "__abstractclassvars__", ())
    )


def test_annotations_are_understood_by_the_checker() -> None:
    """The checker is prepared at a function's first call: here it is prepared for all, so a bad annotation shows."""
    broken = []
    for name, value in _defined():
        members = vars(value).values() if inspect.isclass(value) else [value]
        for function in members:
            if inspect.isfunction(function):
                try:
                    beartype(inspect.unwrap(function))
                except BeartypeDecorHintException as error:
                    broken.append(f"{name}: {error}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    "make", [*(c.make for c in CONVS.values()), *AGGREGATIONS.values(), *(c.make for c in CELLS.values())]
)
def test_no_array_is_static(make: Any) -> None:
    """Static fields are compared and hashed at every call: an array there fails or retraces."""
    for node in _nodes(make(jr.key(0))):
        for field in dataclasses.fields(node):
            if field.metadata.get("static", False):
                leaves = jtu.tree_leaves(getattr(node, field.name, None))
                arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
                assert not arrays, f"{type(node).__name__}.{field.name} is static and holds an array"
                hash(getattr(node, field.name, None))


def _nodes(tree: Any) -> Iterator[Any]:
    """Every `eqx.Module` inside a tree."""
    if isinstance(tree, eqx.Module):
        yield tree
        for field in dataclasses.fields(tree):  # pyright: ignore[reportArgumentType]
            yield from _nodes(getattr(tree, field.name, None))
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _nodes(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _nodes(item)


def test_no_module_makes_arrays_at_import() -> None:
    """An array made at import fixes dtype and device before the user has chosen them."""
    arrays = [f"{m.__name__}.{name}" for m in MODULES for name, v in vars(m).items() if isinstance(v, jax.Array)]
    assert not arrays, arrays
    assert isinstance(jnp.zeros(1), jax.Array)
