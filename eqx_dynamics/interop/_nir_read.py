"""NIR graphs to networks."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._apply import PerSample
from .._cell import AbstractCell
from .._extras import need
from .._sequential import Sequential
from ..spiking import AbstractNeuron, AbstractSurrogate, Delay, FastSigmoid, OneToOne, Recurrent
from ._discretization import Discretization
from ._graph_cell import INPUT, OUTPUT, GraphCell
from ._nir_neurons import NOTE, How, read_neuron


def from_nir(
    graph: Any, discretization: Discretization | None = None, *, surrogate: AbstractSurrogate = FastSigmoid()
) -> AbstractCell:
    """A network from a graph of the Neuromorphic Intermediate Representation.

    `from_nir(nir.read("network.nir"), Discretization.like_snntorch())` gives the spikes of the snnTorch network that
    was written; `from_nir(graph)` gives back what `to_nir` wrote, to the last bit.

    **Arguments:**

    - `graph`: a `nir.NIRGraph`.
    - `discretization`: the step, the scheme and the reset; None takes those that `to_nir` noted down.
    - `surrogate`: the derivative of spikes if `discretization` is None, as NIR has none; ties are as they were noted.

    **Returns:** a `Sequential` where the graph is a chain, with a `Recurrent` for every neuron that feeds itself
    through one layer; a `GraphCell` otherwise. Weights are arrays, and so are constants that differ between neurons;
    others are numbers.

    **Raises:** `ValueError` for a node that there is no cell for, naming it and what to do; for a graph without exactly
    one input and one output; or for a missing `discretization`. `ImportError` naming the extra `nir`.
    """
    nir = need("nir", extra="nir", user="from_nir")
    network = _network(nir, graph, surrogate if discretization is None else discretization)
    return network if isinstance(network, AbstractCell) else Sequential([network])


def _network(nir: Any, graph: Any, how: How) -> Any:
    ends = dict.fromkeys(graph.inputs, INPUT) | dict.fromkeys(graph.outputs, OUTPUT)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ValueError(
            f"`graph` must have one Input and one Output; got {list(graph.inputs)} and {list(graph.outputs)}. Split "
            "it, or join its ends."
        )
    layers = {n: _layer(nir, node, n, how) for n, node in graph.nodes.items() if n not in ends}
    shapes = {n: tuple(int(k) for k in next(iter(graph.nodes[n].output_type.values()))) for n in layers}
    edges: list[tuple[str, str]] = [(ends.get(str(a), str(a)), ends.get(str(b), str(b))) for a, b in graph.edges]
    layers, edges = _feedback_inside(layers, edges)
    chain = _chain(edges)
    if chain is not None:
        flat = [part for n in chain for part in _parts(layers[n])]
        return flat[0] if len(flat) == 1 else Sequential(flat)
    return GraphCell(layers, edges, {n: shapes[n] for n in layers})


def _layer(nir: Any, node: Any, name: str, how: How) -> Any:
    """One node as a cell or a stateless layer."""
    note = (node.metadata or {}).get(NOTE, {})
    if isinstance(node, nir.NIRGraph):
        return _network(nir, node, how)
    if isinstance(node, nir.LIF | nir.LI | nir.CubaLIF | nir.CubaLI | nir.IF | nir.I):
        return read_neuron(nir, node, name, how)
    if isinstance(node, nir.Affine | nir.Linear):
        return _linear(node, name)
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        return _convolution(node, bool(note.get("use_bias", True)))
    if isinstance(node, nir.AvgPool2d | nir.SumPool2d):
        kernel, stride, pad = (tuple(int(k) for k in np.broadcast_to(np.asarray(v), (2,))) for v in _pool(node))
        if isinstance(node, nir.SumPool2d):
            padding = tuple((p, p) for p in pad)
            return eqx.nn.Pool(0.0, jax.lax.add, 2, kernel, stride, padding)
        if any(pad):
            raise ValueError(f"`graph`: AvgPool2d {name!r} has padding {pad}; libraries disagree on its mean. Use 0.")
        return eqx.nn.AvgPool2d(kernel, stride)
    if isinstance(node, nir.Flatten):
        shape = node.input_type["input"]
        whole = None if shape is None else len(shape)
        if whole is None or node.start_dim != 0 or node.end_dim not in (-1, whole - 1):
            raise ValueError(f"`graph`: Flatten {name!r} must flatten the whole sample, from 0 to -1.")
        return PerSample(jnp.ravel, whole)
    if isinstance(node, nir.Scale):
        return OneToOne(jnp.asarray(node.scale, float))
    if isinstance(node, nir.Delay):
        if isinstance(how, Discretization):
            dt, unit = how.dt, how.time_unit
        elif note:
            dt, unit = float(note["dt"]), 1000.0
        else:
            raise ValueError(f"`discretization` is needed: nothing says the step of the Delay {name!r}.")
        delays = np.asarray(node.delay, np.float64) * unit
        same = delays.size and (delays == delays.flat[0]).all()
        return Delay(delays.shape, float(delays.flat[0]) if same else delays, max_delay=float(delays.max()), dt=dt)
    raise ValueError(
        f"`graph`: there is no cell for the node {name!r}, a {type(node).__name__}. Replace it by LI, LIF, CubaLIF, "
        "IF, Affine, Linear, Conv, pooling, Flatten, Scale or Delay nodes, or build that part by hand."
    )


def _linear(node: Any, name: str) -> eqx.nn.Linear:
    weight = jnp.asarray(node.weight, float)
    if weight.ndim != 2:
        raise ValueError(f"`graph`: the weight of {name!r} must be (out, in); got shape {weight.shape}.")
    bias = getattr(node, "bias", None)
    linear = eqx.nn.Linear(weight.shape[1], weight.shape[0], use_bias=bias is not None, key=jr.key(0))
    linear = eqx.tree_at(lambda layer: layer.weight, linear, weight)
    return linear if bias is None else eqx.tree_at(lambda layer: layer.bias, linear, jnp.asarray(bias, float))


def _convolution(node: Any, use_bias: bool) -> eqx.nn.Conv:
    weight = jnp.asarray(node.weight, float)
    dims = weight.ndim - 2
    stride, dilation = (tuple(int(k) for k in np.broadcast_to(np.asarray(v), (dims,))) for v in _steps(node))
    pad = node.padding
    padding = pad.upper() if isinstance(pad, str) else tuple((int(p), int(p)) for p in np.broadcast_to(pad, (dims,)))
    groups = int(node.groups)
    conv = (eqx.nn.Conv1d if dims == 1 else eqx.nn.Conv2d)(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2:],
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        use_bias=use_bias,
        key=jr.key(0),
    )
    conv = eqx.tree_at(lambda layer: layer.weight, conv, weight)
    if not use_bias:
        return conv
    return eqx.tree_at(lambda layer: layer.bias, conv, jnp.asarray(node.bias, float).reshape(-1, *(1,) * dims))


def _steps(node: Any) -> tuple[Any, Any]:
    return node.stride, node.dilation


def _pool(node: Any) -> tuple[Any, Any, Any]:
    return node.kernel_size, node.stride, node.padding


def _feedback_inside(
    layers: dict[str, Any], edges: list[tuple[str, str]]
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Neurons that feed themselves through one stateless layer, as `Recurrent`."""
    layers = dict(layers)
    for name, layer in list(layers.items()):
        sources, targets = [a for a, b in edges if b == name], [b for a, b in edges if a == name]
        neuron = sources[0] if len(sources) == 1 and sources == targets else None
        if neuron is None or isinstance(layer, AbstractCell) or not isinstance(layers.get(neuron), AbstractNeuron):
            continue
        layers[neuron] = Recurrent(layers[neuron], layer)
        del layers[name]
        edges = [e for e in edges if name not in e]
    return layers, edges


def _chain(edges: list[tuple[str, str]]) -> list[str] | None:
    """The nodes in order if each has one edge in and one out, else None."""
    following = dict(edges)
    if len(following) != len(edges) or len({b for _, b in edges}) != len(edges):
        return None
    chain, name = [], following.get(INPUT)
    while name is not None and name != OUTPUT:
        chain.append(name)
        name = following.get(name)
    return chain if len(chain) == len(edges) - 1 else None


def _parts(layer: Any) -> tuple[Any, ...]:
    return layer.layers if isinstance(layer, Sequential) else (layer,)
