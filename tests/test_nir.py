"""NIR: what is written comes back to the last bit, and what snnTorch and Norse wrote gives their spikes."""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import nir
import numpy as np
import pytest

import eqx_dynamics.spiking as sp
from eqx_dynamics import AbstractCell, PerSample, Sequential, scan
from eqx_dynamics.interop import Discretization, GraphCell, from_nir, to_nir


REFERENCE = pathlib.Path(__file__).parent / "reference" / "nir"
STRICT = sp.FastSigmoid(7.0, tie=">")


def _linear(n_in: int, n_out: int, *, seed: int = 0, scale: float = 3.0, use_bias: bool = True) -> eqx.nn.Linear:
    linear = eqx.nn.Linear(n_in, n_out, use_bias=use_bias, key=jr.key(seed))
    return eqx.tree_at(lambda m: m.weight, linear, scale * linear.weight)


def _run(net: AbstractCell, xs: Any) -> np.ndarray:
    return np.asarray(eqx.filter_jit(lambda xs: scan(net, xs, net.init_state(xs.shape[1:2]))[0])(jnp.asarray(xs)))


@pytest.mark.parametrize("case", sorted(path.stem for path in REFERENCE.glob("*.nir")))
def test_graphs_of_other_libraries_give_their_spikes(case: str) -> None:
    data = np.load(REFERENCE / f"{case}.npz")
    how = Discretization.like_snntorch() if case.startswith("snntorch") else Discretization.like_norse()
    net = from_nir(nir.read(REFERENCE / f"{case}.nir"), how)
    assert isinstance(net, Sequential)
    got = _run(net, data["x"])
    if case == "norse_box":  # ends in a leaky integrator
        np.testing.assert_allclose(got, data["out"], atol=1e-5)
    else:
        np.testing.assert_array_equal(got, data["out"])
        assert 0.02 < got.mean() < 0.5


IMAGE = (2, 6, 6)
NETWORKS: dict[str, Callable[[], tuple[AbstractCell, tuple[int, ...] | None]]] = {
    "lif and li": lambda: (
        Sequential(
            [_linear(6, 5), sp.LIF(5, 9.491221581029903, surrogate=STRICT), _linear(5, 3), sp.LI(3, jnp.array(7.3))]
        ),
        None,
    ),
    "constants per neuron": lambda: (
        sp.LIFCell(
            3,
            jnp.array([3.3, 7.7, 20.1]),
            threshold=jnp.array([0.1, 0.7, 1.3]),
            rest=-0.3,
            reset=sp.ValueReset(jnp.array([-1.0, 0.0, 0.05]), timing="before_decay", keep_gradient=True),
            input_gain=sp.ConstantGain(jnp.array([0.3, 1.0, 2.0])),
            surrogate=sp.FastSigmoid(7.0, tie=">="),
            dt=0.1,
        ),
        None,
    ),
    "current based, Euler": lambda: (
        Sequential(
            [
                sp.LIF.like_norse(4, surrogate=STRICT),
                _linear(4, 2, use_bias=False),
                sp.LIF.like_snntorch(2, 0.8, alpha=0.7, surrogate=STRICT),
            ]
        ),
        None,
    ),
    "integrate and fire": lambda: (
        Sequential(
            [sp.integrate_and_fire(4, surrogate=STRICT), sp.LIFCell(4, input_gain=sp.RateGain(9.0), surrogate=STRICT)]
        ),
        None,
    ),
    "recurrent": lambda: (
        Sequential([_linear(6, 4), sp.Recurrent(sp.LIFCell(4, 5.0, surrogate=STRICT), _linear(4, 4, seed=1))]),
        None,
    ),
    "convolution": lambda: (
        Sequential(
            [
                eqx.nn.Conv2d(2, 3, 3, padding=1, use_bias=False, key=jr.key(2)),
                sp.LIFCell((3, 6, 6), 4.0, threshold=0.02, surrogate=STRICT),
                eqx.nn.AvgPool2d(2, 2),
                eqx.nn.Conv2d(3, 2, 2, stride=(1, 2), key=jr.key(3)),
                eqx.nn.Pool(0.0, jax.lax.add, 2, 1, 1),
                PerSample(jnp.ravel, 3),
                sp.OneToOne(jnp.full(4, 2.0)),
                sp.Delay(4, 2.0),
                _linear(4, 3),
            ]
        ),
        IMAGE,
    ),
    "two layers in a loop": lambda: (
        GraphCell(
            {
                "a": sp.LIFCell(4, 5.0, threshold=0.3, surrogate=STRICT),
                "forth": _linear(4, 3, seed=4),
                "b": sp.LIFCell(3, 8.0, threshold=0.2, surrogate=STRICT),
                "back": _linear(3, 4, seed=5),
            },
            [("input", "a"), ("a", "forth"), ("forth", "b"), ("b", "back"), ("back", "a"), ("b", "output")],
        ),
        (4,),
    ),
}


