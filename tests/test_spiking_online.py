"""Forward, online estimators of the gradient against backpropagation through time and against their formulas."""

import functools as ft
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import eqx_dynamics as dyn
import eqx_dynamics.spiking as snn
from eqx_dynamics.training import make_step


pytestmark = pytest.mark.usefixtures("light_compilation")
KEYS = jr.split(jr.key(0), 10)
XS = jr.normal(KEYS[0], (9, 2, 4))
SPIKES = XS > 0.5, (XS > 0.5).astype(float)
TARGETS = jr.normal(KEYS[1], (9, 2, 3))


def _squares(y: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.mean((y - target) ** 2)


class _CutRecurrence(eqx.Module):
    """Feedback whose spikes are taken as given."""

    layer: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(x) @ self.layer.weight.T + self.layer.bias[None]


def _network(cell: snn.AbstractNeuron, *, recurrent: bool = False, leaky: bool = True) -> dyn.Sequential:
    neurons = snn.Recurrent(cell, eqx.nn.Linear(5, 5, key=KEYS[2])) if recurrent else cell
    layers = [eqx.nn.Linear(4, 5, key=KEYS[3]), neurons, eqx.nn.Linear(5, 3, key=KEYS[4])]
    return dyn.Sequential([*layers, snn.LICell(3, 8.0)] if leaky else layers)


def _backpropagated(network: dyn.Sequential, xs: jax.Array, targets: jax.Array) -> tuple[jax.Array, dyn.Sequential]:
    def loss(network: dyn.Sequential) -> jax.Array:
        ys, _ = dyn.scan(network, xs, network.init_state(xs.shape[1:2]))
        return jnp.mean(jax.vmap(_squares)(ys, targets))

    return eqx.filter_value_and_grad(loss)(network)


def _arrays(tree: Any) -> list[jax.Array]:
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))


def _affine(network: dyn.Sequential) -> list[Any]:
    recurrent = network.layers[1]
    weight = recurrent.weight if isinstance(recurrent, snn.Recurrent) else None
    return _arrays([network.layers[0], weight, network.layers[2]])


def _weight(network: Any, index: int) -> Any:
    return network.layers[index].weight


def _merged(x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-2], 6)


def _close(got: list[jax.Array], want: list[jax.Array]) -> None:
    for a, b in zip(got, want, strict=True):
        assert float(jnp.abs(b).max()) > 1e-4
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


LIF = ft.partial(snn.LIFCell, 5, input_gain=snn.ConstantGain())
ALIF = snn.ThresholdAdaptation(12.0, strength=0.4)


@pytest.mark.parametrize(
    ("cell", "leaky"),
    [
        (LIF(6.0), True),
        (LIF(jnp.linspace(3.0, 9.0, 5), adaptation=ALIF, reset=snn.SubtractReset(detach=False)), False),
        (LIF(6.0, synapse=snn.SynapticCurrent(4.0), refractory=snn.Refractory(2)), True),
    ],
    ids=["LIF", "ALIF", "synapse"],
)
def test_eprop_without_recurrence_is_backpropagation(cell: snn.AbstractNeuron, leaky: bool) -> None:
    """Whatever the variables of the neuron, and with its resets' gradients."""
    network = _network(cell, leaky=leaky)
    (loss, grads), (want_loss, want) = eqx.filter_jit(
        lambda n: (snn.eprop(snn.EProp(n), XS, TARGETS, _squares), _backpropagated(n, XS, TARGETS))
    )(network)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    _close(_affine(grads.network), _affine(want))


@pytest.mark.parametrize("emit", ["new", "old"])
def test_eprop_with_recurrence_is_backpropagation_with_that_path_cut(emit: Any) -> None:
    reset = snn.SubtractReset(timing="before_decay", emit=emit)
    network = _network(LIF(6.0, adaptation=ALIF, reset=reset), recurrent=True)
    cut = eqx.tree_at(lambda n: n.layers[1].weight, network, replace_fn=_CutRecurrence)
    (_, grads), (_, want), (_, whole) = eqx.filter_jit(
        lambda n, c: (
            snn.eprop(snn.EProp(n), XS, TARGETS, _squares),
            _backpropagated(c, XS, TARGETS),
            _backpropagated(n, XS, TARGETS),
        )
    )(network, cut)
    _close(_affine(grads.network), _affine(want))
    assert not np.allclose(_affine(grads.network)[0], _affine(whole)[0], rtol=1e-2)  # There was something to cut.


