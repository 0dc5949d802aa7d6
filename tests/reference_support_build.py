"""From a manifest entry of another library to an object of ours: class names, constructor arguments, outputs."""

import inspect
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
# Learnable parameters are a size and a flag in PyG, an array in place of the float here.
_LEARNED = {"SoftmaxAggregation": "t", "PowerMeanAggregation": "p"}
_ACTIVATIONS = {"ReLU": jax.nn.relu, "ELU": jax.nn.elu, "Tanh": jnp.tanh, "Sigmoid": jax.nn.sigmoid}


def find_class(name: str) -> type:
    """The class of `eqx_graph.nn` that a PyG class name means."""
    short = name.removesuffix("Aggregation")
    for module, spelt in ((eqx_graph.nn, name), (eqx_graph.nn.aggr, short)):
        found = getattr(module, spelt, None)
        if isinstance(found, type) and issubclass(found, eqx.Module):
            return found
    raise NotInPackage(name)


def build(entry: Entry, key: PRNGKeyArray) -> eqx.Module:
    """The module an entry describes, with fresh weights."""
    return _construct(entry.class_name, entry.ctor, key)


def _construct(name: str, ctor: dict[str, Any], key: PRNGKeyArray) -> eqx.Module:
    cls = find_class(name)
    ctor = _arguments_of_aggregations(name, ctor)
    parameters = inspect.signature(cls).parameters
    ctor = {k: v for k, v in ctor.items() if k != "mode_kwargs"} | (ctor.get("mode_kwargs") or {})
    arguments: dict[str, Any] = {}
    for i, (keyword, value) in enumerate(sorted(ctor.items())):
        candidates = _KEYWORDS.get(keyword, (keyword,))
        ours = next((c for c in candidates if c in parameters), None)
        if ours is None:
            raise TypeError(f"{cls.__name__} has no argument for PyG's `{keyword}={value}`; it has {list(parameters)}")
        arguments[ours] = _value(value, jr.fold_in(key, i))
    if "key" in parameters:
        arguments["key"] = key
    return cls(**arguments)


def _arguments_of_aggregations(name: str, ctor: dict[str, Any]) -> dict[str, Any]:
    if name in _LEARNED and ctor.get("learn"):
        return {_LEARNED[name]: {"__tensor__": [ctor[_LEARNED[name]]] * ctor["channels"]}}
    if name == "QuantileAggregation":
        return ctor | {"q": {"__tuple__": ctor["q"]}}
    return ctor


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
    "__act__": lambda body, key: eqx.nn.Lambda(_ACTIVATIONS[body]),
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


def quirk(entry: Entry, case: Case) -> str | None:
    """Why a case is left out although the class is there: the reference is wrong, and we say what we do instead."""
    unweighted = len(case.args) < 3 if entry.kind == "module" else case.args[1:2] == (None,)
    improved = entry.ctor.get("improved", False) if entry.kind == "module" else case.args[3:4] == (True,)
    if entry.class_name in ("GCNConv", "gcn_norm") and improved and unweighted:
        return "PyG's improved=True without edge weights gives self-loops weight 1 where its documentation says 2"
    return None
