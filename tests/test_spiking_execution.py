"""However a stack is run - stepped, scanned, chunked, checkpointed, streamed - it computes the same."""

import functools as ft
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_dynamics.spiking as sp
from eqx_dynamics import PerSample, Recorded, Sequential, Summed, SummedState, scan
from eqx_dynamics._apply import rows_by


KEYS = jr.split(jr.key(0), 8)
BATCH = 3
pytestmark = pytest.mark.usefixtures("light_compilation")


def _lif(size: int | tuple[int, ...], **options: Any) -> sp.LIFCell:
    return sp.LIFCell(size, 10.0, input_gain=sp.ConstantGain(), surrogate=sp.FastSigmoid(5.0), **options)


def _dense() -> Sequential:
    return Sequential(
        [
            eqx.nn.Linear(6, 8, key=KEYS[0]),
            eqx.nn.LayerNorm(8),
            _lif(8),
            eqx.nn.Dropout(0.4),
            eqx.nn.Linear(8, 4, key=KEYS[1]),
            sp.Recurrent(_lif(4, synapse=sp.SynapticCurrent(4.0)), eqx.nn.Linear(4, 4, key=KEYS[2])),
            Sequential([eqx.nn.MLP(4, 2, 5, 1, key=KEYS[3]), sp.LICell(2, 20.0)]),
        ]
    )


def _conv() -> Sequential:
    return Sequential(
        [
            eqx.nn.Conv2d(1, 2, 3, padding=1, key=KEYS[4]),
            PerSample(eqx.nn.GroupNorm(1, 2), 3),
            _lif((2, 6, 6)),
            eqx.nn.AvgPool2d(2, 2),
            eqx.nn.Dropout(0.2),
            PerSample(jnp.ravel, 3),
            eqx.nn.Linear(18, 4, key=KEYS[5]),
            _lif(4, reset=sp.ValueReset(0.2, detach=True), synapse=sp.SynapticCurrent(3.0)),
        ]
    )


def _looped(net: Sequential, xs: jax.Array, state: Any, key: jax.Array | None) -> tuple[jax.Array, Any]:
    """The whole network a step at a time: a plain function has no route of its own through a sequence."""
    return scan(lambda x, state, *, key=None: net(x, state, key=key), xs, state, key=key)


def _loss(run: Any, net: Sequential, xs: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Any]:
    ys, state = run(net, xs, net.init_state((BATCH,)), key)
    return jnp.sum(ys * jnp.cos(jnp.arange(ys.size, dtype=ys.dtype)).reshape(ys.shape)), (ys, state)


def _mismatches(got: Any, want: Any) -> list[str]:
    """The arrays of two results that are not equal to rounding."""
    got, want = (jax.tree.leaves_with_path(eqx.filter(tree, eqx.is_array)) for tree in (got, want))
    close = lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(jnp.max(jnp.abs(b)))))  # noqa: E731
    return [f"{path}: {a} is not {b}" for (path, a), (_, b) in zip(got, want, strict=True) if not close(a, b)]


def _gradients(net: Sequential, run: Any, xs: jax.Array, key: jax.Array | None) -> tuple:
    """The loss, outputs and last state; and the gradients of weights and inputs."""
    return eqx.filter_value_and_grad(lambda both: _loss(run, both[0], both[1], key), has_aux=True)((net, xs))


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_layer_by_layer_is_the_step_loop(kind: str) -> None:
    """Values, gradients, dropout masks."""
    net, shape = (_dense(), (6,)) if kind == "dense" else (_conv(), (1, 6, 6))
    xs = jr.normal(KEYS[6], (7, BATCH, *shape)) * 2

    @eqx.filter_jit
    def facts(net: Sequential, key: jax.Array) -> tuple:
        at_once = lambda net, xs, state, key: scan(net, xs, state, key=key)  # noqa: E731
        return _gradients(net, at_once, xs, key), _gradients(net, _looped, xs, key)

    got, want = facts(net, KEYS[7])
    assert float(jnp.mean(want[0][1][0] != 0)) > 0.05
    assert not _mismatches(got, want)


