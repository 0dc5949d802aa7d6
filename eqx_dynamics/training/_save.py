"""A model in one file."""

import json
import os
import zlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from .._extras import need
from ._leaves import CheckpointError, from_named, to_json, to_named


_FORMAT = "eqx_dynamics.model.1"


def save_model(path: str | os.PathLike, model: PyTree, config: Any = None) -> None:
    """Write the arrays of `model` to one file: a line of JSON (config, names, shapes, checksum), then the bytes.

    The file appears whole or not at all. Typed PRNG keys, bfloat16 and Python numbers in the model are kept; functions
    are not stored, the structure given to `load_model` brings them.

    **Arguments:**

    - `path`: file to write.
    - `model`: any pytree.
    - `config`: anything JSON can hold: what is needed to build the model anew.

    **Raises:** `TypeError` if `config` is not JSON; `ValueError` if two leaves have one name.
    """
    arrays = {name: np.asarray(array) for name, array in to_named(model).items()}
    body = b"".join(array.tobytes() for array in arrays.values())
    header = {
        "format": _FORMAT,
        "config": json.loads(to_json(config)),
        "leaves": {name: [list(array.shape), array.dtype.name] for name, array in arrays.items()},
        "numbers": _numbers(model),
        "bytes": len(body),
        "crc32": zlib.crc32(body),
    }
    _write_whole(path, json.dumps(header).encode() + b"\n" + body)


def load_config(path: str | os.PathLike) -> Any:
    """The `config` in a file that `save_model` wrote."""
    with open(path, "rb") as file:
        return _header(file.readline(), path)["config"]


def load_model(path: str | os.PathLike, like: PyTree | Callable[[Any], PyTree]) -> Any:
    """Read what `save_model` wrote.

    **Arguments:**

    - `path`: the file.
    - `like`: a model of the same structure (its arrays may be `jax.ShapeDtypeStruct`s), or a plain function that makes
      one from the stored config; it is only traced.

    **Returns:** the model.

    **Raises:** `CheckpointError` naming the file and the leaf if the file is damaged or holds another model.
    """
    with open(path, "rb") as file:
        header, body = _header(file.readline(), path), file.read()
    source = f"`{os.fspath(path)}`"
    if len(body) != header["bytes"] or zlib.crc32(body) != header["crc32"]:
        raise CheckpointError(f"{source} is damaged: {len(body)} bytes of {header['bytes']}, or wrong ones.")
    if callable(like) and not isinstance(like, eqx.Module):
        like = eqx.filter_eval_shape(like, header["config"])
    arrays, start = {}, 0
    for name, (shape, dtype) in header["leaves"].items():
        kind = jax.numpy.dtype(dtype)
        count = int(np.prod(shape, dtype=int))
        arrays[name] = np.frombuffer(body, kind, count, start).reshape(shape)
        start += count * kind.itemsize
    return _with_numbers(from_named(like, arrays, source=source), header["numbers"], source)


def save_safetensors(path: str | os.PathLike, model: PyTree, metadata: dict[str, str] | None = None) -> None:
    """Write the arrays of `model` by path (`layers.0.weight`) in the safetensors format; typed keys as their data.

    **Arguments:** `path` of the file, which appears whole or not at all; `model`: any pytree; `metadata`: strings to
    store beside it.

    **Raises:** `ImportError` naming the extra `train`; `ValueError` if two leaves have one name.
    """
    numpy_format = need("safetensors.numpy", extra="train", user="save_safetensors")
    arrays = {name: np.asarray(array, order="C") for name, array in to_named(model).items()}
    _write_whole(path, numpy_format.save(arrays, metadata))


def load_safetensors(path: str | os.PathLike, like: PyTree) -> Any:
    """`like` with the arrays of a safetensors file, matched by path.

    **Arguments:** `path` of the file; `like`: a model of its structure, whose arrays may be `jax.ShapeDtypeStruct`s.

    **Raises:** `CheckpointError` naming the leaf that does not fit; `ImportError` naming the extra `train`.
    """
    library = need("safetensors", extra="train", user="load_safetensors")
    with open(path, "rb") as file:
        content = file.read()
    try:
        entries = library.deserialize(content)
    except library.SafetensorError as error:
        raise CheckpointError(f"`{os.fspath(path)}` is not a readable safetensors file: {error}.") from error
    arrays = {
        name: np.frombuffer(entry["data"], _safetensors_dtype(entry["dtype"])).reshape(entry["shape"])
        for name, entry in entries
    }
    return from_named(like, arrays, source=f"`{os.fspath(path)}`")


def _safetensors_dtype(name: str) -> np.dtype:
    """`BF16` to bfloat16, `F32` to float32, `I64` to int64, ..."""
    kind, bits = name.rstrip("0123456789"), name.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    words = {"BF": "bfloat", "F": "float", "I": "int", "U": "uint", "BOOL": "bool"}
    if kind not in words or "_" in name:
        raise CheckpointError(f"The safetensors dtype {name} is not supported.")
    return np.dtype(jax.numpy.dtype(words[kind] + bits))


def _header(line: bytes, path: str | os.PathLike) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise CheckpointError(f"`{os.fspath(path)}` was not written by `save_model`.")
    return header


def _write_whole(path: str | os.PathLike, content: bytes) -> None:
    partial = f"{os.fspath(path)}.partial"
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _numbers(tree: PyTree) -> dict[str, Any]:
    named = ((jtu.keystr(p, simple=True, separator="."), leaf) for p, leaf in jtu.tree_leaves_with_path(tree))
    return {name: leaf for name, leaf in named if isinstance(leaf, bool | int | float)}


def _with_numbers(tree: PyTree, numbers: dict[str, Any], source: str) -> PyTree:
    if set(numbers) != set(_numbers(tree)):
        odd = sorted(set(numbers) ^ set(_numbers(tree)))
        raise CheckpointError(f"{source} and the given structure differ in the numbers {odd}.")

    def put(path: Any, leaf: Any) -> Any:
        name = jtu.keystr(path, simple=True, separator=".")
        return type(leaf)(numbers[name]) if isinstance(leaf, bool | int | float) else leaf

    return jtu.tree_map_with_path(put, tree)
