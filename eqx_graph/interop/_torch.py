"""Weights trained in PyTorch into Equinox modules: which state-dict entries fill which leaf, and what does not fit."""

import dataclasses
import functools as ft
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..nn.conv import GATv2Conv
from ..nn.norm import BatchNorm, InstanceNorm
from ..nn.norm._batch import RunningStatistics


Module = TypeVar("Module", bound=eqx.Module)
_Where = Callable[[Any], Any]
_Path = tuple[str, ...]

# Constants of a layer that may be arrays here; torch keeps them out of its state.
_CONSTANTS = ("fill_value", "negative_slope")
# torch.nn.BatchNorm's count of batches changes no output.
_NO_HOME = "num_batches_tracked"
# eqx.nn.BatchNorm(mode="batch") divides by 1 - momentum**count: this count makes it use loaded statistics as they are.
_DEBIASED = 2**30
_LOST_STATE = (
    "`module` has lost the initial state of its BatchNorm at {!r}, where running statistics are loaded. "
    "Load first: `eqx.nn.make_with_state(lambda: load_torch_state_dict(Model(...), state_dict))()`."
)


class _Entry(NamedTuple):
    """One leaf of the module: the state-dict entries that fill it (name -> shape), and how they become its value.

    Without `where` the entries repeat a leaf that others fill: torch saves shared weights under every name.
    """

    where: _Where | None
    parts: dict[str, tuple[int, ...]]
    convert: Callable[..., Any]
    required: bool = True


def load_torch_state_dict(module: Module, state_dict: Mapping[str, Any], *, strict: bool = True) -> Module:
    """A copy of `module` whose weights are those of a PyTorch (or PyTorch Geometric) state dict.

    Keys follow the module's attributes, list indices and dict keys, joined by dots: `convs.0.lin.weight` fills
    `module.convs[0].lin.weight`. `torch.nn.Linear` and `eqx.nn.Linear` both store `(out, in)`: nothing is transposed.
    Where the libraries differ the entries are converted:

    | Equinox | state dict |
    |---|---|
    | `eqx.nn.Sequential` | position in the Sequential, activations counted: `nn.0.weight`, `nn.2.weight` |
    | `eqx.nn.MLP` | its linear layers in order, whatever the numbers (`0, 2, 4` or `lins.0, lins.1`) |
    | `eqx.nn.GRUCell`, `eqx.nn.LSTMCell` | `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`, with or without `_l0` |
    | a list of these | the same, with `_l0`, `_l1`, ..., in one module |
    | `eqx.nn.MultiheadAttention` | `in_proj_weight`, `in_proj_bias`, `out_proj.weight`, `out_proj.bias` |
    | `BatchNorm`, `eqx.nn.BatchNorm` | `weight`, `bias`, `running_mean`, `running_var` |
    | `eqx.nn.PReLU` | `weight` |
    | a Python float (`GINConv.eps`) | a tensor of one number; it stays a float, and so stays out of training |
    | a dict with tuple keys | `a__to__b` or `<a___to___b>` |

    **Arguments:**

    - `module`: any `eqx.Module`, built with the constructor arguments that the weights were trained with; its shapes
        are enough (`eqx.filter_eval_shape`). With `eqx.nn.BatchNorm` it must still hold its initial state: load inside
        the function that is given to `eqx.nn.make_with_state`.
    - `state_dict`: name -> array (NumPy or JAX): `{k: v.cpu().numpy() for k, v in model.state_dict().items()}`.
    - `strict`: raise for missing and unexpected entries. If False they are skipped; shapes are checked in any case.

    **Returns:** a new module, `module` is not changed. Loaded arrays keep the state dict's dtype (float64 becomes
    float32 unless `jax_enable_x64` is set) and the module's shape; axes of length one in front or behind may differ.

    **Raises:** one `ValueError` naming every missing, unexpected and ill-shaped entry; `TypeError` for a value that is
    not an array.

    !!! note
        Differentiable: gradients with respect to the state dict's arrays are those with respect to torch's parameters.

    ??? cite "Reference"
        Gate orders and biases: `torch.nn.GRU`, `torch.nn.LSTM` and `torch.nn.MultiheadAttention`, PyTorch 2.13
        documentation. Torch adds two biases per gate where Equinox has one (GRU: all but the new gate's).
    """
    for name, value in state_dict.items():
        if not isinstance(value, (np.ndarray, np.generic, jax.Array)):
            raise TypeError(
                f"`state_dict[{name!r}]` must be a NumPy or JAX array; got {type(value).__module__}."
                f"{type(value).__name__}. Convert torch tensors with `tensor.detach().cpu().numpy()`."
            )
    entries = list(_entries(module, (), lambda m: m, frozenset(state_dict)))
    loaded = [entry for entry in entries if entry.parts.keys() <= state_dict.keys()]
    _check(type(module).__name__, entries, loaded, state_dict, strict)
    filled = [(entry.where, entry) for entry in loaded if entry.where is not None]
    if not filled:
        return module
    values = [entry.convert(*(state_dict[name] for name in entry.parts)) for _, entry in filled]
    return eqx.tree_at(lambda m: [where(m) for where, _ in filled], module, values)


