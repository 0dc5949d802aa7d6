"""What goes wrong on the device, said on the host as Equinox says it."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax


_MARK = "_EquinoxRuntimeError: "


@contextlib.contextmanager
def errors_named() -> Iterator[None]:
    """Raise what `eqx.error_if` finds as an `eqx.EquinoxRuntimeError` that holds its message.

    `eqx.filter_jit` does so by waiting for the result of each call. A run that is not waited for meets the error later,
    wherever it first looks at the device, wrapped in the reports of JAX.
    """
    logger, silence = logging.getLogger("jax._src.callback"), _Silence()
    logger.addFilter(silence)
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        _, mark, rest = str(error).partition(_MARK)
        if not mark:
            raise
        raise eqx.EquinoxRuntimeError(rest.partition("\n\n\n---")[0]) from None
    finally:
        logger.removeFilter(silence)


@contextlib.contextmanager
def state_left(state: Callable[[], Any]) -> Iterator[None]:
    """Gives whatever ends the block the state that a run has come to, unless the device no longer holds it."""
    try:
        yield
    except BaseException as error:
        reached = state()
        gone = any(leaf.is_deleted() for leaf in jax.tree.leaves(reached) if isinstance(leaf, jax.Array))
        if not (gone or hasattr(error, "state") or isinstance(error, jax.errors.JaxRuntimeError)):
            error.__dict__["state"] = reached
            error.add_note("The state after the last dispatch is the attribute `state` of this error.")
        raise


class _Silence(logging.Filter):
    """Leaves out the stack of a failed callback: the exception follows."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.getMessage() != "jax.pure_callback failed"
