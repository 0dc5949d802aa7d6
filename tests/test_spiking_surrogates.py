"""A spike is a step forward and its curve in every derivative, at any order."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_dynamics.spiking as sp


SURROGATES = {
    type(s).__name__: s
    for s in (
        sp.AbsReciprocal(),
        sp.ATan(),
        sp.Boxcar(),
        sp.Circle(),
        sp.DerivativeOf(jnp.tanh),
        sp.Erf(),
        sp.FastSigmoid(),
        sp.Gaussian(),
        sp.LeakyRelu(),
        sp.LogTailedRelu(),
        sp.MultiGaussian(),
        sp.PiecewiseExp(),
        sp.PiecewiseLeakyRelu(),
        sp.PiecewiseQuadratic(),
        sp.QPseudoSpike(),
        sp.S2NN(),
        sp.Scaled(sp.ATan(), 3.0),
        sp.Sigmoid(25.0),
        sp.Slayer(),
        sp.SoftSign(),
        sp.SparseFastSigmoid(),
        sp.SpikeRateEscape(),
        sp.SquarewaveFourier(),
        sp.StraightThrough(),
        sp.Stretched(sp.Erf(), 4.0),
        sp.Tanh(),
        sp.Triangle(),
    )
}
everywhere = pytest.mark.parametrize("surrogate", SURROGATES.values(), ids=SURROGATES)
X = jnp.array([-1e4, -40.0, -3.7, -0.6, -0.1, 0.0, 0.1, 0.6, 1.2, 40.0, 1e4])


@everywhere
def test_forward_is_a_step_and_every_mode_gives_the_curve(surrogate: sp.AbstractSurrogate) -> None:
    def f(x: jax.Array) -> jax.Array:
        return sp.spike(surrogate, x)

    @jax.jit
    def facts(x: jax.Array) -> tuple:
        scalar = lambda x: f(x)  # noqa: E731
        reverse = jax.vmap(jax.grad(scalar))(x)
        forward = jax.vmap(jax.jacfwd(scalar))(x)
        slope_of_curve = jax.vmap(jax.grad(lambda x: surrogate.derivative(x)))(x)
        orders = [op1(op2(scalar)) for op1 in (jax.grad, jax.jacfwd) for op2 in (jax.grad, jax.jacfwd)]
        second = [jax.vmap(order)(x) for order in orders]
        third = jax.vmap(jax.jacfwd(jax.grad(jax.jacfwd(scalar))))(x)
        return f(x), reverse, forward, slope_of_curve, second, third, surrogate.derivative(x)

    spikes, reverse, forward, slope_of_curve, second, third, curve = facts(X)
    np.testing.assert_array_equal(spikes, np.asarray(X) >= 0)
    np.testing.assert_allclose(reverse, curve, rtol=1e-6)
    np.testing.assert_allclose(forward, curve, rtol=1e-6)
    for values in second:
        np.testing.assert_allclose(values, slope_of_curve, rtol=1e-5, atol=1e-6)
    assert np.isfinite(np.concatenate([curve, slope_of_curve, third])).all()


def test_second_derivatives_inside_loops() -> None:
    """Of loops and checkpoints every order of modes keeps the rule: jax drops that of a `custom_jvp` in a `scan`."""
    x, ones = jnp.array([0.3, -0.4, 0.1]), jnp.ones(3)
    fire = lambda x: sp.spike(sp.FastSigmoid(2.0), x)  # noqa: E731
    ways = [
        lambda x: fire(x),
        lambda x: jax.lax.scan(lambda carry, x: (carry, fire(x)), 0.0, x)[1],
        lambda x: jax.checkpoint(fire)(x),
    ]

    def seconds(way) -> list[jax.Array]:
        f = lambda x: jnp.sum(jnp.cos(way(x) + 1))  # noqa: E731
        forward, backward = lambda x: jax.jvp(f, (x,), (ones,))[1], lambda x: jnp.vdot(jax.grad(f)(x), ones)
        return [jax.grad(forward)(x), jax.grad(backward)(x), jax.jvp(jax.grad(f), (x,), (ones,))[1]]

    curve = lambda x: 1 / (1 + 2 * jnp.abs(x)) ** 2  # noqa: E731
    output = jnp.where(x >= 0, 2.0, 1.0)
    want = -jnp.cos(output) * curve(x) ** 2 - jnp.sin(output) * jax.vmap(jax.grad(curve))(x)
    for got in jax.jit(lambda: [second for way in ways for second in seconds(way)])():
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_ties_follow_the_option() -> None:
    zero = jnp.zeros(1)
    assert sp.spike(sp.ATan(), zero) == 1
    assert sp.spike(sp.ATan(tie=">"), zero) == 0
    assert sp.spike(sp.with_tie(sp.ATan(3.0), ">"), zero) == 0
    assert sp.with_tie(sp.ATan(3.0), ">") == sp.ATan(3.0, tie=">")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept(dtype: jnp.dtype) -> None:
    """And in half precision no curve overflows into a NaN far from threshold."""
    x = jnp.array([-1e4, -0.5, 0.5, 1e4], dtype)
    for surrogate in SURROGATES.values():
        spikes, slope = jax.eval_shape(lambda x, s=surrogate: jax.jvp(lambda x: sp.spike(s, x), (x,), (x,)), x)
        assert spikes.dtype == slope.dtype == dtype
    slopes = jax.jit(lambda x: [surrogate.derivative(x).astype(float) for surrogate in SURROGATES.values()])(x)
    assert np.isfinite(slopes).all()


def test_parameters_of_a_curve_can_be_learned() -> None:
    def slope_at(k: jax.Array) -> jax.Array:
        return jax.grad(lambda x: sp.spike(sp.FastSigmoid(k), x))(jnp.array(0.2))

    k = jnp.array(5.0)
    np.testing.assert_allclose(jax.grad(slope_at)(k), -2 * 0.2 / (1 + 5 * 0.2) ** 3, rtol=1e-5)


def test_a_user_function_gives_its_derivative() -> None:
    mine = sp.DerivativeOf(lambda x: jnp.log1p(x**2))
    np.testing.assert_allclose(jax.grad(lambda x: sp.spike(mine, x))(jnp.array(2.0)), 4 / 5, rtol=1e-6)


def test_stochastic_spikes_have_the_probability_and_its_gradient() -> None:
    surrogate = sp.Stochastic(4.0)
    x = jnp.full(20_000, 0.3)
    spikes = sp.spike(surrogate, x, key=jr.key(0))
    probability = 1 / (1 + np.exp(-1.2))
    assert abs(float(spikes.mean()) - probability) < 4 * np.sqrt(probability * (1 - probability) / x.size)
    gradient = jax.grad(lambda x: sp.spike(surrogate, x, key=jr.key(0)).sum())(x)
    np.testing.assert_allclose(gradient, 4 * probability * (1 - probability), rtol=1e-5)
    assert not np.array_equal(spikes, sp.spike(surrogate, x, key=jr.key(1)))


def test_a_stochastic_cell_without_key_is_named() -> None:
    cell = sp.LIFCell(3, surrogate=sp.Stochastic())
    with pytest.raises(ValueError, match="`key` is missing: Stochastic"):
        cell(jnp.ones(3), cell.init_state())
    with pytest.raises(ValueError, match="draw again"):
        sp.LIFCell(3, surrogate=sp.Stochastic(), reset=sp.SubtractReset(timing="after_decay"))
    with pytest.raises(ValueError, match="differentiable refractory period must not draw"):
        sp.LIFCell(3, surrogate=sp.Stochastic(), refractory=sp.Refractory(2, differentiable=True))
    for wrapped in (sp.Scaled, sp.Stretched):
        with pytest.raises(ValueError, match=f"`inner` of {wrapped.__name__} must not draw its spikes"):
            wrapped(sp.Stochastic(), 2.0)


def test_bad_constants_of_a_curve_are_named() -> None:
    for curve, message in (
        (lambda: sp.AbsReciprocal(0.0), "`slope` must be above 0; got 0"),
        (lambda: sp.Gaussian(sigma=-1.0), "`sigma` must be above 0"),
        (lambda: sp.Triangle(height=float("nan")), "`height` must not be NaN"),
        (lambda: sp.SquarewaveFourier(num_terms=0), "`num_terms` must be above 0"),
        (lambda: sp.QPseudoSpike(1.0), "`order` must be above 1; got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            curve()
