"""Networks to NIR graphs."""

import functools as ft
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._apply import PerSample, apply_stateless
from .._cell import AbstractCell
from .._extras import need
from .._sequential import Sequential
from ..spiking import Delay, LICell, LIFCell, OneToOne, Recurrent
from ..spiking._parameter import AbstractParameter
from ._graph_cell import INPUT, OUTPUT, GraphCell
from ._nir_neurons import NOTE, write_neuron


def to_nir(model: AbstractCell | Callable, input_shape: tuple[int, ...] | None = None) -> Any:
    """A network as a graph of the Neuromorphic Intermediate Representation, to simulate or deploy elsewhere.

    `nir.write("network.nir", to_nir(model))` saves it. Times are in seconds and constants are arrays, one value a
    neuron. NIR describes differential equations: the step, the scheme, the timing of the reset and our constants to the
    last bit go into each node's metadata, so that `from_nir` gives the same network back.

    Written: `LIFCell` (as LIF, CubaLIF with a synapse, IF without a leak), `LICell` (LI, CubaLI, I), `eqx.nn.Linear`
    (Linear, Affine), `Conv1d`, `Conv2d`, `AvgPool2d`, sums by `eqx.nn.Pool` (SumPool2d), `PerSample(jnp.ravel, n)`
    (Flatten), `OneToOne` (Scale), `Delay`, `Recurrent` (a subgraph, as snnTorch writes it), `GraphCell`, `Sequential`.

    **Arguments:**

    - `model`: a cell, usually a `Sequential`.
    - `input_shape`: of one sample at one step; needed if the first layer does not say.

    **Returns:** a `nir.NIRGraph`.

    **Raises:** `ValueError` for a layer that NIR has no node for, naming it and what to do, or a missing `input_shape`;
    `ImportError` naming the extra `nir`.

    !!! note
        Where a network has a soft reset, other tools do what they do by default: NIR has no word for it.

    ??? cite "Reference"
        Pedersen et al., Neuromorphic intermediate representation, Nature Communications 15, 2024.
    """
    nir = need("nir", extra="nir", user="to_nir")
    layers = _flat(model)
    if input_shape is None:
        input_shape = _input_shape(layers[0]) if layers else None
    if input_shape is None:
        first = type(layers[0]).__name__ if layers else "nothing"
        raise ValueError(f"`input_shape` is needed: the first layer, {first}, does not say what it takes.")
    return _chain(nir, layers, tuple(input_shape))


def _chain(nir: Any, layers: list[Any], shape: tuple[int, ...]) -> Any:
    """Layers one after another as a graph."""
    nodes: dict[str, Any] = {INPUT: nir.Input(input_type={"input": np.array(shape)})}
    for number, layer in enumerate(layers):
        name = f"{number}_{type(layer).__name__.lower()}"
        nodes[name] = _node(nir, layer, shape, name)
        shape = _output_shape(layer, shape)
    nodes[OUTPUT] = nir.Output(output_type={"output": np.array(shape)})
    names = list(nodes)
    return nir.NIRGraph(nodes=nodes, edges=list(itertools.pairwise(names)))


def _graph(nir: Any, cell: GraphCell, shape: tuple[int, ...]) -> Any:
    shapes = {INPUT: shape, **dict(cell.shapes)}
    nodes: dict[str, Any] = {INPUT: nir.Input(input_type={"input": np.array(shape)})}
    for name in cell.order:
        arriving = next(shapes[a] for a, b in cell.edges if b == name and a in shapes)
        nodes[name] = _node(nir, cell.nodes[name], arriving, name)
        shapes[name] = _output_shape(cell.nodes[name], arriving)
    out = next(shapes[a] for a, b in cell.edges if b == OUTPUT)
    nodes[OUTPUT] = nir.Output(output_type={"output": np.array(out)})
    return nir.NIRGraph(nodes=nodes, edges=list(cell.edges))


def _recurrent(nir: Any, cell: Recurrent, shape: tuple[int, ...], name: str) -> Any:
    nodes = {
        INPUT: nir.Input(input_type={"input": np.array(shape)}),
        "neuron": _node(nir, cell.cell, shape, f"{name}.cell"),
        "w_rec": _node(nir, cell.weight, shape, f"{name}.weight"),
        OUTPUT: nir.Output(output_type={"output": np.array(shape)}),
    }
    edges = [(INPUT, "neuron"), ("neuron", "w_rec"), ("w_rec", "neuron"), ("neuron", OUTPUT)]
    return nir.NIRGraph(nodes=nodes, edges=edges)


