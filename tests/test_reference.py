"""Numbers that other libraries computed, class by class.

    pytest tests/test_reference.py --reference-dir DIR --snn-reference DIR --tidhy-reference FILE

runs other folders of the same formats; by default the copies under `tests/reference` run. A class that the package
lacks is skipped by name; one that it has and that cannot be built, called or loaded fails.
"""

import functools as ft
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import reference_snn
import reference_tidhy
from eqx_graph.interop import load_torch_state_dict
from reference_support import Case, Entry, read_entry, read_manifest
from reference_support_build import NotInPackage, build, find_class, flatten_output, resolve
from reference_support_calls import FUNCTIONS, call, is_surplus


pytestmark = pytest.mark.usefixtures("light_compilation")
HERE = pathlib.Path(__file__).parent / "reference"
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pyg_run" in metafunc.fixturenames:
        folder, names = _cases(metafunc.config, "pyg", "--reference-dir", "target")
        kept = set(names)
        if folder == HERE / "pyg":  # float32 asks whether a class keeps its type: of the copies here one entry each
            kept = set({name.split("-")[0]: name for name in reversed(names)}.values())
        runs = [(folder, name, dtype) for name in names for dtype in TOLERANCE if dtype == "float64" or name in kept]
        metafunc.parametrize("pyg_run", runs, ids=[f"{name}-{dtype}" for _, name, dtype in runs])
    if "snn_entry" in metafunc.fixturenames:
        folder, names = _cases(metafunc.config, "snn", "--snn-reference", "lib")
        metafunc.parametrize("snn_entry", [(folder, name) for name in names], ids=names)
    if "tidhy_check" in metafunc.fixturenames:
        given = metafunc.config.getoption("--tidhy-reference")
        files = [pathlib.Path(given)] if given else sorted((HERE / "tidhy").glob("*.npz"))
        checks = [
            (f"{file.stem}-{name}", check) for file in files for name, check in reference_tidhy.cases(np.load(file))
        ]
        metafunc.parametrize("tidhy_check", [check for _, check in checks], ids=[name for name, _ in checks])


def _cases(config: pytest.Config, kind: str, option: str, field: str) -> tuple[pathlib.Path, list[str]]:
    """The folder of one kind of case and the names in it: those whose manifest entries have `field`.

    `--reference-dir` takes a folder of either kind.
    """
    given = config.getoption(option)
    folders = [given] if given else [folder for folder in (config.getoption("--reference-dir"), HERE / kind) if folder]
    for folder in map(pathlib.Path, folders):
        manifest = read_manifest(folder) if (folder / "manifest.json").exists() else {}
        names = [name for name, entry in manifest.items() if isinstance(entry, dict) and field in entry]
        if names:
            return folder, names
    return pathlib.Path(folders[0]), []


@ft.lru_cache(maxsize=64)
def _read(folder: pathlib.Path, name: str) -> Entry:
    return read_entry(folder, name, read_manifest(folder)[name])


def test_pyg(pyg_run: tuple[pathlib.Path, str, str]) -> None:
    folder, name, dtype = pyg_run
    entry = _read(folder, name)
    try:
        _require(entry)
        with jax.enable_x64(dtype == "float64"):
            problems = _compare(entry, entry.cases, dtype)
    except NotInPackage as missing:
        pytest.skip(f"eqx_graph has no {missing}")
    assert not problems, "\n".join(problems)


def _require(entry: Entry) -> None:
    if entry.kind == "module":
        find_class(entry.class_name)
    elif entry.target not in FUNCTIONS:
        raise NotInPackage(entry.target.removeprefix("torch_geometric."))


def _compare(entry: Entry, cases: Sequence[Case], dtype: str) -> list[str]:
    trainable = {name for case in cases for name in case.grad_state}
    state = {k: _cast(v, dtype) for k, v in entry.state.items() if not is_surplus(entry, k)}
    params = {name: value for name, value in state.items() if name in trainable}
    buffers = {name: value for name, value in state.items() if name not in trainable}
    inputs = [{name: _cast(value, dtype) for name, value in case.inputs.items()} for case in cases]
    # Functions may return arrays whose sizes depend on the integers they are given, so those are not traced.
    known = [_integers(arrays) if entry.kind == "function" else {} for arrays in inputs]

    def run(case: Case, params: dict[str, Any], inputs: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Outputs, and running statistics after the call: ours and the reference's."""
        args, kwargs = resolve(case.args, inputs), resolve(case.kwargs, inputs)
        if entry.kind != "module":
            return flatten_output(FUNCTIONS[entry.target](*args, **kwargs)), []
        module = load_torch_state_dict(build(entry, case, jr.key(0)), buffers | params)
        out, after = call(module, case, args, kwargs)
        if not case.post:
            return flatten_output(out), []
        post = {name: _cast(value, dtype) for name, value in case.post.items()}
        return flatten_output(out), [_leaves(after), _leaves(load_torch_state_dict(module, state | post))]

    def loss(params, floats, case: Case, inputs):
        out, statistics = run(case, params, inputs | floats)
        parts = [jnp.sum(out[path] * _cast(cot, dtype)) for path, cot in case.cot.items()]
        return sum(parts, start=jnp.zeros(())), (out, statistics)

    def merged(inputs):
        return [arrays | integers for arrays, integers in zip(inputs, known, strict=True)]

    @eqx.filter_jit
    def compute(params, inputs):
        results = []
        for case, arrays in zip(cases, merged(inputs), strict=True):
            floats = {name: arrays[name] for name in case.grad_inputs}
            grads, aux = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, floats, case, arrays)
            results.append((*aux, grads[1], {name: grads[0][name] for name in case.grad_state}))
        return results

    problems: list[str] = []
    for case, (out, statistics, grad_inputs, grad_state) in zip(cases, compute(params, inputs), strict=True):
        kept, kept_there = statistics or ({}, {})
        for what, got, want in (
            ("output", out, case.out),
            ("state after the call", kept, {name: np.asarray(value) for name, value in kept_there.items()}),
            ("gradient of input", grad_inputs, case.grad_inputs),
            ("gradient of parameter", grad_state, case.grad_state),
        ):
            problems += [
                f"case {case.number} (graph of {case.args}): {what} {name}: {problem}"
                for name in want
                if (problem := _difference(got.get(name), want[name], dtype))
            ]
    return problems


