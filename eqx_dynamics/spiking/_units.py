"""Physical quantities at the boundary: constants given in any unit are stored as plain numbers in ours."""

import dataclasses
import functools as ft
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import equinox as eqx
import jax.tree_util as jtu

from .._extras import need
from ._parameter import ParameterLike


@runtime_checkable
class Quantity(Protocol):
    """A `brainunit` quantity such as `5 * u.ms`, or a unit, which stands for one of it.

    Known by its attributes, so that nothing has to be installed or imported to tell that a number is none.
    """

    @property
    def dim(self) -> Any: ...
    @property
    def is_unitless(self) -> bool: ...


Constant: TypeAlias = ParameterLike | Quantity
"""A constant as constructors take it: plain, in the unit that is documented, or a quantity in any unit of that kind."""

Step: TypeAlias = float | int | Quantity
"""The length of a step, or another constant that is one number: in the documented unit, or a quantity."""

Tree = TypeVar("Tree")


def magnitude(quantity: Any, unit: str) -> Any:
    """A quantity as a plain number or array in `unit`, with its gradient; no operation if it is in that unit already.

    `cell(magnitude(current, "mA"), state)` hands a quantity to a cell, `Positive(magnitude(tau, "ms"))` to a
    parametrisation. What stands in the constructor itself needs no conversion: `LIFCell(3, tau_mem=5 * u.ms)`.

    **Arguments:**

    - `quantity`: a `brainunit` quantity or unit.
    - `unit`: brainunit's name of a unit, such as "mV", or a quotient of two, such as "uF/cm2".

    **Returns:** the number or array; a Python number stays one, so that it is fixed, not learned.

    **Raises:** `ValueError` for a unit of another kind, `TypeError` for something without a unit, `ImportError` naming
    the extra `units`.
    """
    units = need("brainunit", extra="units", user="magnitude")
    if not isinstance(quantity, units.Quantity | units.Unit):
        raise TypeError(f"`quantity` must have a unit; got {quantity!r}. Multiply it by one, as in `x * brainunit.mV`.")
    try:
        plain = (1.0 * quantity if isinstance(quantity, units.Unit) else quantity).to_decimal(_unit(units, unit))
    except units.UnitMismatchError as error:
        raise ValueError(f"a quantity in a unit such as {unit} is needed here; got {quantity}.") from error
    return plain.item() if getattr(plain, "shape", None) == () and not eqx.is_array(plain) else plain


def plain(constant: Constant, unit: str) -> ParameterLike:
    """What has a unit as its magnitude in `unit`, what is plain as it is."""
    return magnitude(constant, unit) if isinstance(constant, Quantity) else constant


def number(value: Step, unit: str) -> float:
    """`plain` for one number that stays one."""
    return float(magnitude(value, unit) if isinstance(value, Quantity) else value)


def in_ms(step: Step) -> float:
    """The length of a step, as a number; also the converter of a field."""
    return number(step, "ms")


@ft.cache
def in_unit(unit: str) -> Callable[[Constant], ParameterLike]:
    """`plain` as the converter of a field, for constructors that are generated."""

    def convert(constant: Constant) -> ParameterLike:
        return plain(constant, unit)

    return convert


def with_units(state: Any) -> Any:
    """A view of a state in which membranes, currents and so on are `brainunit` quantities.

    `with_units(state).membrane` is e.g. `[-65.] * mvolt`. For looking, not for stepping: give cells the plain state.

    **Arguments:**

    - `state`: a cell's state, or any tree of them, stacked over time or not.

    **Returns:** the same tree; variables without a unit (gates, countdowns, relative conductances) as they are.

    **Raises:** `ImportError` naming the extra `units`.
    """
    units = need("brainunit", extra="units", user="with_units")
    return _convert(state, lambda value, unit: units.Quantity(value, unit=_unit(units, unit)))


def without_units(state: Tree) -> Tree:
    """The inverse of `with_units`: a state made of quantities, in any unit of their kind, as cells take it.

    **Raises:** `ValueError` for a unit of another kind than the variable's.
    """
    return _convert(state, lambda value, unit: magnitude(value, unit) if isinstance(value, Quantity) else value)


def _convert(node: Any, change: Callable[[Any, str], Any]) -> Any:
    """`change(value, unit)` applied to every field that declares a unit, one level of the tree at a time."""
    paths, treedef = jtu.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    if not paths or not paths[0][0]:
        return node
    declared = (
        {f.name: f.metadata.get("unit") for f in dataclasses.fields(node)} if isinstance(node, eqx.Module) else {}
    )
    children = []
    for path, child in paths:
        unit = declared.get(getattr(path[0], "name", ""))
        children.append(_convert(child, change) if unit is None or child is None else change(child, unit))
    return jtu.tree_unflatten(treedef, children)


def _unit(units: Any, name: str) -> Any:
    first, *divisors = (getattr(units, part) for part in name.split("/"))
    return ft.reduce(lambda a, b: a / b, divisors, first)
