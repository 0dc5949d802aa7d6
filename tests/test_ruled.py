"""Derivative rules stay with their functions inside loops, where JAX forgets those of a `custom_jvp`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.custom_derivatives import SymbolicZero

from eqx_dynamics.spiking import SparseConnection
from eqx_graph import EdgeIndex, ops
from eqx_graph._ruled import ruled
from eqx_graph.nn import GATv2Conv, MessagePassing, aggr


def _three_times(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    terms = [3 * factor * moved for factor, moved in ((y, dx), (x, dy)) if not isinstance(moved, SymbolicZero)]
    return _threefold(x, y), sum(terms, jnp.zeros_like(x))


# x * y with the derivative of 3 x * y: what no code of the value could give.
_threefold = ruled(lambda x, y: x * y, _three_times)


def _looped(x, y):
    return jax.lax.scan(lambda h, _: (_threefold(h, y), None), x, length=2)[0]


def test_a_rule_survives_scan_vmap_and_nesting():
    x, y, one = jnp.asarray(2.0), jnp.asarray(5.0), jnp.asarray(1.0)
    assert _looped(x, y) == 50
    assert jax.grad(_looped)(x, y) == (3 * 5) ** 2
    assert jax.grad(_looped, 1)(x, y) == 3 * 10 + (3 * 5) * (3 * 2)  # of the last step, and through the first
    # The first step's value is in that gradient, and its derivative is the rule's (forgotten: 3 * 2 + 9 * 2).
    assert jax.jvp(jax.grad(lambda y: _looped(x, y)), (y,), (one,))[1] == 3 * (3 * 2) + 9 * 2
    several = jax.vmap(jax.grad(_looped, 1), (None, 0))(x, jnp.array([1.0, 5.0]))
    np.testing.assert_array_equal(several, [3 * 2 + 9 * 2, 120])


class _Product(MessagePassing):
    aggregation: aggr.AbstractAggregation

    def message(self, x_i, x_j):
        return jnp.sin(x_i) * x_j + x_j**2

    def __call__(self, x, edges):
        return self.propagate(edges, x=x)


def _assert_second_derivative(layer, x, direction):
    """Derivative of the gradient through two steps of a `scan`, against differences of gradients."""

    def loss(x):
        def step(h, _):
            return jnp.tanh(h + 0.3 * layer(h)), None

        return jnp.sum(jnp.sin(jax.lax.scan(step, x, length=2)[0]))

    slope, step = jax.jit(jax.grad(loss)), 1e-5
    numeric = (slope(x + step * direction) - slope(x - step * direction)) / (2 * step)
    exact = jax.jit(lambda x, d: jax.jvp(jax.grad(loss), (x,), (d,))[1])(x, direction)
    np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gatv2", "max", "mul", "segment_mul", "sparse"])
def test_second_derivatives_inside_a_scan(name):
    with jax.enable_x64(True):
        rng, keys = np.random.default_rng(0), jr.split(jr.key(0), 4)
        edge_index = jnp.asarray(rng.integers(0, 6, (2, 14)))
        edges = EdgeIndex.from_array(edge_index, num_senders=6, num_receivers=6)
        x, direction = jr.normal(keys[0], (6, 4)), jr.normal(keys[1], (6, 4))
        if name == "gatv2":
            _assert_second_derivative(eqx.Partial(GATv2Conv(4, 4, key=keys[2]), edge_index=edges), x, direction)
        elif name == "segment_mul":
            _assert_second_derivative(lambda h: ops.segment_mul(h[edge_index[0]], edge_index[1], 6), x, direction)
        elif name == "sparse":  # neurons that are silent have derivatives too
            targets, weight = jnp.asarray(rng.integers(0, 6, (6, 3)), jnp.int32), jr.normal(keys[3], (6, 3))
            sparse = SparseConnection(targets, weight, 6)
            _assert_second_derivative(
                lambda h: sparse(h * jnp.array([0.0, 1, 1, 0, 1, 1])), x[:, 0].at[1].set(0.0), direction[:, 0]
            )
        else:
            _assert_second_derivative(
                eqx.Partial(_Product(aggregation=aggr.Max() if name == "max" else aggr.Mul()), edges=edges),
                x,
                direction,
            )
