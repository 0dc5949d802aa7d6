"""Where our calls differ from PyG's: segments counted by a required static int, functions under other names."""

from collections.abc import Callable
from typing import Any

from reference_support import Case


# Constants that PyG keeps in the state dict and that are constructor arguments (or nothing) here.
SURPLUS_BUFFERS = frozenset({"q"})

FUNCTIONS: dict[str, Callable[..., Any]] = {}


def call(class_name: str, module: Any, case: Case, args: Any, kwargs: dict[str, Any]) -> Any:
    """The module applied to a case's arguments."""
    return getattr(module, case.call or "__call__")(*args, **kwargs)