def test_chunks_checkpoints_and_sums_are_the_step_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients and, through the nested chunks, forward derivatives; of weights and inputs."""
    monkeypatch.setattr("eqx_dynamics._scan._MAX_STATES", 2)  # From three chunks on states are kept by groups of them.
    net = Sequential([eqx.nn.Linear(6, 4, key=KEYS[0]), sp.Recurrent(_lif(4), sp.OneToOne(jnp.full(4, 0.3)))])
    xs = jr.normal(KEYS[6], (11, BATCH, 6)) * 2
    nested: dict[str, Any] = {"chunk": 2, "checkpoint": True}

    def summed(net: Sequential, xs: jax.Array, state: Any, key: None) -> tuple[jax.Array, Any]:
        _, state = scan(Summed(net), xs, SummedState(state, 0.0), **nested)
        return state.total, state.cell

    def loop_summed(net: Sequential, xs: jax.Array, state: Any, key: None) -> tuple[jax.Array, Any]:
        ys, state = _looped(net, xs, state, key)
        return ys.sum(0), state

    def chunked(net: Sequential, xs: jax.Array, state: Any, key: None, how: Any) -> tuple[jax.Array, Any]:
        return scan(net, xs, state, **how)

    @eqx.filter_jit
    def facts(net: Sequential) -> list[tuple]:
        arrays, static = eqx.partition(net, eqx.is_inexact_array)

        def forward(run: Any) -> jax.Array:
            ones = jax.tree.map(jnp.ones_like, (arrays, xs))
            value = lambda arrays, xs: _loss(run, eqx.combine(arrays, static), xs, None)[0]  # noqa: E731
            return jax.jvp(value, (arrays, xs), ones)[1]

        runs = [_looped, *(ft.partial(chunked, how=how) for how in ({"chunk": 4}, nested))]
        loop, *others = [_gradients(net, run, xs, None) for run in runs]
        sums = [_gradients(net, run, xs, None) for run in (loop_summed, summed)]
        return [*((other, loop) for other in others), tuple(sums), (forward(runs[2]), forward(_looped))]

    for got, want in facts(net):
        assert not _mismatches(got, want)


def test_two_loops_have_the_derivatives_of_the_step_loop() -> None:
    """Of neurons whose resets are detached: first and second, by every constant, the inputs and the initial state."""
    learned: dict[str, Any] = {"threshold": jnp.array([0.9, 1.0, 1.1]), "rest": jnp.array(0.1)}
    tau, synapse = jnp.array([5.0, 10.0, 20.0]), sp.SynapticCurrent(jnp.array(3.0), delayed=True)
    resets = sp.SubtractReset(jnp.array(0.2)), sp.ValueReset(jnp.array(-0.1), keep_gradient=True), sp.ValueReset(0.0)
    cells = [
        sp.LIFCell(3, tau, reset=reset, synapse=current, surrogate=sp.FastSigmoid(2.0), **learned)
        for reset, current in zip(resets, (synapse, None, None), strict=True)
    ]
    xs = jr.normal(KEYS[0], (9, BATCH, 3)) * 6

    def outcome(run: Any) -> Any:
        def loss(everything: Any) -> jax.Array:
            total = jnp.zeros(())
            for index, (cell, state) in enumerate(everything[0]):
                ys, last = run(cell, everything[1], state, reverse=index == 1, chunk=4 if index == 2 else None)
                total += jnp.sum(jnp.cos(ys + jnp.arange(ys.size, dtype=ys.dtype).reshape(ys.shape))) + jnp.sum(
                    last.membrane**2
                )
            return total

        start = [(cell, jax.tree.map(lambda a: a + 0.3, cell.init_state((BATCH,)))) for cell in cells]
        arrays, static = eqx.partition((start, xs), eqx.is_inexact_array)
        gradient = jax.grad(lambda arrays: loss(eqx.combine(arrays, static)))
        return jax.jvp(gradient, (arrays,), (jax.tree.map(jnp.cos, arrays),))

    def looped(cell: Any, xs: jax.Array, state: Any, *, reverse: bool, chunk: int | None) -> Any:
        return scan(lambda x, state, *, key=None: cell(x, state), xs, state, reverse=reverse)

    got, want = jax.jit(lambda: (outcome(scan), outcome(looped)))()
    assert len(jax.tree.leaves(got)) == 34
    assert not _mismatches(got, want)


@pytest.mark.parametrize("reverse, channels", [(False, 6), (True, 12)])
def test_cache_sized_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, reverse: bool, channels: int) -> None:
    """The CPU's way, chunks that long sequences run in by themselves (here 8 steps of 17), and the accelerators'.

    That is no chunks, and loops unrolled by 8. A first product that makes its input smaller is ahead of the chunks.
    """
    net = Sequential(
        [eqx.nn.Linear(channels, 8, key=KEYS[0]), _lif(8), eqx.nn.Dropout(0.3), eqx.nn.Linear(8, 3, key=KEYS[1])]
    )
    net = Sequential([*net.layers, sp.LICell(3, sp.Positive(5.0))])
    xs = jr.normal(KEYS[2], (17, BATCH, channels)) * 3

    def outcome(unroll: int) -> tuple[Any, str]:
        def run(net: Sequential, xs: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
            return scan(net, xs, net.init_state((BATCH,)), key=key, reverse=reverse, unroll=unroll)

        def loss(net: Sequential, xs: jax.Array) -> tuple[jax.Array, Any]:
            ys, state = run(net, xs, KEYS[3])
            return jnp.sum(jnp.sin(ys)), (ys, state)

        text = str(eqx.filter_make_jaxpr(run)(net, xs, KEYS[3])[0])
        return eqx.filter_jit(eqx.filter_value_and_grad(loss, has_aux=True))(net, xs), text

    whole, text = outcome(unroll=8)
    assert "remat" not in text and "checkpoint" not in text
    monkeypatch.setattr("eqx_dynamics._sequential._CHUNK_ELEMENTS", 1)
    chunked, text = outcome(unroll=1)
    assert "remat" in text or "checkpoint" in text
    assert not _mismatches(chunked, whole)


def test_convolutions_and_products_over_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No convolution is inside a loop, where XLA runs it several times slower on CPU, however long the sequence."""
    monkeypatch.setattr("eqx_dynamics._sequential._CHUNK_ELEMENTS", 1)

    def loss(net: Sequential, xs: jax.Array) -> jax.Array:
        return scan(net, xs, net.init_state((BATCH,)), key=KEYS[7])[0].sum()

    def loops(net: Sequential, xs: jax.Array, primitive: str) -> list[bool]:
        """For each use of a primitive in a training step, whether it is inside a loop."""
        return _uses(eqx.filter_make_jaxpr(eqx.filter_grad(loss))(net, xs)[0].jaxpr, primitive)

    assert loops(_conv(), jnp.ones((17, BATCH, 1, 6, 6)), "conv_general_dilated") == [False] * 2  # Output and weight.
    dense = Sequential([eqx.nn.Linear(6, 8, key=KEYS[0]), _lif(8)])
    assert set(loops(dense, jnp.ones((17, BATCH, 6)), "dot_general")) == {True}  # Chunks of steps in the cache.
    fewer = Sequential([eqx.nn.Linear(12, 8, key=KEYS[0]), _lif(8)])
    assert sorted(set(loops(fewer, jnp.ones((17, BATCH, 12)), "dot_general"))) == [False, True]  # Forward, backward.
    assert loops(dense, jnp.ones((15, BATCH, 6)), "dot_general") == [False] * 2


