"""One scan, many ways to run it: chunks, checkpoints, meters and keys change nothing but memory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_dynamics import AbstractCell, Sequential, scan


class Noisy(AbstractCell):
    """A stochastic cell without a route of its own."""

    decay: jax.Array

    def init_state(self, shape=(), *, key=None):
        return jnp.zeros(shape)

    def __call__(self, x, state, *, key=None):
        noise = jnp.zeros(jnp.shape(x)) if key is None else jr.normal(key, jnp.shape(x))
        state = self.decay * state + jnp.tanh(x) + noise
        return (2 * state, x), state


CELL = Noisy(jnp.array(0.9))
XS = jnp.linspace(-1.0, 1.0, 11)


def step_loop(cell, xs, state, keys, order):
    outs = {}
    for t in order:
        outs[t], state = cell(xs[t], state, key=keys[t])
    return jnp.stack([outs[t][0] for t in range(len(xs))]), state


@pytest.mark.parametrize("reverse", [False, True])
def test_chunks_checkpoints_and_step_loop_give_the_same_numbers_and_draws(reverse):
    keys = jr.split(jr.key(1), 11)
    order = range(10, -1, -1) if reverse else range(11)
    expected, last = step_loop(CELL, XS, jnp.zeros(()), keys, order)
    run = eqx.filter_jit(scan)
    for chunk, checkpoint in (
        [(None, False), (4, True)] if reverse else [(None, False), (None, True), (4, False), (50, True)]
    ):
        (ys, xs), state = run(
            CELL, XS, jnp.zeros(()), key=jr.key(1), reverse=reverse, chunk=chunk, checkpoint=checkpoint
        )
        assert (
            jnp.allclose(ys, expected, atol=1e-6) and jnp.array_equal(xs, XS) and jnp.allclose(state, last, atol=1e-6)
        )


def test_gradients_do_not_depend_on_chunks():
    def total(cell, chunk, checkpoint):
        (ys, _), state = scan(cell, XS, jnp.zeros(()), chunk=chunk, checkpoint=checkpoint)
        return jnp.sum(ys**2) + state

    expected = eqx.filter_jit(eqx.filter_grad(total))(CELL, None, False).decay
    for chunk in (None, 3):
        assert jnp.allclose(eqx.filter_jit(eqx.filter_grad(total))(CELL, chunk, True).decay, expected, rtol=1e-5)
        forward = jax.jit(jax.jacfwd(lambda d, chunk=chunk: total(Noisy(d), chunk, True)))(CELL.decay)
        assert jnp.allclose(forward, expected, rtol=1e-5)


def test_checkpoint_bounds_the_memory_of_the_gradient():
    """Planned by the compiler, so exact: 4,000 steps cost less with checkpoints than 500 without."""
    weight = 0.1 * jnp.ones((16, 16))

    def planned(steps, checkpoint):
        def total(weight, xs):
            def cell(x, state, *, key=None):
                state = jnp.tanh(weight @ state + x)
                return jnp.sum(state), state

            return jnp.sum(scan(cell, xs, jnp.zeros(16), checkpoint=checkpoint)[0])

        memory = jax.jit(jax.grad(total)).lower(weight, jnp.ones((steps, 16))).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert planned(4000, True) < planned(500, False) < planned(4000, False) / 6


def test_state_may_hold_functions_and_numbers():
    def cell(x, state, *, key=None):
        return state["f"](x), {**state, "count": state["count"] + 1, "total": state["total"] + x}

    state = {"f": jnp.tanh, "count": 0, "total": 0.0, "name": "run", "size": 3}
    for chunk in (None, 4):
        ys, after = scan(cell, XS, state, chunk=chunk)
        assert (
            jnp.allclose(ys, jnp.tanh(XS))
            and after["count"] == 11
            and jnp.allclose(after["total"], XS.sum(), atol=1e-6)
        )
        assert after["f"] is jnp.tanh and after["name"] == "run" and after["size"] == 3
    with pytest.raises(TypeError, match="`cell` must return the non-array leaves of `state` unchanged"):
        scan(lambda x, s, *, key=None: (x, {"f": jnp.sin, "n": s["n"]}), XS, {"f": jnp.tanh, "n": jnp.ones(())})


def test_a_scannable_cell_keeps_its_route_and_its_draws_in_chunks():
    net = Sequential([lambda x: 0.5 * x, _First(CELL)])
    expected, last = scan(net, XS, net.init_state())
    for checkpoint in (False, True):
        ys, state = scan(net, XS, net.init_state(), chunk=4, checkpoint=checkpoint)
        assert jnp.allclose(ys, expected, atol=1e-6) and jnp.allclose(state[1], last[1], atol=1e-6)
    noisy, _ = scan(net, XS, net.init_state(), key=jr.key(3))
    by_chunk, _ = scan(net, XS, net.init_state(), key=jr.key(3), chunk=4, checkpoint=True)
    state, by_step = net.init_state(), []
    for x, key in zip(XS, jr.split(jr.key(3), 11), strict=True):
        y, state = net(x, state, key=key)
        by_step.append(y)
    assert jnp.allclose(noisy, by_chunk, atol=1e-6) and jnp.allclose(noisy, jnp.stack(by_step), atol=1e-6)
    matrix_products = str(jax.make_jaxpr(lambda xs: scan(Sequential([jnp.square]), xs, (None,), chunk=4))(XS))
    assert "f32[4]" in matrix_products  # Layers see a chunk of four steps, not one.


class _First(AbstractCell):
    cell: Noisy

    def init_state(self, shape=(), *, key=None):
        return self.cell.init_state(shape)

    def __call__(self, x, state, *, key=None):
        (out, _), state = self.cell(x, state, key=key)
        return out, state


def test_meter_reports_after_every_chunk_once_for_a_whole_batch():
    seen = []
    scan(CELL, XS, jnp.zeros(()), chunk=4, meter=lambda done, total: seen.append((done, total)))
    jax.effects_barrier()
    assert sorted(seen) == [(4, 11), (8, 11), (11, 11)]
    seen.clear()
    jax.jit(jax.vmap(lambda s: scan(CELL, XS, s, chunk=6, meter=lambda *steps: seen.append(steps))[1]))(jnp.ones(5))
    jax.effects_barrier()
    assert sorted(seen) == [(6, 11), (11, 11)]


def test_no_steps_and_no_inputs():
    (ys, _), state = scan(CELL, jnp.ones((0,)), jnp.ones(()))
    assert ys.shape == (0,) and state == 1
    assert scan(lambda x, s, *, key=None: (x, s + x), jnp.ones((0,)), 1.0)[1] == 1  # a number that steps make an array
    assert scan(CELL, jnp.ones((0,)), jnp.ones(()), checkpoint=True)[0][0].shape == (0,)
    ys, state = scan(lambda x, s, *, key=None: (s, s + 1), None, jnp.array(0), length=5, chunk=2)
    assert jnp.array_equal(ys, jnp.arange(5)) and state == 5


def test_named_errors():
    with pytest.raises(ValueError, match="`xs` must have one leading"):
        scan(CELL, (XS, XS[:3]), jnp.zeros(()))
    with pytest.raises(ValueError, match="`xs` must have one leading"):
        scan(CELL, None, jnp.zeros(()))
    with pytest.raises(ValueError, match="`xs` must have one leading"):
        scan(CELL, XS, jnp.zeros(()), length=3)
    with pytest.raises(ValueError, match="`chunk` must be a positive"):
        scan(CELL, XS, jnp.zeros(()), chunk=0)
    with pytest.raises(ValueError, match="`meter` reports after every chunk"):
        scan(CELL, XS, jnp.zeros(()), meter=print)


def test_a_function_sees_one_step_at_a_time(getkey):
    """As in the step loop; over all of time at once a mean would tell a step of those after it."""
    network = Sequential([eqx.nn.Lambda(lambda x: x - x.mean()), eqx.nn.Sequential([eqx.nn.Lambda(jnp.sort)])])
    xs = jr.normal(getkey(), (5, 3, 4))
    state = network.init_state((3,))
    np.testing.assert_allclose(scan(network, xs, state)[0], jnp.stack([network(x, state)[0] for x in xs]), rtol=1e-5)
    reshaped = Sequential([lambda x: x.reshape(x.shape[0], -1), eqx.nn.Linear(4, 2, key=getkey())])
    assert scan(reshaped, xs[..., None], reshaped.init_state((3,)))[0].shape == (5, 3, 2)
