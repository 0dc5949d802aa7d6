"""Compiling before the first call, in the background, and keeping compiled programs between processes."""

import concurrent.futures as cf
import os
import pathlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from ._select import is_array


_ARRAYS = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


class Compiled:
    """A function compiled for one set of shapes, dtypes and static values; made by `compile_ahead`."""

    def __init__(self, executable: Any, fn_arrays: Any, example: tuple[Any, ...], static_out: list[Any]):
        self._executable, self._fn_arrays, self._example, self._static_out = executable, fn_arrays, example, static_out
        leaves, self._treedef = jtu.tree_flatten(example)
        self._signature = _signature(leaves)

    def __call__(self, *args: Any) -> Any:
        """The compiled function.

        **Raises:** `ValueError` naming the argument if a structure, shape, dtype or static value is not the one
        compiled for.
        """
        leaves, treedef = jtu.tree_flatten(args)
        if treedef != self._treedef or _signature(leaves) != self._signature:
            _raise_difference(self._example, args)
        arrays = self._executable(self._fn_arrays, [leaf for leaf in leaves if isinstance(leaf, _ARRAYS)])
        return eqx.combine(arrays, self._static_out[0])

    def memory_in_bytes(self) -> int:
        """Temporary memory of one call, as planned by the compiler."""
        return self._executable.memory_analysis().temp_size_in_bytes

    def as_text(self) -> str:
        """The optimised program."""
        return self._executable.as_text()


def compile_ahead(fn: Callable, *example_args: Any) -> cf.Future[Compiled]:
    """Trace `fn` now, compile it in a background thread, and hand out the result as a future.

    **Arguments:**

    - `fn`: any function or callable module of positional arguments; not jitted. The arrays inside it are those it has
      now.
    - `example_args`: arrays or `jax.ShapeDtypeStruct`s, which stand for any values of their shape and dtype (a model's
      from `eqx.filter_eval_shape`), and everything else (functions, numbers, strings), which is compiled in.

    **Returns:** a `concurrent.futures.Future` of a `Compiled`: `future.result()` waits, `future.done()` asks,
    `await asyncio.wrap_future(future)` works too.

    **Raises:** what tracing raises, at once; compile errors come with `future.result()`. The compiled function raises
    `ValueError` for arguments it was not compiled for. (Calling `eqx.filter_jit(fn).lower(...).compile()` with another
    static value returns the result for the old one.)

    !!! note
        Tracing is Python and stays on the caller's thread, with its configuration (`jax.enable_x64`, meshes); XLA's
        compilation, most of the time, runs without Python's lock.
    """
    fn_arrays, fn_static = eqx.partition(fn, eqx.is_array)
    leaves, treedef = jtu.tree_flatten(example_args)
    static_out: list[Any] = []

    def run(fn_arrays: Any, arrays: list[Any]) -> Any:
        rest = iter(arrays)
        args = jtu.tree_unflatten(treedef, [next(rest) if is_array(leaf) else leaf for leaf in leaves])
        out = eqx.combine(fn_arrays, fn_static)(*args)
        out_arrays, out_static = eqx.partition(out, eqx.is_array)
        static_out.append(out_static)
        return out_arrays

    lowered = jax.jit(run).lower(fn_arrays, [leaf for leaf in leaves if is_array(leaf)])
    executor = cf.ThreadPoolExecutor(max_workers=1, thread_name_prefix="compile_ahead")
    future = executor.submit(lambda: Compiled(lowered.compile(), fn_arrays, _shapes(example_args), static_out))
    executor.shutdown(wait=False)
    return future


def enable_compilation_cache(path: str | os.PathLike, *, min_compile_seconds: float | int = 0.5) -> None:
    """Keep compiled programs under `path`, so that the next process with the same program starts without compiling.

    A switch for the whole process, like all of `jax.config`; it may be set at any time, for what is compiled after it.

    **Arguments:**

    - `path`: a directory, made if missing. Its entries depend on the versions of JAX and of the driver and are
      never deleted: put it where it may grow, and may be deleted.
    - `min_compile_seconds`: programs that compile faster are not kept.

    **Raises:** `ValueError` if `path` cannot be a directory or `min_compile_seconds` is negative.
    """
    if min_compile_seconds < 0:
        raise ValueError(f"`min_compile_seconds` must not be negative; got {min_compile_seconds}.")
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"`path` must be a directory that can be made; got {os.fspath(path)!r} ({error}).") from error
    jax.config.update("jax_compilation_cache_dir", os.fspath(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_compile_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # Otherwise JAX stays with the directory of the first compilation.


def _signature(leaves: list[Any]) -> list[Any]:
    """Shape and dtype of arrays, type and value of the rest."""
    # At every call and over every leaf: no call of a checked function here.
    return [(leaf.shape, leaf.dtype) if isinstance(leaf, _ARRAYS) else (type(leaf), leaf) for leaf in leaves]


def _raise_difference(expected: tuple[Any, ...], got: tuple[Any, ...]) -> None:
    """The `ValueError` naming the first argument whose structure, shape, dtype or static value differs."""
    if len(expected) != len(got):
        raise ValueError(f"The function was compiled for {len(expected)} arguments; got {len(got)}.")
    for number, (old, new) in enumerate(zip(expected, got, strict=True)):
        old_leaves, old_tree = jtu.tree_flatten_with_path(old)
        new_leaves, new_tree = jtu.tree_flatten_with_path(new)
        if old_tree != new_tree:
            raise ValueError(
                f"Argument {number} has another structure, or other static fields, than the one the function was "
                f"compiled for: {_shorten(str(new_tree))} instead of {_shorten(str(old_tree))}. Compile again for it."
            )
        for (path, old_leaf), (_, new_leaf) in zip(old_leaves, new_leaves, strict=True):
            if _signature([old_leaf]) != _signature([new_leaf]):
                where = f"{number}{jtu.keystr(path)}"
                raise ValueError(
                    f"Argument {where} was {_describe(old_leaf)} when the function was compiled; got "
                    f"{_describe(new_leaf)}. Compile again for it, or pass what varies as an array."
                )


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}" if is_array(leaf) else f"the static value {leaf!r}"


def _shapes(tree: Any) -> Any:
    to_shape = lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) if eqx.is_array(leaf) else leaf  # noqa: E731
    return jtu.tree_map(to_shape, tree)


def _shorten(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[:limit] + "..."