def _uses(jaxpr: Any, primitive: str, in_loop: bool = False) -> list[bool]:
    found = []
    for equation in jaxpr.eqns:
        found += [in_loop] * (equation.primitive.name == primitive)
        inner = in_loop or equation.primitive.name in ("scan", "while")
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            found += _uses(getattr(part, "jaxpr", part), primitive, inner) if hasattr(part, "eqns") else []
    return found


def test_halves_streaming_and_ensembles() -> None:
    net = eqx.nn.inference_mode(_dense())
    xs = jr.normal(KEYS[6], (10, BATCH, 6)) * 2
    start = net.init_state((BATCH,))
    run = eqx.filter_jit(lambda xs, state: scan(net, xs, state))
    whole, last = run(xs, start)
    first, middle = run(xs[:5], start)
    second, end = run(xs[5:], middle)
    assert not _mismatches((jnp.concatenate([first, second]), end), (whole, last))

    # A stream: one step at a time, compiled once.
    step = eqx.filter_jit(eqx.debug.assert_max_traces(net.__call__, max_traces=1))
    state, outs = start, []
    for x in xs:
        y, state = step(x, state)
        outs.append(y)
    assert not _mismatches((jnp.stack(outs), state), (whole, last))

    # An ensemble of networks, each on the whole batch; and one network on one sample at a time.
    def make(key: jax.Array) -> Sequential:
        return Sequential([eqx.nn.Linear(6, 5, key=key), _lif(5)])

    ensemble = eqx.filter_vmap(make)(jr.split(KEYS[5], 4))

    @eqx.filter_jit
    @eqx.filter_vmap(in_axes=(eqx.if_array(0), None))
    def member(net: Sequential, xs: jax.Array) -> jax.Array:
        return scan(net, xs, net.init_state((BATCH,)))[0]

    together = member(ensemble, xs)
    alone = make(jr.split(KEYS[5], 4)[2])
    np.testing.assert_allclose(together[2], eqx.filter_jit(scan)(alone, xs, alone.init_state((BATCH,)))[0], atol=1e-5)