def _node(nir: Any, layer: Any, shape: tuple[int, ...], name: str) -> Any:
    """One layer as a node; `shape` is that of its input."""
    if isinstance(layer, LIFCell | LICell):
        return write_neuron(nir, layer, name)
    if isinstance(layer, Recurrent):
        return _recurrent(nir, layer, shape, name)
    if isinstance(layer, GraphCell):
        return _graph(nir, layer, shape)
    if isinstance(layer, Sequential):
        return _chain(nir, _flat(layer), shape)
    if isinstance(layer, Delay):
        delay = layer.delay.value() if isinstance(layer.delay, AbstractParameter) else layer.delay
        seconds = np.broadcast_to(np.asarray(delay, np.float64) / 1000, layer.size).copy()
        return nir.Delay(seconds, metadata={NOTE: {"dt": layer.dt}})
    if isinstance(layer, eqx.nn.Linear):
        weight = np.asarray(layer.weight)
        return nir.Linear(weight) if layer.bias is None else nir.Affine(weight, np.asarray(layer.bias))
    if isinstance(layer, OneToOne):
        return nir.Scale(np.broadcast_to(np.asarray(layer.weight), shape).copy())
    if isinstance(layer, eqx.nn.Conv1d | eqx.nn.Conv2d):
        return _convolution(nir, layer, shape, name)
    if isinstance(layer, PerSample) and layer.layer is jnp.ravel:
        return nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)
    if isinstance(layer, eqx.nn.Pool) and layer.num_spatial_dims == 2:
        sums = isinstance(layer, eqx.nn.AvgPool2d) or layer.operation is jax.lax.add
        padding = _padding(layer.padding, name)
        if sums and not layer.use_ceil and (not isinstance(layer, eqx.nn.AvgPool2d) or padding == (0, 0)):
            kind = nir.AvgPool2d if isinstance(layer, eqx.nn.AvgPool2d) else nir.SumPool2d
            return kind(np.array(layer.kernel_size), np.array(layer.stride), np.array(padding))
    raise ValueError(
        f"`{name}` cannot be written to NIR: there is no node for {type(layer).__name__}. Use the layers that `to_nir` "
        "lists, or take it out (a Dropout has no part in inference)."
    )


def _convolution(nir: Any, layer: eqx.nn.Conv, shape: tuple[int, ...], name: str) -> Any:
    if layer.padding_mode.upper() != "ZEROS":
        raise ValueError(f"`{name}`: NIR pads with zeros; got `padding_mode` {layer.padding_mode!r}.")
    if layer.groups != 1:
        raise ValueError(
            f"`{name}`: nir takes the shape of its input from a weight without groups; got {layer.groups}."
        )
    weight = np.asarray(layer.weight)
    bias = np.zeros(len(weight), weight.dtype) if layer.bias is None else np.asarray(layer.bias).ravel()
    padding = layer.padding.lower() if isinstance(layer.padding, str) else _padding(layer.padding, name)
    sizes = {"stride": layer.stride, "padding": padding, "dilation": layer.dilation}
    if layer.num_spatial_dims == 1:
        first = {key: value if isinstance(value, str) else int(value[0]) for key, value in sizes.items()}
        options: dict[str, Any] = {**first, "input_shape": shape[1]}
        kind = nir.Conv1d
    else:
        options, kind = {**sizes, "input_shape": shape[1:]}, nir.Conv2d
    note = {NOTE: {"use_bias": int(layer.bias is not None)}}
    return kind(weight=weight, bias=bias, groups=layer.groups, metadata=note, **options)


def _padding(padding: Any, name: str) -> tuple[int, ...]:
    if any(low != high for low, high in padding):
        raise ValueError(f"`{name}`: NIR pads both sides alike; got `padding` {padding}.")
    return tuple(int(low) for low, _ in padding)


def _flat(layer: Any) -> list[Any]:
    """Nested sequences as one list, without what does nothing."""
    if isinstance(layer, Sequential | eqx.nn.Sequential):
        return [inner for part in layer.layers for inner in _flat(part)]
    idle = isinstance(layer, eqx.nn.Identity) or (isinstance(layer, eqx.nn.Dropout) and layer.inference)
    return [] if idle else [layer]


def _input_shape(layer: Any) -> tuple[int, ...] | None:
    if isinstance(layer, eqx.nn.Linear):
        return (int(layer.in_features),)
    return getattr(layer.cell if isinstance(layer, Recurrent) else layer, "size", None)


def _output_shape(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    x = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    if isinstance(layer, AbstractCell):
        return eqx.filter_eval_shape(lambda x: layer(x, layer.init_state())[0], x).shape
    return eqx.filter_eval_shape(ft.partial(apply_stateless, layer, key=None), x).shape