def test_eprop_of_alif_is_the_formula_of_the_paper() -> None:
    """Bellec et al. 2020, eqs. 23-25, written out for one synapse at a time."""
    beta, rho, strength = np.exp(-1 / 6.0), np.exp(-1 / 12.0), 0.4
    cell = LIF(6.0, adaptation=ALIF, surrogate=snn.Triangle(0.3, 1.0))
    network = _network(cell, leaky=False)
    (_, grads), ((ys, states), _) = eqx.filter_jit(
        lambda n: (
            snn.eprop(snn.EProp(n), XS[:, :1], TARGETS[:, :1], _squares),
            dyn.scan(dyn.Recorded(n), XS[:, :1], n.init_state((1,))),
        )
    )(network)
    w_out = np.asarray(_weight(network, 2))
    membrane = np.asarray(states[1].membrane[:, 0]), np.asarray(states[1].adaptation[:, 0])
    first = dyn.Sequential(network.layers[:2])
    fired = np.asarray(dyn.scan(first, XS[:, :1], first.init_state((1,)))[0][:, 0])
    assert 0.05 < fired.mean() < 0.9
    eps_v, eps_a, total = np.zeros(4), np.zeros((5, 4)), np.zeros((5, 4))
    before = np.zeros(5)
    for t in range(9):
        level = rho * before  # The adaptation that this step's threshold has: before its own spike.
        v = membrane[0][t] + fired[t] * 1.0  # Before the reset.
        psi = np.maximum(0, 0.3 * (1 - np.abs(v - 1 - strength * level)))
        eps_v = beta * eps_v + np.asarray(XS[t, 0])
        # a' = rho a + z: its trace is decayed first, then this step's spike is added.
        decayed = rho * eps_a
        e = psi[:, None] * (eps_v[None] - strength * decayed)
        eps_a = decayed + e
        error = 2 * (np.asarray(ys[t, 0]) - np.asarray(TARGETS[t, 0])) / 3 / 9
        total += (w_out.T @ error)[:, None] * e
        before = membrane[1][t]
    np.testing.assert_allclose(_weight(grads.network, 0), total, rtol=1e-3, atol=1e-6)


def test_feedback_that_is_not_the_readout() -> None:
    """Random: its own matrix in the hidden gradient, none for itself. Adaptive: the readout's gradient."""
    network, matrix = _network(LIF(6.0)), jr.normal(KEYS[5], (3, 5))
    models = [snn.EProp(network, kind(matrix)) for kind in (snn.RandomFeedback, snn.AdaptiveFeedback)]
    swapped = snn.EProp(eqx.tree_at(lambda n: n.layers[2].weight, network, matrix))
    random: Any
    adaptive: Any
    random, adaptive, same = eqx.filter_jit(lambda ms: [snn.eprop(m, XS, TARGETS, _squares)[1] for m in ms])(
        [*models, swapped]
    )
    assert np.array_equal(random.feedback.matrix, np.zeros((3, 5)))
    np.testing.assert_array_equal(adaptive.feedback.matrix, _weight(adaptive.network, 2))
    np.testing.assert_array_equal(_weight(random.network, 0), _weight(adaptive.network, 0))
    # The error differs where the readout does, so compare the directions that a given error is sent back in.
    assert not np.allclose(_weight(random.network, 0), _weight(same.network, 0))
    symmetric = eqx.filter_jit(snn.eprop)(snn.EProp(network), XS, TARGETS, _squares)[1]
    given = eqx.filter_jit(snn.eprop)(
        snn.EProp(network, snn.RandomFeedback(_weight(network, 2))), XS, TARGETS, _squares
    )[1]
    np.testing.assert_allclose(_weight(given.network, 0), _weight(symmetric.network, 0), rtol=1e-5)


def test_eprop_under_constraints_and_in_make_step() -> None:
    """Masked weights get no gradient where they do not exist, and training with the estimate learns."""
    mask = jr.bernoulli(KEYS[6], 0.6, (5, 4))
    first: Any = snn.DenseConnection(snn.Masked(jr.normal(KEYS[7], (5, 4)), mask), jnp.zeros(5))
    network = _network(LIF(6.0))
    network = eqx.tree_at(lambda n: n.layers[0], network, first)
    step = make_step(lambda model, batch, key: snn.with_gradient(snn.eprop, model, *batch, _squares), optax.adam(3e-2))
    state = step.init(snn.EProp(network), key=KEYS[8])
    losses = []
    run = eqx.filter_jit(step)
    for _ in range(30):
        metrics, state = run((XS, TARGETS), state)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    after = _weight(state.model.network, 0)
    assert np.array_equal(after.weight == first.weight.weight, ~np.asarray(mask))