def _leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _integers(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if array.dtype.kind != "f"}


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    """Floats as `dtype`, integers as wide."""
    return array.astype({"f": dtype, "i": dtype.replace("float", "int")}.get(array.dtype.kind, array.dtype))


def _difference(got: Any, want: np.ndarray, dtype: str) -> str | None:
    if got is None:
        return "is not returned"
    got = np.asarray(got)
    if got.shape != want.shape:
        return f"shape {got.shape}, reference {want.shape}"
    if want.dtype.kind != "f":
        return None if np.array_equal(got, want) else f"got {got.tolist()}, reference {want.tolist()}"
    if got.dtype != dtype:
        return f"dtype {got.dtype} from {dtype} inputs"
    excess = np.abs(got - want) - TOLERANCE[dtype] * (1 + np.abs(want))
    if np.all(excess <= 0):  # NaN on either side fails
        return None
    return f"largest difference {np.nanmax(np.abs(got - want)):.2e} ({int((~(excess <= 0)).sum())} of {want.size})"


def test_snn(snn_entry: tuple[pathlib.Path, str]) -> None:
    folder, name = snn_entry
    entry = read_manifest(folder)[name]
    with np.load(folder / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    run = reference_snn.build(name, entry, arrays)
    if run is None:
        pytest.skip(f"eqx_dynamics has no {entry['lib']} ({name})")
    params = {key[2:]: value for key, value in arrays.items() if key.startswith("p_")}

    def loss(params):
        out = run(params)
        spikes, membrane = out["spk"], out[f"s_{entry['mem_key']}"]
        amount, weight = (arrays[key].astype(spikes.dtype) for key in ("A", "C"))
        return jnp.sum(amount * spikes) + jnp.sum(weight * membrane), out

    def compute(params):
        (value, out), grads = eqx.filter_jit(jax.value_and_grad(loss, has_aux=True))(params)
        return out | {"loss": value} | {f"g_{key}": grad for key, grad in grads.items()}

    out = compute(params) if params else eqx.filter_jit(run)(params)
    compared = [key for key in arrays if key[:2] in ("s_", "g_") or key in ("spk", "loss")] if params else sorted(out)
    assert compared, "`build` must return a function with at least one output to compare"
    # Where a library's own numbers are NaN (an overflow in its gradient) there is nothing to compare with.
    compared = [key for key in compared if np.isfinite(arrays[key]).all()]
    terms = [arrays["A"] * arrays["spk"], arrays["C"] * arrays[f"s_{entry['mem_key']}"]] if params else []
    rounding = {"loss": float(np.finfo(np.float32).eps * sum(np.abs(term).sum() for term in terms))}

    def differences():
        found = {key: _snn_difference(key, out[key], arrays[key], rounding.get(key, 0.0)) for key in compared}
        return [f"{key}: {problem}" for key, problem in found.items() if problem]

    if params and differences():
        # Spikes of a quadratic upstroke magnify rounding: as much as float32 loses here, the library may lose too.
        with jax.enable_x64(True):
            exact = compute({key: value.astype(np.float64) for key, value in params.items()})
        if np.array_equal(exact["spk"], out["spk"]):
            lost = {key: float(np.max(np.abs(np.asarray(exact[key]) - np.asarray(out[key])))) for key in compared}
            rounding |= {key: 2 * value for key, value in lost.items()}
    problems = differences()
    assert not problems, "\n".join(problems)


def _snn_difference(key: str, got: Any, want: np.ndarray, rounding: float) -> str | None:
    """Spikes exactly, states to 1e-5, gradients and losses to 1e-4, relative to the largest entry above 1; and what
    float32 loses: where a loss sums terms that cancel, and where a trajectory magnifies its own rounding."""
    got = np.asarray(got)
    if got.shape != want.shape:
        return f"shape {got.shape}, reference {want.shape}"
    is_binary = np.isin(want, (0, 1)).all()  # readouts put out their membrane as `spk`
    tolerance = 0.0 if key == "spk" and is_binary else 1e-5 if key.startswith("s") else 1e-4
    worst = np.max(np.abs(got - want), initial=0.0)
    allowed = tolerance * max(1.0, float(np.max(np.abs(want), initial=0.0))) + rounding
    return None if worst <= allowed else f"largest difference {worst:.2e}, allowed {allowed:.2e}"


def test_tidhy(tidhy_check: Callable[[], list[str]]) -> None:
    problems = tidhy_check()
    assert not problems, "\n".join(problems)