INPUTS = {"constants per neuron": (3,), "current based, Euler": (4,), "integrate and fire": (4,)}


def _constants(net: AbstractCell) -> list[Any]:
    """Every array and number, in order."""
    return jax.tree.leaves(eqx.filter(net, lambda leaf: eqx.is_array(leaf) or isinstance(leaf, float)))


@pytest.mark.parametrize("case", NETWORKS)
def test_the_round_trip_is_exact(case: str, tmp_path: pathlib.Path) -> None:
    """Through a file: the same structure, constants and outputs; only the surrogate's curve has to be said again."""
    net, shape = NETWORKS[case]()
    path = tmp_path / "net.nir"
    nir.write(path, to_nir(net, shape))
    back = from_nir(nir.read(path), surrogate=STRICT)
    size = shape or INPUTS.get(case, (6,))
    xs = np.random.default_rng(0).normal(0.3, 1.0, size=(25, 2, *size)).astype(np.float32)
    expected = _run(net, xs)
    np.testing.assert_array_equal(_run(back, xs), expected)
    assert np.abs(expected).sum() > 0
    assert eqx.tree_equal(_constants(back), _constants(net))
    if isinstance(net, Sequential):
        assert isinstance(back, Sequential) and [type(a) for a in back.layers] == [type(a) for a in net.layers]


def test_a_loop_over_two_layers_is_that_loop() -> None:
    graph = NETWORKS["two layers in a loop"]()[0]
    assert isinstance(graph, GraphCell)
    a, b = graph.nodes["a"], graph.nodes["b"]
    forth, back = _linear(4, 3, seed=4), _linear(3, 4, seed=5)
    xs = jnp.asarray(np.random.default_rng(1).normal(0.5, 1.0, size=(15, 4)).astype(np.float32))
    assert isinstance(a, sp.LIFCell) and isinstance(b, sp.LIFCell)

    def step(x: Any, state: Any, *, key: Any = None) -> Any:
        spikes_a, state_a = a(x + back(state[2]), state[0])
        spikes_b, state_b = b(forth(spikes_a), state[1])
        return spikes_b, (state_a, state_b, spikes_b)

    expected, _ = jax.jit(lambda xs: scan(step, xs, (a.init_state(), b.init_state(), jnp.zeros(3))))(xs)
    got, _ = jax.jit(lambda xs: scan(graph, xs, graph.init_state()))(xs)
    np.testing.assert_array_equal(got, expected)
    assert 0 < expected.sum() < expected.size


def test_the_equations_are_nirs() -> None:
    """The written constants, put into NIR's differential equation, give the membrane between spikes."""
    cell = sp.LICell(1, 12.0, rest=-2.0, input_gain=sp.ConstantGain(0.4), dt=0.5)
    node = next(n for n in to_nir(cell).nodes.values() if isinstance(n, nir.LI))
    v = -2.0
    for _ in range(20_000):  # 10 ms in steps of 0.5 us
        v += 5e-7 / node.tau[0] * (node.v_leak[0] - v + node.r[0] * 3.0)
    xs = np.full((20, 1, 1), 3.0, np.float32)
    np.testing.assert_allclose(_run(cell, xs)[-1, 0, 0], v, rtol=1e-3)
    again = from_nir(nir.NIRGraph.from_list(nir.LI(node.tau, node.r, node.v_leak)), Discretization(0.5))
    np.testing.assert_allclose(_run(again, xs), _run(cell, xs), rtol=1e-5)