def test_online_rules_take_spikes_as_bools() -> None:
    network = _network(LIF(6.0))
    losses = eqx.filter_jit(
        lambda n: [
            (snn.eprop(snn.EProp(n), x, TARGETS, _squares)[0], snn.ottt(n, x, TARGETS, _squares)[0]) for x in SPIKES
        ]
    )(network)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_ottt_is_backpropagation_for_the_last_spiking_layer() -> None:
    network = _network(LIF(6.0, surrogate=snn.ATan()), leaky=False)
    (loss, grads), (want_loss, want) = eqx.filter_jit(
        lambda n: (snn.ottt(n, XS, TARGETS, _squares), _backpropagated(n, XS, TARGETS))
    )(network)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    _close(_affine(grads), _affine(want))


def test_ottt_through_several_layers_is_its_formula() -> None:
    """Errors of one step times traces, for two spiking layers, a convolution below them and a leaky readout above."""
    conv = eqx.nn.Conv1d(1, 2, 2, key=KEYS[2])
    layers: list[Any] = [
        conv,
        snn.LIFCell((2, 3), 5.0, input_gain=snn.ConstantGain(), surrogate=snn.ATan()),
        lambda x: x.reshape(*x.shape[:-2], 6),
    ]
    layers += [eqx.nn.Linear(6, 5, key=KEYS[3]), LIF(6.0, surrogate=snn.ATan()), eqx.nn.Linear(5, 3, key=KEYS[4])]
    network = dyn.Sequential([*layers, snn.LICell(3, 8.0)])
    xs = XS[:, :, None]
    (_, grads), ((ys, states), _) = eqx.filter_jit(
        lambda n: (snn.ottt(n, xs, TARGETS, _squares), dyn.scan(dyn.Recorded(n), xs, n.init_state((2,))))
    )(network)
    hidden = dyn.Sequential(layers[:2])
    spikes_1 = np.asarray(dyn.scan(hidden, xs, hidden.init_state((2,)))[0]).reshape(9, 2, 6)
    deeper = dyn.Sequential(layers[:5])
    spikes_2 = np.asarray(dyn.scan(deeper, xs, deeper.init_state((2,)))[0])
    slope = snn.ATan().derivative
    psi_1 = np.asarray(slope(states[1].membrane + spikes_1.reshape(9, 2, 2, 3) - 1)).reshape(9, 2, 6)
    psi_2 = np.asarray(slope(states[4].membrane + spikes_2 - 1))
    b_1, b_2, b_3 = (float(np.exp(-1 / tau)) for tau in (5.0, 6.0, 8.0))
    w_2, w_3 = (np.asarray(_weight(network, i)) for i in (3, 5))
    trace_0, trace_1, trace_2 = np.zeros((2, 4)), np.zeros((2, 6)), np.zeros((2, 5))
    total = [np.zeros((2, 1, 2)), np.zeros((5, 6)), np.zeros((3, 5))]
    for t in range(9):
        trace_0 = b_1 * trace_0 + np.asarray(XS[t])
        trace_1, trace_2 = b_2 * trace_1 + spikes_1[t], b_3 * trace_2 + spikes_2[t]
        delta_3 = 2 * np.asarray(ys[t] - TARGETS[t]) / 6 / 9 * (1 - b_3)
        delta_2 = delta_3 @ w_3 * psi_2[t]
        delta_1 = (delta_2 @ w_2 * psi_1[t]).reshape(2, 2, 3)
        windows = np.stack([trace_0[:, :3], trace_0[:, 1:]], axis=-1)  # (batch, position, offset)
        total[0] += np.einsum("bcp,bpo->co", delta_1, windows)[:, None]
        total[1] += delta_2.T @ trace_1
        total[2] += delta_3.T @ trace_2
    for index, want in zip((0, 3, 5), total, strict=True):
        assert np.abs(want).max() > 1e-4
        np.testing.assert_allclose(_weight(grads, index), want, rtol=1e-3, atol=1e-7)


