"""Optional dependencies."""

import importlib
from typing import Any


def need(module: str, *, extra: str | None, user: str = "this") -> Any:
    """The imported `module`, or an `ImportError` that says who needs it and how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        how = f"pip install {package}" if extra is None else f'pip install "eqx-graph-dynamics[{extra}]"'
        raise ImportError(f"`{user}` needs the package `{package}`, which is not installed: `{how}`.") from error
