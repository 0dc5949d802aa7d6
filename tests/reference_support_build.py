"""From a manifest entry of another library to an object of ours: class names, constructor arguments, outputs."""

import functools as ft
import inspect
import typing
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

import eqx_graph.nn
import eqx_graph.nn.aggr
import eqx_graph.nn.norm
from eqx_graph.nn.aggr._multi import plain_name
from eqx_graph.nn.models._resolve import as_activation, as_norm
from reference_support import Case, Entry, Key


class NotInPackage(Exception):
    """The package has nothing of this name (yet)."""


# PyG's keyword -> ours, the first that the constructor has.
_KEYWORDS = {
    "in_channels": ("in_features",),
    "out_channels": ("out_features",),
    "hidden_channels": ("hidden_features",),
    "channels": ("features", "in_features", "num_features"),
    "in_edge_channels": ("in_edge_features",),
    "aggr": ("aggr", "aggregation"),
    "aggrs": ("aggrs", "aggregations"),
    "bias": ("bias", "use_bias"),
    "t": ("t", "temperature"),
}
# PyG's arguments without a counterpart, because the values named change nothing here: features are the last axis, an
# `Adjacency` takes the place of a layer's cache, the search for neighbours has no workers.
_NO_EFFECT = {
    "cached": (True, False),
    "num_workers": tuple(range(64)),
    "device": (None,),
    "node_dim": (0, -2),
    "decomposed_layers": tuple(range(1, 64)),
    "inplace": (True, False),
}
# What torch's recurrent layers have and ours do not: such an entry is skipped by name. So are sizes that PyG reads from
# the first input (-1): a layer here is built with its sizes, and says so.
_NOT_HERE = {"bidirectional": (True,), "proj_size": tuple(range(1, 1024)), "return_sequences": (True,)}
# Learnable parameters are a size and a flag in PyG, an array in place of the float here.
_LEARNED = {"SoftmaxAggregation": "t", "PowerMeanAggregation": "p"}


def find_class(name: str) -> type:
    """The class of `eqx_graph.nn` that a PyG class name means."""
    short = name.removesuffix("Aggregation")
    for module, spelt in ((eqx_graph.nn, name), (eqx_graph.nn.aggr, short)):
        found = getattr(module, spelt, None)
        if isinstance(found, type) and issubclass(found, eqx.Module):
            return found
    raise NotInPackage(name)


def _skip_what_is_not_here(name: str, ctor: Any, outer: str = "") -> None:
    """Raises `NotInPackage` for a size of -1, a part that we lack or an argument in `_NOT_HERE`, however deep."""
    for keyword, value in ctor.items() if isinstance(ctor, dict) else [(outer, item) for item in ctor]:
        lazy = keyword.endswith(("channels", "__linear__")) and -1 in _flat(value)
        unknown = isinstance(value, str) and not _is_known(keyword, value)
        if lazy or unknown or value in _NOT_HERE.get(keyword, ()):
            raise NotInPackage(f"{name}({keyword}={value})")
        if isinstance(value, dict | list):
            _skip_what_is_not_here(name, value, keyword)


def _is_known(keyword: str, name: str) -> bool:
    """Whether we have the aggregation, norm or activation of this name."""
    if keyword in ("aggr", "aggrs"):
        ours = {c.lower() for c in vars(eqx_graph.nn.aggr)} | {"add"}
        return plain_name(name).removesuffix("aggregation") in ours
    try:
        _ = as_norm(name, 1) if keyword == "norm" else as_activation(name) if keyword == "act" else None
    except ValueError:
        return False
    return True


def _flat(value: Any) -> list[int]:
    """The integers at the ends of lists and dictionaries."""
    if isinstance(value, dict | list):
        return [i for item in (value.values() if isinstance(value, dict) else value) for i in _flat(item)]
    return [value] if type(value) is int else []


def build(entry: Entry, case: Case, key: PRNGKeyArray) -> eqx.Module:
    """The module an entry describes, with fresh weights.

    PyG ignores `improved` without edge weights (its documentation does not), so those numbers are `improved=False`'s.
    """
    _skip_what_is_not_here(entry.class_name, entry.ctor)
    unweighted = len(case.args) < 3 and case.kwargs.get("edge_weight") is None
    ctor = entry.ctor | {"improved": False} if entry.ctor.get("improved") and unweighted else entry.ctor
    return _construct(entry.class_name, ctor, key)