def test_forward_gradients_are_right_on_average() -> None:
    """Exact along a direction, unbiased over many: the error of the mean is what its variance says."""
    network = _network(LIF(6.0))

    def loss(network: dyn.Sequential) -> jax.Array:
        ys, _ = dyn.scan(network, XS, network.init_state((2,)))
        return jnp.mean((ys - TARGETS) ** 2)

    (value, want), (got_value, mean), one = eqx.filter_jit(
        lambda n: (
            eqx.filter_value_and_grad(loss)(n),
            snn.forward_gradient(loss, n, key=KEYS[7], num_directions=4000),
            snn.forward_gradient(loss, n, key=KEYS[8])[1],
        )
    )(network)
    np.testing.assert_allclose(got_value, value, rtol=1e-6)
    flat = [jnp.concatenate([leaf.ravel() for leaf in _arrays(tree)]) for tree in (want, mean, one)]
    # Var of an entry is g_i^2 + |g|^2.
    scale = jnp.sqrt((flat[0] ** 2 + jnp.sum(flat[0] ** 2)) / 4000)
    assert float(jnp.mean(((flat[1] - flat[0]) / scale) ** 2)) < 2
    assert float(jnp.vdot(flat[1], flat[0]) / jnp.vdot(flat[0], flat[0])) == pytest.approx(1, abs=0.1)
    # One direction v: (g.v) v, so that |estimate|^2 / (g.estimate) = |v|^2, about the number of parameters.
    squared = float(jnp.vdot(flat[2], flat[2]) / jnp.vdot(flat[0], flat[2]))
    assert 0.5 * flat[0].size < squared < 1.7 * flat[0].size


def test_online_errors_are_named() -> None:
    with pytest.raises(ValueError, match=r"`network` must be Sequential\(\[affine, neurons, affine\]\)"):
        snn.EProp(dyn.Sequential([snn.LIFCell(5)]))
    with pytest.raises(ValueError, match=r"`network` must hold cells whose membranes simply decay.*use `eprop`"):
        snn.ottt(_network(snn.LIFCell(5, adaptation=ALIF)), XS, TARGETS, _squares)
    with pytest.raises(ValueError, match="`network` must have one `tau_mem` in a layer"):
        snn.ottt(_network(snn.LIFCell(5, jnp.arange(1.0, 6.0))), XS, TARGETS, _squares)
    per_output = _network(snn.LIFCell(5))
    per_output = eqx.tree_at(lambda n: n.layers[3], per_output, snn.LICell(3, jnp.array([1.0, 2.0, 3.0])))
    with pytest.raises(ValueError, match="`network` must read out with one `tau_mem`"):
        snn.eprop(snn.EProp(per_output), XS, TARGETS, _squares)
    with pytest.raises(ValueError, match="`num_directions` must be at least 1"):
        snn.forward_gradient(jnp.sum, jnp.ones(2), key=KEYS[0], num_directions=0)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["eprop", "ottt", "forward"])
def test_memory_does_not_grow_with_time(rule: str) -> None:
    """What the compiled programs need besides inputs and outputs, for 20 and for 400 steps."""
    network = _network(LIF(6.0))

    def loss(network: dyn.Sequential, xs: jax.Array, targets: jax.Array) -> jax.Array:
        def step(x: Any, state: Any, *, key: Any = None) -> Any:
            y, state = network(x[0], state)
            return _squares(y, x[1]), state

        return jnp.mean(dyn.scan(step, (xs, targets), network.init_state((2,)))[0])

    def run(xs: jax.Array, targets: jax.Array) -> Any:
        if rule == "forward":
            return _arrays(snn.forward_gradient(loss, network, xs, targets, key=KEYS[0])[1])
        if rule == "ottt":
            return _arrays(snn.ottt(network, xs, targets, _squares)[1])
        return _arrays(snn.eprop(snn.EProp(network), xs, targets, _squares)[1])

    def temporary(num_steps: int) -> int:
        shapes = [jax.ShapeDtypeStruct((num_steps, 2, size), jnp.float32) for size in (4, 3)]
        analysis = jax.jit(run).lower(*shapes).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    # A loss or two a step is put out: 8 bytes, where states and spikes would be hundreds.
    assert temporary(400) - temporary(20) <= 16 * 380


@pytest.mark.parametrize("online", [snn.ottt, snn.eprop])
def test_constants_have_no_gradient(online, getkey):
    """A gradient is for optax: what is not trained must not move."""
    network = dyn.Sequential(
        [eqx.nn.Linear(3, 4, key=getkey()), snn.LIFCell(4, 10.0, threshold=0.2), eqx.nn.Linear(4, 2, key=getkey())]
    )
    loss = lambda y, target: jnp.mean((y - target) ** 2)  # noqa: E731
    model = network if online is snn.ottt else snn.EProp(network)
    _, grads = online(model, jnp.ones((10, 2, 3)), jnp.zeros((10, 2, 2)), loss)
    params, optimizer = eqx.filter(model, eqx.is_inexact_array), optax.adam(0.1)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(grads, optimizer.init(params))
    moved = eqx.apply_updates(model, updates)
    cell = (moved if online is snn.ottt else moved.network).layers[1]
    assert (cell.tau_mem, cell.dt, cell.threshold) == (10.0, 1.0, 0.2)
