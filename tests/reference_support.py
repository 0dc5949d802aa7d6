"""Reading reference cases: folders of `manifest.json` + NPZ files with numbers that other libraries computed."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np


class Key(NamedTuple):
    """Stands in a call's arguments for the input array of this name."""

    name: str


class Case(NamedTuple):
    """One call: arguments with `Key`s for arrays, and what the other library computed."""

    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: dict[str, np.ndarray]
    call: str | None
    mode: str
    out: dict[str, np.ndarray]
    cot: dict[str, np.ndarray]
    grad_inputs: dict[str, np.ndarray]
    grad_state: dict[str, np.ndarray]
    post: dict[str, np.ndarray]


class Entry(NamedTuple):
    """One configuration of a class (or a function), with its state dict and its calls."""

    name: str
    kind: str
    target: str
    ctor: dict[str, Any]
    state: dict[str, np.ndarray]
    cases: tuple[Case, ...]

    @property
    def class_name(self) -> str:
        return self.target.rpartition(".")[2]


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Entries by name; keys that start with an underscore hold versions and notes."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return {name: entry for name, entry in manifest.items() if not name.startswith("_")}


def read_entry(folder: pathlib.Path, name: str, spec: dict[str, Any]) -> Entry:
    """An entry of a PyG reference folder; floats as stored (float64 values that float32 holds exactly)."""
    with np.load(folder / spec["file"]) as file:
        arrays = {key: _double(file[key]) for key in file.files}
    cases = []
    for i, case in enumerate(spec["cases"]):
        prefix = f"in.{case['graph']}."
        inputs = _under(arrays, prefix)
        args = tuple(_argument(a, inputs) for a in case["args"])
        kwargs = {k: _argument(a, inputs) for k, a in case["kwargs"].items()}
        parts = [_under(arrays, f"c{i}.{part}.") for part in ("out", "cot", "gin", "gp", "post")]
        cases.append(Case(i, args, kwargs, inputs, case["call"], case["mode"], *parts))
    return Entry(name, spec["kind"], spec["target"], spec["ctor"] or {}, _under(arrays, "state."), tuple(cases))


def _double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


def _argument(spec: Any, inputs: dict[str, np.ndarray]) -> Any:
    """`"@x"` -> Key or a plain number; `{"tuple": [...]}`; `{"row": [name, i]}`; anything else as it is."""
    if isinstance(spec, dict) and set(spec) == {"tuple"}:
        return tuple(_argument(item, inputs) for item in spec["tuple"])
    if isinstance(spec, dict) and set(spec) == {"row"}:
        name, row = spec["row"]
        inputs[f"{name}[{row}]"] = inputs[name][row]
        return Key(f"{name}[{row}]")
    if not (isinstance(spec, str) and spec.startswith("@")):
        return spec
    name = spec[1:]
    if name in inputs:
        return inputs[name].item() if inputs[name].ndim == 0 else Key(name)
    below = {key[len(name) + 1 :]: Key(key) for key in inputs if key.startswith(name + ".")}
    if below and all(key.isdigit() for key in below):
        return [below[str(i)] for i in range(len(below))]
    return {tuple(key.split("__")) if "__" in key else key: value for key, value in below.items()}