def test_bool_spikes_go_in_and_the_recorder_sees_every_state() -> None:
    net = Sequential([eqx.nn.Linear(6, 5, key=KEYS[0]), _lif(5)])
    spikes = jr.bernoulli(KEYS[1], 0.4, (9, BATCH, 6))
    from_bool, _ = scan(net, spikes, net.init_state((BATCH,)))
    from_float, _ = scan(net, spikes.astype(float), net.init_state((BATCH,)))
    np.testing.assert_array_equal(from_bool, from_float)
    (out, states), last = scan(Recorded(net), spikes, Recorded(net).init_state((BATCH,)))
    np.testing.assert_array_equal(out, from_bool)
    assert states[1].membrane.shape == (9, BATCH, 5)
    np.testing.assert_allclose(states[1].membrane[-1], last[1].membrane, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("delayed", [None, False, True])
def test_linear_neurons_in_parallel_over_time(
    monkeypatch: pytest.MonkeyPatch, delayed: bool | None, reverse: bool
) -> None:
    """The associative scan that accelerators use, here on CPU: readout and reset-free neuron, values and gradients."""
    synapse = None if delayed is None else sp.SynapticCurrent(3.0, delayed=delayed)
    tau = jnp.array([4.0, 20.0])
    xs = jr.normal(KEYS[1], (13, BATCH, 2))

    def outcome() -> Any:
        @eqx.filter_jit
        @eqx.filter_value_and_grad(has_aux=True)
        def run(cells: tuple, xs: jax.Array) -> tuple[jax.Array, Any]:
            outs = [scan(cell, xs, start(cell), reverse=reverse) for cell in cells]
            return jnp.stack([jnp.sum(jnp.sin(ys)) for ys, _ in outs]).sum(), outs

        return run((sp.LICell(2, tau, rest=0.3, synapse=synapse), _lif(2, reset=sp.NoReset(), synapse=synapse)), xs)

    def start(cell: Any) -> Any:
        return jax.tree.map(lambda a: a + 0.2, cell.init_state((BATCH,)))

    looped = outcome()
    for module in ("_li", "_lif"):
        monkeypatch.setattr(f"eqx_dynamics.spiking.{module}.in_parallel", lambda: True)
    assert not _mismatches(outcome(), looped)


def test_memory_of_a_long_training_step() -> None:
    """Compiled, not run: deterministic. Membranes by default; flat in the number of steps in chunks, outputs summed."""
    net = Sequential([eqx.nn.Linear(50, 64, key=KEYS[0]), _lif(64), eqx.nn.Linear(64, 64, key=KEYS[1]), _lif(64)])
    batch = 32

    def temporary(num_steps: int, cell: Any = net, **how: Any) -> int:
        def loss(cell: Any, xs: jax.Array) -> jax.Array:
            ys, state = scan(cell, xs, cell.init_state((batch,)), **how)
            return state.total.mean() if ys is None else ys.mean()

        xs = jax.ShapeDtypeStruct((num_steps, batch, 50), jnp.float32)
        arrays, static = eqx.partition(cell, eqx.is_array)
        step = jax.jit(jax.grad(lambda arrays, xs: loss(eqx.combine(arrays, static), xs)))
        memory = step.lower(arrays, xs).compile().memory_analysis()
        return memory.temp_size_in_bytes  # pyright: ignore[reportOptionalMemberAccess]

    membranes = 2 * 4 * batch * 64  # Of one step.
    assert temporary(1000) < 2.5 * 1000 * membranes
    long = temporary(10_000, Summed(net), chunk=20, checkpoint=True)
    assert long < 2 * temporary(200, Summed(net), chunk=20, checkpoint=True)
    assert long < 200 * membranes


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_product_has_every_derivative(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Of rows by a weight: forwards, backwards, both in turn, over a batch of weights; by either factor or both."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, weights = jr.normal(KEYS[0], (5, 3)), jr.normal(KEYS[1], (2, 4, 3))

    def derivatives(by: Any) -> Any:
        cubes = lambda x, weight: jnp.sum(by(x, weight) ** 3)  # noqa: E731
        gradients = [jax.grad(cubes, argnums) for argnums in (0, 1, (0, 1))]
        directions = jnp.cos(x), jnp.cos(weights[0])
        forward = [jax.jvp(f, (x, weights[0]), directions) for f in (by, *gradients)]
        return forward, jax.vmap(gradients[1], in_axes=(None, 0))(x, weights)

    jaxpr = jax.make_jaxpr(jax.grad(lambda weight: rows_by(x, weight).sum()))(weights[0])
    assert ("optimization_barrier" in str(jaxpr)) == (backend == "cpu")
    got, want = jax.jit(lambda: (derivatives(rows_by), derivatives(lambda x, weight: x @ weight.T)))()
    assert not _mismatches(got, want)


def test_what_cannot_run_is_named() -> None:
    net = Sequential([eqx.nn.Linear(6, 5, key=KEYS[0]), _lif(5), eqx.nn.Dropout(0.5)])
    with pytest.raises(ValueError, match="`key` is missing: a Dropout layer draws its mask"):
        scan(net, jnp.ones((4, 2, 6)), net.init_state((2,)))
    with pytest.raises(ValueError, match=r"`x` must end in the 6 features of the Linear layer; got shape \(4, 2, 7\)"):
        scan(net, jnp.ones((4, 2, 7)), net.init_state((2,)))
    with pytest.raises(ValueError, match=r"`state` must have one entry for each of the 3 layers"):
        scan(net, jnp.ones((4, 2, 6)), net.init_state((2,))[:2])
    with pytest.raises(TypeError, match="BatchNorm, whose running statistics are hidden state"):
        batch_norm = eqx.nn.BatchNorm(5, axis_name="batch", mode="ema")
        scan(Sequential([batch_norm]), jnp.ones((4, 2, 5)), (None,))
    with pytest.raises(TypeError, match="GroupNorm, which does not say how many axes make one sample"):
        scan(Sequential([eqx.nn.GroupNorm(1, 5)]), jnp.ones((4, 2, 5)), (None,))
    with pytest.raises(ValueError, match="`feature_ndim` must not be negative"):
        PerSample(jnp.ravel, -1)
    with pytest.raises(ValueError, match="`x` must have at least 3 axes"):
        PerSample(jnp.ravel, 3)(jnp.ones((2, 2)))
