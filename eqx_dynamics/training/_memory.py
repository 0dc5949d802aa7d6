"""Temporary memory of programs on a CPU, kept from one call to the next."""

import ctypes
import platform

import jax


# Parameters of `mallopt` (malloc.h of glibc) and their values: nothing is given back, nothing is mapped for itself, and
# all threads but the main one share a region: what one of them freed, another uses (30 MB after a compilation). Sharing
# that of the main thread as well, they would wait for each other.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_SETTINGS = ((_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0), (_ARENA_MAX, 2))


def keep_freed_memory() -> bool:
    """Lets programs on a CPU take the memory that earlier ones gave back, where the kernel would hand out new pages.

    XLA asks the C library for a program's temporary memory at every call. glibc gives whatever is larger than 32 MB
    back to the kernel at once, so every step touches all of its pages for the first time again: 0.1 ms a megabyte, a
    quarter of a training step on a graph of a million edges. After this call freed memory stays with the process until
    it ends, and programs run in the thread that calls them: the main thread's memory is a single region that can grow.
    So JAX returns when a program is done, and work on the host overlaps with it only in another thread.

    Call it in the main thread, before anything is computed; libraries should leave it to whoever writes the program.

    **Returns:** whether anything changed: False where the C library is not glibc (macOS, Windows, musl).

    **Raises:** `RuntimeError` if JAX has computed something already, or arrays exist: its threads are there by then.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    count = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    try:  # an option that JAX refuses to change once its devices are in use
        jax.config.update("jax_num_cpu_devices", 2 if count == 1 else 1)
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise RuntimeError(
            "`keep_freed_memory` must be called before JAX makes an array or computes anything; got devices in use. "
            "Call it right after the imports."
        ) from error
    libc = ctypes.CDLL(None)
    kept = all(libc.mallopt(parameter, value) for parameter, value in _SETTINGS)
    if kept:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return kept
