"""`nn.relu`: the numbers of `jax.nn.relu`, and what a backward pass keeps with either."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_graph import EdgeIndex
from eqx_graph.nn import GCNConv, GraphConv, SAGEConv, relu


def test_relu_is_that_of_jax(getkey):
    x = jnp.concatenate([jr.normal(getkey(), (50,)), jnp.array([0.0, -0.0, jnp.inf, -jnp.inf, jnp.nan, 1e-38])])
    np.testing.assert_array_equal(relu(x), jax.nn.relu(x))
    cube = [jax.vmap(jax.grad(lambda x, f=f: f(x) ** 3))(x) for f in (relu, jax.nn.relu)]
    np.testing.assert_array_equal(*cube)
    np.testing.assert_array_equal(jax.grad(lambda x: relu(x).sum())(x), (x > 0).astype(x.dtype))
    curved = [jax.vmap(jax.hessian(lambda x, f=f: jnp.sin(f(x))))(x[:50]) for f in (relu, jax.nn.relu)]
    np.testing.assert_allclose(*curved, rtol=1e-6)
    np.testing.assert_array_equal(jax.jvp(relu, (x,), (2 * jnp.ones_like(x),))[1], (x > 0).astype(x.dtype) * 2)
    assert relu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def _temporary_bytes(activation, make, num_layers, num_nodes, width):
    """Of a training step of some layers, the first of them on features that have no gradient."""
    keys, senders = jr.split(jr.key(0), num_layers), np.arange(num_nodes)
    edges = EdgeIndex.from_array(np.stack([senders, senders[::-1]]), num_senders=num_nodes, num_receivers=num_nodes)
    convs = [make(width, width, key=k) for k in keys]

    @eqx.filter_jit
    def step(convs, x, edges):
        def loss(convs):
            return jnp.sum(ft.reduce(lambda h, conv: activation(conv(h, edges)), convs, x) ** 2)

        return eqx.filter_grad(loss)(convs)

    compiled = step.lower(convs, jnp.ones((num_nodes, width)), edges).compile().compiled
    return compiled.memory_analysis().temp_size_in_bytes


def test_relu_keeps_no_argument_beside_its_result():
    """At the peak, between the layers' backward passes: what was kept, a gradient, and what comes of it."""
    num_nodes, width = 32768, 64
    array = 4 * num_nodes * width
    with_ours, with_jax = (_temporary_bytes(f, SAGEConv, 2, num_nodes, width) for f in (relu, jax.nn.relu))
    assert with_ours < 5.5 * array, with_ours / array
    assert with_ours < with_jax - 0.9 * array, (with_ours / array, with_jax / array)


@pytest.mark.parametrize("make", [GCNConv, SAGEConv, GraphConv])
def test_a_deep_network_keeps_one_array_a_layer(make):
    """The result of each layer, which is what the next one's gradient needs; no aggregate of it."""
    num_nodes, width = 16384, 64
    three, six = (_temporary_bytes(relu, make, layers, num_nodes, width) for layers in (3, 6))
    array = 4 * num_nodes * width
    assert six - three < 3.3 * array, (three / array, six / array)