def _construct(name: str, ctor: dict[str, Any], key: PRNGKeyArray) -> eqx.Module:
    cls = find_class(name)
    parameters = inspect.signature(cls).parameters
    arguments: dict[str, Any] = {}
    for i, (keyword, value) in enumerate(sorted(_as_objects(name, ctor).items())):
        if value in _NO_EFFECT.get(keyword, ()):
            continue
        candidates = _KEYWORDS.get(keyword, (keyword,))
        ours = next((c for c in candidates if c in parameters), None)
        if ours is None and keyword == "dropout":  # random where it has an effect, so no case is about it
            continue
        if ours is None:
            raise TypeError(f"{cls.__name__} has no argument for PyG's `{keyword}={value}`; it has {list(parameters)}")
        argument = _value(value, jr.fold_in(key, i))
        if keyword == "norm" and isinstance(argument, eqx.Module):  # PyG copies an object: statistics are each layer's
            argument = ft.partial(lambda spec, features: _value(spec, key), value)
        arguments[ours] = float(argument) if type(argument) is int and is_real(parameters[ours]) else argument
    if "key" in parameters:
        arguments["key"] = key
    return cls(**arguments)


def is_real(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is a real number (a JSON file may hold an integer)."""
    kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
    return float in kinds and int not in kinds


def _as_objects(name: str, ctor: dict[str, Any]) -> dict[str, Any]:
    """PyG's flags and dictionaries of arguments as the objects that take their place here."""
    ctor = {keyword: value for keyword, value in ctor.items() if keyword != "mode_kwargs"} | (
        ctor.get("mode_kwargs") or {}
    )
    if name in _LEARNED and ctor.pop("learn", False):
        return ctor | {_LEARNED[name]: {"__tensor__": [float(ctor.get(_LEARNED[name], 1))] * ctor.pop("channels", 1)}}
    if name in _LEARNED:
        ctor.pop("channels", None)
    if name == "QuantileAggregation":
        levels = np.ravel(_value(ctor["q"], jr.key(0)))
        ctor["q"] = {"__tuple__": levels.astype(np.float32).tolist()}  # a buffer of float32 there
    if "in_channels" in ctor and isinstance(
        ctor["in_channels"], list
    ):  # of every aggregation of several: `Multi` knows
        ctor["in_channels"] = ctor["in_channels"][0]
    if one := ctor.pop("aggr_kwargs", None):
        if name == "SAGEConv" and ctor["aggr"] == "lstm":
            width = (
                ctor["in_channels"]["__tuple__"][0] if isinstance(ctor["in_channels"], dict) else ctor["in_channels"]
            )
            one = {"in_channels": width, "out_channels": width} | one
        ctor["aggr"] = _named_aggregation(ctor["aggr"], one)
    if several := ctor.pop("aggrs_kwargs", None):
        ctor["aggrs"] = [_named_aggregation(*pair) for pair in zip(ctor["aggrs"], several, strict=True)]
    for keyword, form in (("norm", "__make_norm__"), ("act", "__make_act__")):
        if given := ctor.pop(f"{keyword}_kwargs", None):
            ctor[keyword] = {form: [ctor.get(keyword, "relu"), given]}
    return ctor


def _named_aggregation(name: str, ctor: dict[str, Any]) -> Any:
    """A name with arguments, or a list of names with those of `MultiAggregation`, as `__aggr__`."""
    if isinstance(name, list):
        return {"__aggr__": ["MultiAggregation", {"aggrs": name} | ctor]}
    if not ctor or not isinstance(name, str):
        return name
    classes = {c.lower(): c for c in vars(eqx_graph.nn.aggr)} | {"add": "Sum"}
    return {"__aggr__": [classes[name.lower().removesuffix("aggregation")] + "Aggregation", ctor]}


def _value(spec: Any, key: PRNGKeyArray) -> Any:
    """The manifest's small constructor language; its README lists the forms."""
    if isinstance(spec, list):
        return [_value(item, jr.fold_in(key, i)) for i, item in enumerate(spec)]
    if not isinstance(spec, dict):
        return spec
    if len(spec) == 1 and next(iter(spec)).startswith("__"):
        ((form, body),) = spec.items()
        return _FORMS[form](body, key)
    return {name: _value(item, jr.fold_in(key, i)) for i, (name, item) in enumerate(spec.items())}


def _linear(body: Any, key: PRNGKeyArray) -> eqx.nn.Linear:
    if isinstance(body, dict):
        return eqx.nn.Linear(body["in_channels"], body["out_channels"], use_bias=body.get("bias", True), key=key)
    return eqx.nn.Linear(*body, key=key)


class _PReLU(eqx.nn.PReLU):
    """One that `eqx.nn.Sequential` can hold: that hands every layer a key."""

    def __call__(self, x: jax.Array, *, key: PRNGKeyArray | None = None) -> jax.Array:
        return super().__call__(x)


def _activation(name: str, arguments: dict[str, Any]) -> Any:
    """A layer of `eqx.nn.Sequential`: functions are wrapped, PReLU has a weight."""
    arguments = {k: v for k, v in arguments.items() if v not in _NO_EFFECT.get(k, ())}
    short = name.lower().replace("_", "")
    if short == "prelu":
        return _PReLU(jnp.full(arguments.get("num_parameters", 1), arguments.get("init", 0.25)))
    if short == "identity":
        return eqx.nn.Identity()
    if short in _WITH_ARGUMENTS and arguments:
        return eqx.nn.Lambda(ft.partial(_WITH_ARGUMENTS[short], **arguments))
    if short == "gelu":
        return eqx.nn.Lambda(ft.partial(jax.nn.gelu, approximate=arguments.get("approximate") == "tanh"))
    act = as_activation(name)
    assert act is not None
    return act if isinstance(act, eqx.Module) else eqx.nn.Lambda(ft.partial(act, **arguments))


# Activations that take arguments in torch and none in JAX; `threshold` spares torch an overflow and changes no number.
_WITH_ARGUMENTS: dict[str, Callable[..., Any]] = {
    "softplus": lambda x, beta=1.0, threshold=20.0: jax.nn.softplus(beta * x) / beta,
    "hardtanh": lambda x, min_val=-1.0, max_val=1.0: jnp.clip(x, min_val, max_val),
    "hardshrink": lambda x, lambd=0.5: jnp.where(jnp.abs(x) > lambd, x, 0.0),
    "softshrink": lambda x, lambd=0.5: jnp.where(jnp.abs(x) > lambd, x - lambd * jnp.sign(x), 0.0),
}
_NORMS = {name.lower(): getattr(eqx_graph.nn.norm, name) for name in dir(eqx_graph.nn.norm) if name.endswith("Norm")}


def _make_norm(name: str, arguments: dict[str, Any], features: int) -> eqx.Module:
    cls = _NORMS[plain_name(name).removesuffix("norm") + "norm"]
    return cls(float(features) if cls is eqx_graph.nn.norm.PairNorm else features, **arguments)


def _named(body: Any, key: PRNGKeyArray) -> eqx.Module:
    name, ctor = body
    return _construct(name, ctor, key)


def _edge_dict(body: Any, key: PRNGKeyArray) -> dict[tuple[str, ...], Any]:
    return {tuple(name.split("|")): _value(item, jr.fold_in(key, i)) for i, (name, item) in enumerate(body)}


def _metadata(body: Any, key: PRNGKeyArray) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    nodes, edges = body
    return tuple(nodes), tuple(tuple(edge) for edge in edges)


_FORMS: dict[str, Callable[[Any, PRNGKeyArray], Any]] = {
    "__seq__": lambda body, key: eqx.nn.Sequential(_value(body, key)),
    "__modulelist__": lambda body, key: _value(body, key),
    "__linear__": _linear,
    "__act__": lambda body, key: _activation(body, {}),
    "__make_act__": lambda body, key: _activation(*body),
    "__make_norm__": lambda body, key: ft.partial(_make_norm, *body),
    "__conv__": _named,
    "__aggr__": _named,
    "__norm__": _named,
    "__model__": _named,
    "__class__": lambda body, key: find_class(body.rpartition(".")[2]),
    "__tuple__": lambda body, key: tuple(_value(body, key)),
    "__tensor__": lambda body, key: jnp.asarray(np.array(body)),
    "__metadata__": _metadata,
    "__edgedict__": _edge_dict,
}


def resolve(argument: Any, inputs: dict[str, Any]) -> Any:
    """An argument of a `Case` with the arrays in place of its keys."""
    return jax.tree.map(lambda a: inputs[a.name] if isinstance(a, Key) else a, argument, is_leaf=_is_key)


def _is_key(x: Any) -> bool:
    return isinstance(x, Key)


def flatten_output(out: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Outputs by the manifest's path: `0` for one array, `0`, `1.0`, ... for tuples, the key for dicts."""
    if isinstance(out, tuple | list):
        items = [(str(i), item) for i, item in enumerate(out)]
    elif isinstance(out, dict):
        items = [("__".join(key) if isinstance(key, tuple) else str(key), item) for key, item in out.items()]
    else:
        return {".".join(path or ("0",)): out}
    flat: dict[str, Any] = {}
    for name, item in items:
        flat |= flatten_output(item, (*path, name))
    return flat
