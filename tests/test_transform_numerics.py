"""Taylor mode, grids and tables: against nested derivatives, SciPy and the functions themselves."""

import dataclasses
import functools as ft
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.interpolate
from jax.experimental.jet import jet_rules

from eqx_dynamics.transform import GridInterpolator, Table, tabulate, time_derivatives


def test_time_derivatives_of_a_rotation_are_known():
    derivatives = time_derivatives(lambda x: jnp.stack([x[1], -x[0]]), jnp.array([1.0, 0.0]), 5)
    np.testing.assert_allclose(derivatives, [[0, -1], [-1, 0], [0, 1], [1, 0], [0, -1]], atol=1e-6)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.gelu, jax.nn.silu, jax.nn.elu, jax.nn.sigmoid])
def test_time_derivatives_of_a_network_equal_nested_products(activation):
    field = eqx.nn.MLP(2, 2, 8, 2, activation=activation, key=jr.key(0))
    x = jnp.array([0.3, -0.7])
    second = lambda x: jax.jvp(field, (x,), (field(x),))[1]  # noqa: E731
    third = lambda x: jax.jvp(second, (x,), (field(x),))[1]  # noqa: E731
    got = eqx.filter_jit(time_derivatives)(field, x, 3)
    expected = jax.jit(lambda x: jnp.stack([field(x), second(x), third(x)]))(x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_time_derivatives_are_differentiable():
    field, x = eqx.nn.MLP(2, 2, 8, 2, activation=jnp.tanh, key=jr.key(0)), jnp.array([0.3, -0.7])
    by_taylor = eqx.filter_jit(eqx.filter_grad(lambda f: jnp.sum(time_derivatives(f, x, 2)[1] ** 2)))(field)
    nested = eqx.filter_jit(eqx.filter_grad(lambda f: jnp.sum(jax.jvp(f, (x,), (f(x),))[1] ** 2)))(field)
    np.testing.assert_allclose(by_taylor.layers[0].weight, nested.layers[0].weight, rtol=1e-3, atol=1e-6)


def test_time_derivatives_name_what_they_cannot_do(monkeypatch):
    x = jnp.ones(2)
    for activation in (jax.nn.relu, jax.nn.softplus):
        field = eqx.nn.MLP(2, 2, 8, 1, activation=activation, key=jr.key(0))
        with pytest.raises(ValueError, match=r"uses custom_jvp_call, for which there is no Taylor rule.*use `tanh`"):
            time_derivatives(field, x, 2)
        with pytest.raises(ValueError, match="no Taylor rule"):
            eqx.filter_jit(time_derivatives)(field, x, 2)

    def failing(*_):  # as jax's rule for `celu` does up to 0.10
        raise TypeError

    monkeypatch.setitem(jet_rules, jax.lax.tan_p, failing)
    with pytest.raises(ValueError, match="Taylor rule fails"):
        time_derivatives(jnp.tan, x, 2)
    with pytest.raises(ValueError, match="`order` must be at least 1"):
        time_derivatives(jnp.tanh, x, 0)
    with pytest.raises(ValueError, match="`vector_field` must return dx/dt"):
        time_derivatives(lambda x: x[:1], x, 2)


RNG = np.random.default_rng(0)
POINTS = (
    np.sort(RNG.normal(size=6)).astype(np.float32),
    np.arange(5, dtype=np.float32),
    np.array([0.0, 1.0], np.float32),
)
VALUES = RNG.normal(size=(6, 5, 2, 3)).astype(np.float32)
INSIDE = np.stack([RNG.uniform(axis[0], axis[-1], 40) for axis in POINTS], -1).astype(np.float32)


def test_linear_grid_equals_scipy_inside_and_extended():
    query = np.concatenate([INSIDE, INSIDE * 3 - 1])
    ours = GridInterpolator(POINTS, VALUES, outside="extend")
    ours = eqx.filter_jit(ours)(jnp.asarray(query))
    theirs = scipy.interpolate.RegularGridInterpolator(
        POINTS, VALUES, bounds_error=False, fill_value=cast(float, None)
    )(query)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-4)
    clamped = eqx.filter_jit(GridInterpolator(POINTS, VALUES, outside="clamp"))(jnp.asarray(query))
    low, high = (np.array([axis[end] for axis in POINTS]) for end in (0, -1))
    theirs = scipy.interpolate.RegularGridInterpolator(POINTS, VALUES)(np.clip(query, low, high))
    np.testing.assert_allclose(clamped, theirs, rtol=1e-4, atol=1e-5)


def quadratic(a, b):
    return 1 + a - 2 * b + a * b + 0.5 * a * a + b * b + a * a * b * b


