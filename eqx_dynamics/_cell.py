"""The one idea of the package: a cell is one time step, with its state in the open."""

import abc
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import equinox as eqx
from jaxtyping import PRNGKeyArray


State = TypeVar("State")


@runtime_checkable
class Cell(Protocol):
    """Anything callable as a cell: an `AbstractCell`, a training step, or a plain function."""

    def __call__(self, x: Any, state: Any, /, *, key: PRNGKeyArray | None = None) -> tuple[Any, Any]: ...


class AbstractCell(eqx.Module, Generic[State]):
    """One time step, `(x, state) -> (out, state)`; parameters inside, state outside, nothing stored between steps.

    **Implementing a cell**

    - Keep parameters as fields and time-varying values in `State`, an `eqx.Module` of arrays.
    - Compute elementwise, or affinely in the trailing axis: leading axes are batches and need no `vmap`.
    - Use `key` only if the cell is stochastic, and raise a `ValueError` naming the cell if it is then missing.
    """

    @abc.abstractmethod
    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> State:
        """The state before the first step, with `shape` as leading (batch) axes."""

    @abc.abstractmethod
    def __call__(self, x: Any, state: State, *, key: PRNGKeyArray | None = None) -> tuple[Any, State]:
        """One step: `x` and the state before it to the output and the state after it."""
