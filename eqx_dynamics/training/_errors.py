"""What goes wrong on the device, said on the host as Equinox says it."""

import contextlib
import logging
from collections.abc import Iterator

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


class _Silence(logging.Filter):
    """Leaves out the stack of a failed callback: the exception follows."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.getMessage() != "jax.pure_callback failed"