def test_values_changed_by_others_count() -> None:
    graph = to_nir(sp.LIFCell(2, 10.0, surrogate=STRICT, dt=0.5))
    node = next(n for n in graph.nodes.values() if isinstance(n, nir.LIF))
    node.tau = 2 * node.tau
    back = from_nir(graph)
    assert isinstance(back, sp.LIFCell) and (back.tau_mem, back.dt) == (20.0, 0.5)


def _graph_of(node: Any) -> Any:
    return nir.NIRGraph.from_list(node)


WIDE = GraphCell({"a": _linear(3, 1), "b": sp.LICell(3)}, [("input", "a"), ("a", "b"), ("input", "b"), ("b", "output")])
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown node": (
        lambda: from_nir(_graph_of(nir.Threshold(np.ones(3)))),
        "no cell for the node 'threshold', a Threshold. Replace it by LI, LIF",
    ),
    "no step": (
        lambda: from_nir(_graph_of(nir.LIF(*(np.ones(3) for _ in range(4))))),
        r"`discretization` is needed: the node 'lif' .* Give `Discretization\(dt=",
    ),
    "unknown layer": (lambda: to_nir(Sequential([_linear(2, 3), eqx.nn.LayerNorm(3)])), "no node for LayerNorm"),
    "adaptation": (
        lambda: to_nir(sp.LIFCell(2, adaptation=sp.ThresholdAdaptation())),
        "`0_lifcell` cannot be written to NIR.* `adaptation` is not None",
    ),
    "no reset": (lambda: to_nir(sp.LIFCell(2, reset=sp.NoReset())), "`reset` is not a SubtractReset or ValueReset"),
    "no input shape": (
        lambda: to_nir(eqx.nn.Conv2d(1, 1, 3, key=jr.key(0))),
        "`input_shape` is needed: the first layer, Conv2d",
    ),
    "uneven padding": (
        lambda: to_nir(eqx.nn.Conv1d(1, 1, 3, padding=((0, 1),), key=jr.key(0)), (1, 8)),
        "NIR pads both sides alike",
    ),
    "scalar constants": (
        lambda: from_nir(
            nir.NIRGraph(
                {
                    "input": nir.Input({"input": np.array([2])}),
                    "lif": nir.LIF(*(np.array(1.0),) * 4),
                    "output": nir.Output({"output": np.array([2])}),
                },
                [("input", "lif"), ("lif", "output")],
                type_check=False,
            ),
            Discretization(1.0),
        ),
        "'lif' has constants without a shape",
    ),
    "unknown edge": (lambda: GraphCell({"a": sp.LICell(2)}, [("input", "a"), ("a", "z")]), r"unknown: \['z'\]"),
    "nothing feeds": (lambda: GraphCell({"a": sp.LICell(2)}, [("a", "output")]), r"not fed: \['a'\]"),
    "loop without a cell": (
        lambda: GraphCell(
            {"a": _linear(2, 2), "b": _linear(2, 2)}, [("input", "a"), ("a", "b"), ("b", "a"), ("b", "output")]
        ),
        "loop without a cell",
    ),
    "unequal parts": (
        lambda: WIDE(jnp.ones(3), WIDE.init_state()),
        r"`edges` into 'b' must bring one shape to be added up; got \{'a': \(1,\), 'input': \(3,\)\}",
    ),
    "negative step": (lambda: Discretization(-1.0), "`dt` must be above 0 ms"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_carried_over_is_named(case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        make()


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match=r"`to_nir` needs .*eqx-graph-dynamics\[nir\]"):
        to_nir(sp.LICell(2))
    with pytest.raises(ImportError, match=r"`from_nir` needs .*eqx-graph-dynamics\[nir\]"):
        from_nir(None)