def test_cubic_grid_is_exact_at_the_points_and_for_parabolas():
    points = POINTS[:2]
    values = quadratic(points[0][:, None], points[1][None]).astype(np.float32)
    cubic = eqx.filter_jit(GridInterpolator(points, values, method="cubic", outside="clamp"))
    nodes = jnp.stack(jnp.meshgrid(*map(jnp.asarray, points), indexing="ij"), -1)
    np.testing.assert_allclose(cubic(nodes), values, rtol=1e-6, atol=1e-5)
    # Away from the one-sided slopes of the boundary cells.
    query = np.stack([RNG.uniform(points[0][1], points[0][-2], 30), RNG.uniform(1, 3, 30)], -1).astype(np.float32)
    np.testing.assert_allclose(cubic(jnp.asarray(query)), quadratic(*query.T), rtol=1e-4, atol=1e-4)
    gradient = jax.jit(jax.vmap(jax.grad(cubic)))(jnp.asarray(query))
    a, b = query.T
    expected = np.stack([1 + b + a + 2 * a * b * b, -2 + a + 2 * b + 2 * a * a * b], -1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_grid_gradients_in_query_values_and_points(method):
    """Along one random direction of all three at once, against a central difference in float64."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        arrays = [np.asarray(a, np.float64) for a in (*POINTS[:2], VALUES[:, :, 0, 0], INSIDE[:3, :2])]
        direction = [rng.normal(size=a.shape) for a in arrays]

        @jax.jit
        @ft.partial(jax.value_and_grad, argnums=(0, 1, 2, 3))
        def total(first, second, values, query):
            grid = GridInterpolator((first, second), values, method=method, outside="clamp")
            return jnp.sum(grid(query) * jnp.arange(1.0, 4.0))

        _, grads = total(*arrays)
        slope = sum(float(np.sum(g * d)) for g, d in zip(grads, direction, strict=True))
        ahead, behind = (total(*[a + s * d for a, d in zip(arrays, direction, strict=True)])[0] for s in (1e-6, -1e-6))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-6)
        far = total(*arrays[:3], np.full((3, 2), 100.0))[1][3]
    assert not far.any()  # Clamped.


def test_grid_named_errors():
    axis = np.array([0.0, 1.0, 2.0], np.float32)
    with pytest.raises(ValueError, match="`values` must have one leading axis"):
        GridInterpolator((axis, axis), np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="`points` must have at least 3 entries"):
        GridInterpolator((axis[:2],), np.zeros(2, np.float32), method="cubic")
    with pytest.raises(ValueError, match=r"`points\[1\]` must increase"):
        GridInterpolator((axis, axis[::-1].copy()), np.zeros((3, 3), np.float32))
    grid = GridInterpolator((axis,), axis)
    with pytest.raises(ValueError, match="`query` must end in 1 coordinates"):
        grid(jnp.ones(2))
    for bad in (2.5, jnp.nan):
        with pytest.raises(Exception, match="`query` is outside the grid"):
            eqx.filter_jit(grid)(jnp.array([bad]))


FUNCTIONS = {
    "exp": (jnp.exp, -5.0, 5.0),
    "sin": (jnp.sin, 0.0, 10.0),
    "tanh": (jnp.tanh, -8.0, 8.0),
    # The rate x / (e^x - 1) of Hodgkin-Huxley gates.
    "gate": (
        lambda x: jnp.where(jnp.abs(x) < 1e-3, 1 - x / 2, x / jnp.expm1(jnp.where(jnp.abs(x) < 1e-3, 1.0, x))),
        -9,
        9,
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_table_errors_stay_inside_the_reported_bounds_and_close_to_them(name):
    fn, lower, upper = FUNCTIONS[name]
    table = tabulate(fn, lower, upper, tolerance=1e-2)
    assert table.error_bound <= 1e-2
    x = jnp.asarray(np.linspace(lower, upper, 5001), jnp.float32)

    @jax.jit
    def errors(x):
        slopes = [jax.vmap(jax.grad(f))(x) for f in (table, fn)]
        return jnp.max(jnp.abs(table(x) - fn(x))), jnp.max(jnp.abs(slopes[0] - slopes[1]))

    error, slope_error = errors(x)
    assert 0.2 * table.error_bound < error <= table.error_bound
    assert 0.2 * table.slope_error_bound < slope_error <= table.slope_error_bound


def test_table_outside_and_shapes():
    table = tabulate(jnp.exp, 0.0, 1.0, num_points=9)
    tables = {mode: dataclasses.replace(table, outside=mode) for mode in ("error", "clamp", "extend")}
    x = jnp.array([[-0.5, 0.5], [0.9, 1.2]])
    np.testing.assert_allclose(tables["clamp"](x), np.exp(np.clip(x, 0, 1)), rtol=1e-5)
    np.testing.assert_allclose(tables["extend"](x), np.exp(x), rtol=2e-2)
    assert jax.grad(tables["clamp"])(2.0) == 0 and jnp.allclose(
        jax.grad(tables["extend"])(1.1), jnp.exp(1.1), rtol=1e-2
    )
    for bad in (x, jnp.array(jnp.nan)):
        with pytest.raises(Exception, match="`x` is outside the table"):
            eqx.filter_jit(tables["error"])(bad)
    assert isinstance(tables["error"], Table) and tables["error"](x[:1] + 0.5).shape == (1, 2)


def test_table_named_errors():
    with pytest.raises(ValueError, match="`lower` must be less than `upper`"):
        tabulate(jnp.exp, 1.0, 1.0, num_points=3)
    for sizes in ({}, {"num_points": 3, "tolerance": 0.1}):
        with pytest.raises(ValueError, match="Give `num_points` or `tolerance`"):
            tabulate(jnp.exp, 0.0, 1.0, **sizes)
    with pytest.raises(ValueError, match="`num_points` must be at least 2"):
        tabulate(jnp.exp, 0.0, 1.0, num_points=1)
    with pytest.raises(ValueError, match="`fn` must map a scalar"):
        tabulate(lambda x: jnp.ones(2) * x, 0.0, 1.0, num_points=3)
    with pytest.raises(ValueError, match="`fn` must be finite"):
        tabulate(jnp.log, 0.0, 1.0, num_points=3)
    with pytest.raises(ValueError, match="`tolerance` must exceed the rounding error"):
        tabulate(jnp.exp, 0.0, 1.0, tolerance=1e-9)
