"""Shortcuts, branches and delays: equal to the step loop, their definitions, and what is refused."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.test_util import check_grads

import eqx_dynamics.spiking as sp
from eqx_dynamics import Sequential, scan


pytestmark = pytest.mark.usefixtures("light_compilation")
XS = jnp.asarray(np.random.default_rng(0).normal(size=(12, 2, 3)).astype(np.float32))


def _looped(cell, xs, state, key):
    ys = []
    for x, k in zip(xs, jr.split(key, xs.shape[0]), strict=True):
        y, state = cell(x, state, key=k)
        ys.append(y)
    return jnp.stack(ys), state


def _stack() -> Sequential:
    linear = eqx.nn.Linear(3, 3, key=jr.key(0))
    return Sequential([linear, eqx.nn.Dropout(0.5), sp.LIFCell(3, 3.0, threshold=0.2)])


@pytest.mark.parametrize(
    "cell",
    [
        sp.Residual(_stack()),
        sp.Parallel([_stack(), sp.LICell(3), jnp.tanh], ft.partial(jnp.concatenate, axis=-1)),
        Sequential([sp.Residual(_stack()), sp.Parallel([_stack(), _stack()]), sp.Delay(3, 2.5)]),
        sp.Delay(3, jnp.asarray([0.0, 1.5, 4.0]), max_delay=4.0),
    ],
    ids=["residual", "parallel", "nested", "delay"],
)
def test_scan_is_the_step_loop(cell):
    """The same numbers, dropout masks included, whole and in chunks."""
    state = cell.init_state((2,))
    ys, final = eqx.filter_jit(scan)(cell, XS, state, key=jr.key(1))
    looped, looped_final = eqx.filter_jit(_looped)(cell, XS, state, jr.key(1))
    np.testing.assert_allclose(ys, looped, atol=1e-6)
    same = jax.tree.map(lambda a, b: bool(jnp.allclose(a, b, atol=1e-6)), final, looped_final)
    assert jax.tree.all(same)
    chunked, _ = scan(cell, XS, state, key=jr.key(1), chunk=5)
    np.testing.assert_allclose(chunked, ys, atol=1e-6)


def test_definitions():
    cell = sp.LICell(3)
    alone, _ = scan(cell, XS, cell.init_state((2,)))
    shortcut = sp.Residual(cell)
    np.testing.assert_allclose(scan(shortcut, XS, shortcut.init_state((2,)))[0], alone + XS, rtol=1e-6)
    both = sp.Parallel([cell, jnp.tanh])
    np.testing.assert_allclose(scan(both, XS, both.init_state((2,)))[0], alone + jnp.tanh(XS), rtol=1e-6)


def test_delays():
    """Whole steps shift, each line by its own; half a step is the mean of two; reverse looks ahead."""
    line = sp.Delay(3, sp.Frozen(jnp.asarray([0.0, 1.0, 2.5])), max_delay=3.0, dt=0.5)
    ys, _ = scan(line, XS, line.init_state((2,)))
    for column, shift in ((0, 0), (1, 2), (2, 5)):
        expected = np.concatenate([np.zeros((shift, 2)), XS[: 12 - shift, :, column]])
        np.testing.assert_array_equal(ys[..., column], expected)
    line = sp.Delay(3, 1.5)
    padded = np.concatenate([np.zeros((2, 2, 3)), XS])
    np.testing.assert_allclose(scan(line, XS, line.init_state((2,)))[0], (padded[1:13] + padded[:12]) / 2, atol=1e-6)
    line = sp.Delay(3, 2)
    ahead, _ = scan(line, XS, line.init_state((2,)), reverse=True)
    np.testing.assert_array_equal(ahead[:10], XS[2:])


def test_a_delay_has_a_gradient_and_can_be_learned():
    with jax.enable_x64(True):
        xs = XS.astype(jnp.float64)

        def loss(delay):
            line = sp.Delay(3, delay, max_delay=4.0)
            return jnp.sum(jnp.sin(scan(line, xs, line.init_state((2,)))[0]))

        check_grads(jax.jit(loss), (jnp.asarray([0.3, 1.6, 3.7]),), order=1, modes=("fwd", "rev"))
    wave = jnp.sin(jnp.arange(60.0) / 8)[:, None]

    def error(delay):
        line = sp.Delay(1, delay, max_delay=8.0)
        return jnp.mean((scan(line, wave, line.init_state())[0][8:] - wave[3:-5]) ** 2)

    def descend(delay, _):
        return delay - 50 * jax.grad(error)(delay), None

    delay, _ = jax.jit(lambda d: jax.lax.scan(descend, d, length=100))(jnp.asarray([1.5]))
    np.testing.assert_allclose(delay, 5.0, atol=0.05)


def test_feedback_through_a_convolution():
    """One channel axis and one of space; the spikes of a step reach the neighbours in the next."""
    conv = eqx.nn.Conv1d(2, 2, 3, padding=1, key=jr.key(0))
    cell, xs = sp.LIFCell((2, 4), 5.0), 4 * jr.normal(jr.key(1), (6, 3, 2, 4))
    net = sp.Recurrent(cell, conv)
    ys, _ = jax.jit(lambda xs: scan(net, xs, net.init_state((3,))))(xs)
    state, spikes = cell.init_state((3,)), jnp.zeros((3, 2, 4))
    for x, y in zip(xs, ys, strict=True):
        spikes, state = cell(x + jax.vmap(conv)(spikes), state)
        np.testing.assert_array_equal(y, spikes)
    assert 0.05 < float(ys.mean()) < 0.95


def _fed_back() -> sp.Recurrent:
    return sp.Recurrent(sp.LIFCell(3), sp.OneToOne(jnp.ones(3)))


def _summed(cell):
    return cell(XS[0], cell.init_state((2,)))


def test_feedback_that_drops_out_draws_anew_in_every_step():
    linear = eqx.nn.Linear(3, 3, key=jr.key(0))
    net = sp.Recurrent(sp.LIFCell(3, 3.0, threshold=0.2), eqx.nn.Sequential([eqx.nn.Dropout(0.5), linear]))
    ys, _ = scan(net, np.asarray(3 * XS), net.init_state((2,)), key=jr.key(1))  # NumPy arrays will do
    looped, _ = _looped(net, 3 * XS, net.init_state((2,)), jr.key(1))
    np.testing.assert_array_equal(ys, looped)
    sure, _ = scan(eqx.nn.inference_mode(net), 3 * XS, net.init_state((2,)))
    assert not np.array_equal(ys, sure)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sp.Parallel([]), "`branches` must hold at least one"),
        (lambda: sp.Parallel([jnp.tanh])(XS[0], ()), "`state` must have one entry for each of the 1 branches"),
        (lambda: sp.Residual(Sequential([lambda x: x[..., :2]]))(XS[0], (None,)), "`cell` of Residual must keep"),
        (lambda: sp.Delay(3, jnp.ones(3)), r"`max_delay` \(ms\) is needed"),
        (lambda: sp.Delay(3, -1.0), "`delay` must lie between 0 and"),
        (lambda: sp.Delay(3, 5.0, max_delay=4.0), "`delay` must lie between 0 and `max_delay`, 4 ms; got 5"),
        (lambda: sp.Delay(3, jnp.ones(2), max_delay=4.0), "`delay` must be one number or broadcast"),
        (lambda: sp.Delay(3, 1.0, dt=0.0), "`dt` must be above 0 ms"),
        (lambda: sp.Delay(3, 1.0)(XS[0], sp.Delay(3, 1.0).init_state()), "`state` of Delay holds"),
        (lambda: _fed_back()(XS[0], _fed_back().init_state((7,))), r"`state` of Recurrent holds \(7, 3\) but"),
        (
            lambda: sp.Recurrent(sp.LIFCell(3), sp.Delay(3, 1.0)),  # pyright: ignore[reportArgumentType]
            "`weight` of Recurrent must be a stateless layer; got the",
        ),
        (
            lambda: _summed(sp.Recurrent(sp.LIFCell(3), lambda s: s[..., :1])),
            "`weight` of Recurrent must keep the shape",
        ),
        (
            lambda: _summed(sp.Parallel([jnp.tanh, lambda x: x[..., :1]])),
            "`branches` of Parallel must put out one shape",
        ),
    ],
)
def test_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
