"""Programs that outlive the code that made them: StableHLO in bytes, reloaded without the model's classes."""

import contextlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.export as jax_export
import jax.numpy as jnp
import jax.tree_util as jtu
import jaxtyping

from .._extras import need
from ._select import is_array, leaf_paths


_MAGIC = b"eqx_dynamics exported function 1\n"


class Exported:
    """A function read back by `load_exported`."""

    def __init__(self, program: Any, arrays: list[str], static: dict[str, str]):
        self._program, self._arrays, self._static = program, arrays, static

    def __call__(self, *args: Any) -> Any:
        """The exported function; under `jax.jit`, `jax.vmap` by loop, and `jax.grad` as often as it was exported for.

        **Raises:** `ValueError` if the arguments have not the arrays, shapes and static values of the exported ones.
        """
        arrays, static = _layout(args)
        if arrays != self._arrays or static != self._static:
            raise ValueError(
                f"The function was exported for the arrays {self._arrays} and static values {self._static}; "
                f"got {arrays} and {static}."
            )
        try:
            return self._program.call(*[jnp.asarray(leaf) for leaf in jtu.tree_leaves(args) if eqx.is_array(leaf)])
        except ValueError as error:  # JAX numbers the flat arrays; their paths say more.
            message = re.sub(r"args\[(\d+)\]", lambda match: f"argument {self._arrays[int(match[1])]}", str(error))
            raise ValueError(message) from error


def symbolic_sizes(names: str) -> tuple[Any, ...]:
    """Sizes left open by `export`: `batch, nodes = symbolic_sizes("batch, nodes")`, for `jax.ShapeDtypeStruct` shapes.

    Make all that one function uses in one call. Each stands for 1 to $2^{31} - 1$, what 32-bit indices reach. Linear
    relations between them can be written: `"nodes, nodes + 1, 2*edges"`.
    """
    variables = set(re.findall(r"[A-Za-z_]\w*", names)) - {"mod", "floordiv", "max", "min"}
    return tuple(jax_export.symbolic_shape(names, constraints=[f"{name} <= {2**31 - 1}" for name in sorted(variables)]))


def export(fn: Callable, *example_args: Any, gradients: int = 1, platforms: tuple[str, ...] | None = None) -> bytes:
    """Trace and lower `fn` to portable, versioned StableHLO.

    **Arguments:**

    - `fn`: function or callable module of positional arguments. The arrays inside it become constants of the program;
      a model whose weights are to stay free (or to be differentiated by) goes into `example_args`.
    - `example_args`: arrays or `jax.ShapeDtypeStruct`s, whose shapes may contain `symbolic_sizes`; everything else is
      compiled in.
    - `gradients`: how often the reloaded function can be differentiated in reverse mode.
    - `platforms`: such as `("cpu", "cuda", "tpu")`; default the current one.

    **Returns:** bytes for `load_exported`. Needs the extra `export`.

    **Raises:** `ValueError` if `fn` returns anything but arrays in tuples, lists and dicts, or contains a call back
    into Python. A run-time check (`eqx.error_if`, `throw=True`) is one: start the exporting process with the
    environment variable `EQX_ON_ERROR=off`, which leaves the checks out, or `EQX_ON_ERROR=nan`, which keeps them as
    NaN results.
    """
    need("flatbuffers", extra="export", user="export")
    leaves, treedef = jtu.tree_flatten(example_args)
    positions = [i for i, leaf in enumerate(leaves) if is_array(leaf)]

    def flat(*arrays: Any) -> Any:
        new = list(leaves)
        for position, array in zip(positions, arrays, strict=True):
            new[position] = array
        out = fn(*jtu.tree_unflatten(treedef, new))
        _check_output(out)
        return out

    shapes = [jax.ShapeDtypeStruct(leaves[i].shape, leaves[i].dtype) for i in positions]
    arrays, static = _layout(example_args)
    try:
        with _unchecked(shapes):
            program = jax_export.export(jax.jit(flat), platforms=platforms)(*shapes)
        body = bytes(program.serialize(vjp_order=gradients))
    except NotImplementedError as error:
        raise ValueError(
            f"`fn` calls back into Python, which cannot be exported ({error}). Take callbacks and prints out; run-time "
            "checks (`eqx.error_if`, `throw=True`) are left out if the exporting process is started with "
            "EQX_ON_ERROR=off, or become NaN results with EQX_ON_ERROR=nan."
        ) from error
    header = json.dumps({"arrays": arrays, "static": static, "crc32": zlib.crc32(body)}).encode()
    return _MAGIC + header + b"\n" + body


def load_exported(data: bytes) -> Exported:
    """The function that `export` wrote, in any process with JAX, on the platforms it was exported for.

    **Raises:** `ValueError` if `data` is not from `export`, or damaged.
    """
    if not data.startswith(_MAGIC):
        raise ValueError(f"`data` must come from `export`; got {len(data)} bytes starting with {data[:16]!r}.")
    need("flatbuffers", extra="export", user="load_exported")
    header, _, program = data[len(_MAGIC) :].partition(b"\n")
    try:
        layout = json.loads(header)
    except ValueError:
        layout = {}
    if layout.get("crc32") != zlib.crc32(program):
        raise ValueError(f"`data` is damaged: its {len(data)} bytes are not those that `export` wrote.")
    return Exported(jax_export.deserialize(bytearray(program)), layout["arrays"], layout["static"])


@contextlib.contextmanager
def _unchecked(shapes: list[jax.ShapeDtypeStruct]) -> Iterator[None]:
    """No run-time type checks while a function is traced with open sizes, which are no `int`s to them."""
    before = jaxtyping.config.jaxtyping_disable
    open_sizes = any(not isinstance(size, int) for shape in shapes for size in shape.shape)
    try:
        jaxtyping.config.update("jaxtyping_disable", before or open_sizes)
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def _layout(args: tuple[Any, ...]) -> tuple[list[str], dict[str, str]]:
    """Paths of the arrays, and the other leaves as text (functions by their name)."""
    arrays: list[str] = []
    static: dict[str, str] = {}
    for path, leaf in zip(leaf_paths(args), jtu.tree_leaves(args), strict=True):
        if is_array(leaf):
            arrays.append(path)
        else:
            static[path] = getattr(leaf, "__qualname__", getattr(leaf, "__name__", None)) or repr(leaf)
    return arrays, static


def _check_output(out: Any) -> None:
    if isinstance(out, (tuple, list)) and type(out) in (tuple, list):
        for child in out:
            _check_output(child)
    elif type(out) is dict:
        for child in out.values():
            _check_output(child)
    elif out is not None and not eqx.is_array_like(out):
        raise ValueError(
            f"`fn` must return arrays in tuples, lists and dicts to be exported; got a {type(out).__name__}. "
            "Return its arrays."
        )
