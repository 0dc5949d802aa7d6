"""Loops that stop by a condition: gradients, bounds, reasons, and what a batch member can do to the others."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from eqx_dynamics import RESULTS, bounded_while, scan, scan_until


def square_root(a, **options):
    """Newton's iteration; never ends for negative `a`."""
    return bounded_while(
        lambda x: jnp.abs(x * x - a) > 1e-6 * jnp.abs(a),
        lambda x: 0.5 * (x + a / x),
        jnp.ones(()),
        max_steps=16,
        **options,
    )


def test_bounded_while_has_the_gradients_of_the_fixed_point():
    a = jnp.array(2.0)
    expected = 0.5 / jnp.sqrt(2.0)

    @jax.jit
    def derivatives(a):
        plain, checkpointed = (lambda a, c=c: square_root(a, checkpoints=c, throw=False).value for c in (None, 3))
        return jnp.stack([jax.grad(plain)(a), jax.grad(checkpointed)(a), jax.jacfwd(plain)(a)])

    assert jnp.allclose(derivatives(a), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work for"):  # What it is for.
        jax.grad(lambda a: jax.lax.while_loop(lambda x: x * x < a, lambda x: 1.1 * x, a))(a)


def test_a_diverging_member_cannot_hang_or_change_the_others():
    batch = jnp.array([2.0, -3.0, 9.0])
    run = eqx.filter_jit(eqx.filter_vmap(lambda a: square_root(a, throw=False)))
    loop = run(batch)
    for i in (0, 2):
        alone = eqx.filter_jit(square_root)(batch[i])
        assert jnp.allclose(loop.value[i], alone.value) and loop.num_steps[i] == alone.num_steps < 10
    assert loop.num_steps[1] == 16
    assert jnp.array_equal(loop.result == RESULTS.completed, jnp.array([True, False, True]))
    assert jnp.array_equal(loop.result == RESULTS.max_steps_reached, jnp.array([False, True, False]))
    grads = jax.jit(jax.vmap(jax.grad(lambda a: square_root(a, throw=False).value)))(batch)
    assert jnp.allclose(grads[::2], 0.5 / jnp.sqrt(batch[::2]), rtol=1e-5)


def test_bounded_while_raises_unless_told_not_to():
    with pytest.raises(Exception, match="The step limit was reached"):
        eqx.filter_jit(square_root)(jnp.array(-3.0))
    grow = ft.partial(bounded_while, lambda x: x < jnp.inf, lambda x: x * 1e20, jnp.ones(()), max_steps=9)
    assert RESULTS[grow(throw=False).result] == "The state became NaN or infinite."
    with pytest.raises(Exception, match="The state became NaN or infinite"):
        eqx.filter_jit(grow)()


def test_bounded_while_carries_functions_and_numbers():
    init = {"x": 0.0, "f": jnp.cos, "steps": 0}
    body = lambda v: {"x": v["f"](v["x"]), "f": v["f"], "steps": v["steps"] + 1}  # noqa: E731
    loop = bounded_while(lambda v: jnp.abs(v["f"](v["x"]) - v["x"]) > 1e-5, body, init, max_steps=100)
    assert jnp.allclose(loop.value["x"], 0.7390851, atol=1e-5) and loop.value["steps"] == loop.num_steps
    assert loop.value["f"] is jnp.cos


def double(x, state, *, key=None):
    state = 2 * state + x
    return 3 * state, state


def until_100(state, steps=12, **options):
    return scan_until(double, jnp.zeros(steps), state, lambda out, state: state > 100.0, **options)


def test_scan_until_equals_scan_up_to_the_stop():
    ys, states = scan(lambda x, s, *, key=None: ((3 * (2 * s + x), 2 * s + x), 2 * s + x), jnp.zeros(12), jnp.ones(()))[
        0
    ]
    stopped = until_100(jnp.ones(()))
    assert stopped.num_steps == 7 and stopped.state == states[6] == 128.0  # The step at which it held is taken.
    assert jnp.array_equal(stopped.outputs, jnp.where(jnp.arange(12) < 7, ys, 0))
    assert RESULTS[stopped.result] == "The stopping condition held before the last step."
    assert RESULTS[until_100(jnp.zeros(())).result] == "The loop ran to its end."
    for chunk in (1, 5, 7):
        assert eqx.tree_equal(until_100(jnp.ones(()), chunk=chunk), stopped)

    @jax.jit
    def derivatives(s):
        by_state = jax.grad(lambda s: until_100(s).state)(s)
        by_outputs = jax.grad(lambda s: jnp.sum(until_100(s, chunk=4).outputs))(s)
        return jnp.stack([by_state, by_outputs, jax.jacfwd(lambda s: until_100(s).state)(s)])

    assert jnp.allclose(derivatives(jnp.ones(())), jnp.array([2.0**7, 3 * (2.0**8 - 2), 2.0**7]))


def test_keys_are_those_of_scan():
    def cell(x, state, *, key=None):
        assert key is not None
        return state, state + jr.normal(key, ())

    ys, _ = scan(cell, None, jnp.zeros(()), key=jr.key(0), length=8)
    stopped = scan_until(cell, None, jnp.zeros(()), lambda o, s: jnp.abs(s) > 1e6, key=jr.key(0), length=8, chunk=3)
    assert jnp.allclose(stopped.outputs, ys)


def test_steps_after_the_stop_are_not_computed_and_vmap_keeps_the_branch():
    """Counted on the host: of 1,000 steps two chunks of five alone; in a batch as many as the slowest member needs."""
    calls = []

    def counted(x, state, *, key=None):
        jax.debug.callback(lambda _: calls.append(1), x)
        return double(x, state)

    def run(state):
        return scan_until(counted, jnp.zeros(1000), state, lambda out, state: state > 100.0, chunk=5)

    jax.jit(run)(jnp.ones(()))
    jax.effects_barrier()
    assert len(calls) == 10
    calls.clear()
    batch = eqx.filter_jit(eqx.filter_vmap(run))(jnp.array([1.0, 50.0, 0.01]))
    jax.effects_barrier()
    assert len(calls) == 15 and jnp.array_equal(batch.num_steps, jnp.array([7, 2, 14]))


def test_the_gradient_of_an_early_exit_keeps_no_copy_of_the_weights_per_step():
    """A bare `cond` in a scan saves its weights every time: 16 kB here. Planned by the compiler."""
    weight = 0.1 * jnp.ones((64, 64))

    def planned(run):
        memory = jax.jit(jax.grad(run)).lower(weight).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    def cell(weight):
        def step(x, state, *, key=None):
            state = jnp.tanh(weight @ state + 1)
            return state, state

        return step

    start = jnp.zeros(64)
    plain = planned(lambda w: jnp.sum(scan(cell(w), None, start, length=200)[0]))
    until = planned(
        lambda w: jnp.sum(scan_until(cell(w), None, start, lambda o, s: jnp.max(s) > 2, length=200).outputs)
    )
    assert until < 2 * plain + 2**16


def test_a_member_that_overflows_leaves_the_others_and_their_gradients_alone():
    """No output says stop here: members end by themselves, one of them by overflow."""

    def run(state):
        return scan_until(lambda x, s, *, key=None: (s, s * s), None, state, lambda o, s: s > 1e30, length=9)

    batch = eqx.filter_jit(eqx.filter_vmap(run))(jnp.array([0.5, 1e25, 1.0]))
    assert jnp.array_equal(batch.result == RESULTS.non_finite, jnp.array([False, True, False]))
    assert jnp.array_equal(batch.num_steps, jnp.array([9, 0, 9]))
    assert jnp.all(jnp.isfinite(batch.state)) and batch.state[1] == jnp.float32(1e25)
    grads = jax.jit(jax.vmap(jax.grad(lambda s: jnp.sum(run(s).outputs))))(jnp.array([0.5, 1e20, 1.0]))
    assert jnp.all(jnp.isfinite(grads)) and jnp.allclose(grads[2], 2.0**9 - 1)


def test_named_errors():
    init = jnp.ones(2)
    with pytest.raises(ValueError, match="`max_steps` must be at least 1"):
        bounded_while(lambda x: True, lambda x: x, init, max_steps=0)
    with pytest.raises(ValueError, match="`checkpoints` must be at least 1"):
        bounded_while(lambda x: True, lambda x: x, init, max_steps=3, checkpoints=0)
    with pytest.raises(ValueError, match="`condition` must return one scalar bool"):
        bounded_while(lambda x: x > 0, lambda x: x, init, max_steps=3)
    with pytest.raises(ValueError, match="`body` must return a value of the structure"):
        bounded_while(lambda x: True, lambda x: x[:1], init, max_steps=3)
    with pytest.raises(ValueError, match="`stop` must return one scalar bool"):
        scan_until(double, jnp.zeros((3, 2)), jnp.zeros(2), lambda out, state: state > 1)