def _check(
    module_name: str, entries: list[_Entry], loaded: list[_Entry], state_dict: Mapping[str, Any], strict: bool
) -> None:
    known = {name for entry in entries for name in entry.parts}
    required = {name for entry in entries if entry.required for name in entry.parts}
    problems = []
    if strict and (missing := sorted(required - state_dict.keys())):
        problems.append(f"missing {missing}")
    if strict and (unexpected := sorted(n for n in state_dict.keys() - known if n.rpartition(".")[2] != _NO_HOME)):
        problems.append(f"unexpected {unexpected}")
    for entry in loaded:
        for name, shape in entry.parts.items():
            if not _same_up_to_ones(state_dict[name].shape, shape):
                problems.append(f"{name!r} has shape {state_dict[name].shape}, the module needs {shape}")
    if problems:
        raise ValueError(
            f"`state_dict` does not fit this {module_name}: {'; '.join(problems)}. Build the module with the arguments "
            "the weights were trained with; `strict=False` skips missing and unexpected entries."
        )


def _same_up_to_ones(got: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether one shape is the other with axes of length one added in front or behind."""
    short, long = sorted((tuple(got), tuple(wanted)), key=len)
    ones = (1,) * (len(long) - len(short))
    return long in (ones + short, short + ones)


@ft.singledispatch
def _entries(node: Any, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    """The leaves under `node`; `names` (all keys of the state dict) settles conventions that leave a choice."""
    if isinstance(node, jax.Array | np.ndarray | jax.ShapeDtypeStruct):  # a tracer's type cannot be registered
        is_constant = bool(path) and path[-1] in _CONSTANTS
        required = bool(jnp.issubdtype(node.dtype, jnp.inexact)) and not is_constant
        yield _array(where, _join(path), node.shape, required)


@_entries.register
def _(node: float, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    yield _Entry(where, {_join(path): ()}, lambda a: float(np.reshape(a, ())), required=False)


@_entries.register
def _fields(node: eqx.Module, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    fields = [f.name for f in dataclasses.fields(node) if not f.metadata.get("static", False)]
    if "module" not in fields and _any_under((*path, "module"), names):  # PyG's norms wrap torch's
        path = (*path, "module")
    for name in fields:
        if hasattr(node, name):
            yield from _entries(getattr(node, name), (*path, _field_name(name, path, names)), _at(where, name), names)


@_entries.register(list)
@_entries.register(tuple)
def _(node: list | tuple, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    if node and _join(path) in names and all(isinstance(item, float) for item in node):
        yield _Entry(where, {_join(path): (len(node),)}, lambda a: type(node)(np.ravel(a).tolist()), required=False)
        return
    in_one = _join((*path, "weight_ih_l0")) in names  # torch keeps the layers of a recurrent network in one module
    for i, item in enumerate(node):
        if in_one and isinstance(item, eqx.nn.GRUCell | eqx.nn.LSTMCell):
            yield from _recurrent(item, path, _item(where, i), f"_l{i}")
        else:
            yield from _entries(item, (*path, str(i)), _item(where, i), names)


@_entries.register
def _(node: dict, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    for key, item in node.items():
        spelt = (str(key),) if not isinstance(key, tuple) else ("__".join(key), f"<{'___'.join(key)}>")
        name = next((s for s in spelt if _any_under((*path, s), names)), spelt[0])
        yield from _entries(item, (*path, name), _item(where, key), names)


@_entries.register
def _(node: eqx.nn.Sequential, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    for i, layer in enumerate(node.layers):
        yield from _entries(layer, (*path, str(i)), _item(_at(where, "layers"), i), names)


@_entries.register
def _(node: eqx.nn.MLP, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    path = (*path, "lins") if _any_under((*path, "lins"), names) else path
    start = len(_join((*path, "")))
    given = {name[start:].partition(".")[0] for name in names if name.startswith(_join((*path, "")))}
    numbers = sorted((n for n in given if n.isdigit()), key=int)
    if len(numbers) != len(node.layers):
        numbers = [str(2 * i) for i in range(len(node.layers))]
    for i, (number, layer) in enumerate(zip(numbers, node.layers, strict=True)):
        yield from _entries(layer, (*path, number), _item(_at(where, "layers"), i), names)


@_entries.register(eqx.nn.GRUCell)
@_entries.register(eqx.nn.LSTMCell)
def _(node: eqx.nn.GRUCell | eqx.nn.LSTMCell, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    yield from _recurrent(node, path, where, "_l0" if _join((*path, "weight_ih_l0")) in names else "")


def _recurrent(node: eqx.nn.GRUCell | eqx.nn.LSTMCell, path: _Path, where: _Where, suffix: str) -> Iterator[_Entry]:
    for weight in ("weight_ih", "weight_hh"):
        yield _array(_at(where, weight), _join((*path, weight + suffix)), getattr(node, weight).shape)
    if not node.use_bias:
        return
    rows = node.weight_ih.shape[0]
    ih, hh = (_join((*path, name + suffix)) for name in ("bias_ih", "bias_hh"))
    parts = {ih: (rows,), hh: (rows,)}
    if isinstance(node, eqx.nn.LSTMCell):
        yield _Entry(_at(where, "bias"), parts, lambda a, b: jnp.asarray(a) + jnp.asarray(b))
    else:  # the new gate's recurrent bias stands inside the reset product, so it stays apart
        gates = 2 * node.hidden_size
        yield _Entry(_at(where, "bias"), parts, lambda a, b: jnp.asarray(a).at[:gates].add(jnp.asarray(b)[:gates]))
        yield _Entry(_at(where, "bias_n"), {hh: (rows,)}, lambda b: jnp.asarray(b)[gates:])


@_entries.register
def _(node: eqx.nn.MultiheadAttention, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    projections = ("query_proj", "key_proj", "value_proj")
    linears = [getattr(node, name) for name in projections]
    split = [0, *np.cumsum([linear.out_features for linear in linears]).tolist()]
    for leaf, key in (("weight", "in_proj_weight"), ("bias", "in_proj_bias")):
        for i, (name, linear) in enumerate(zip(projections, linears, strict=True)):
            if getattr(linear, leaf) is None:
                continue
            separate = _join((*path, f"{name[0]}_proj_weight"))
            if leaf == "weight" and separate in names:  # torch's form for keys and values of other sizes
                yield _array(_at(_at(where, name), leaf), separate, linear.weight.shape)
                continue
            shape = (split[-1], *getattr(linear, leaf).shape[1:])
            rows = slice(split[i], split[i + 1])
            yield _Entry(_at(_at(where, name), leaf), {_join((*path, key)): shape}, _take(rows))
    yield from _entries(node.output_proj, (*path, "out_proj"), _at(where, "output_proj"), names)


@_entries.register
def _(node: eqx.nn.PReLU, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    yield _array(_at(where, "negative_slope"), _join((*path, "weight")), node.negative_slope.shape)


@_entries.register
def _(node: eqx.nn.BatchNorm, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    path = (*path, "module") if _any_under((*path, "module"), names) else path
    for leaf in ("weight", "bias"):
        if getattr(node, leaf) is not None:
            yield _array(_at(where, leaf), _join((*path, leaf)), (node.input_size,))
    if node.mode == "ema":
        statistics, counter, started = "ema_state_index", "ema_first_time_index", jnp.array(False)
    else:
        statistics, counter, started = "batch_state_index", "batch_counter", jnp.array(_DEBIASED)
    if not isinstance(getattr(node, statistics).init, tuple):
        raise ValueError(_LOST_STATE.format(".".join(path)))
    for i, buffer in enumerate(("running_mean", "running_var")):
        yield _array(_item(_at(_at(where, statistics), "init"), i), _join((*path, buffer)), (node.input_size,))
    yield _Entry(
        _at(_at(where, counter), "init"), {_join((*path, "running_mean")): (node.input_size,)}, lambda _: started
    )


@_entries.register(BatchNorm)
@_entries.register(InstanceNorm)
def _(node: BatchNorm | InstanceNorm, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    path = (*path, "module") if _any_under((*path, "module"), names) else path
    for leaf in ("weight", "bias"):
        yield from _entries(getattr(node, leaf), (*path, leaf), _at(where, leaf), names)
    if node.state_index is not None:
        if not isinstance(node.state_index.init, RunningStatistics):
            raise ValueError(_LOST_STATE.format(".".join(path)))
        yield from _entries(node.state_index.init, path, _at(_at(where, "state_index"), "init"), names)


@_entries.register
def _(node: GATv2Conv, path: _Path, where: _Where, names: frozenset[str]) -> Iterator[_Entry]:
    yield from _fields(node, path, where, names)
    if node.lin_r is None:  # share_weights: torch saves `lin_l` under both names
        yield from (
            e._replace(where=None, required=False) for e in _entries(node.lin_l, (*path, "lin_r"), where, names)
        )


def _array(where: _Where, name: str, shape: tuple[int, ...], required: bool = True) -> _Entry:
    return _Entry(where, {name: shape}, lambda a: jnp.reshape(jnp.asarray(a), shape), required)


def _take(rows: slice) -> Callable[[Any], jax.Array]:
    return lambda a: jnp.asarray(a)[rows]


def _field_name(name: str, path: _Path, names: frozenset[str]) -> str:
    """PyG keeps a layer's aggregation under `aggr_module`."""
    torch_name = {"aggregation": "aggr_module"}.get(name, name)
    return torch_name if _any_under((*path, torch_name), names) else name


def _any_under(path: _Path, names: frozenset[str]) -> bool:
    prefix = _join(path)
    return any(name == prefix or name.startswith(prefix + ".") for name in names)


def _join(path: _Path) -> str:
    return ".".join(path)


def _at(where: _Where, name: str) -> _Where:
    return lambda m: getattr(where(m), name)


def _item(where: _Where, key: Any) -> _Where:
    return lambda m: where(m)[key]
