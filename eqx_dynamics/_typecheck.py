"""The package's run-time type checker: beartype, prepared for each function when it is first called."""

from collections.abc import Callable
from typing import Any, TypeVar, no_type_check

from beartype import beartype


Function = TypeVar("Function", bound=Callable[..., Any])


@no_type_check  # itself unchecked: a check of `check` would hide the sizes bound by the function around it
def on_first_call(function: Function) -> Function:
    """`beartype(function)`, built at the first call.

    Building it for every function at import would take longer than the import itself (docs/measured.md).
    """
    prepared: list[Function] = []

    def check(*args: Any, **kwargs: Any) -> Any:
        if not prepared:
            prepared.append(beartype(function))
        return prepared[0](*args, **kwargs)

    return check  # pyright: ignore[reportReturnType]
