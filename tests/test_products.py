"""A sum of two products: equal to the plain one under every transform, in blocks or not, and small."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_graph import EdgeIndex, _kernels
from eqx_graph.nn import SAGEConv, relu
from eqx_graph.nn._products import sum_of_products


ROWS, IN_X, IN_Y, OUT = 700, 3, 5, 4


def operands(dtype=jnp.float64):
    shapes = (ROWS, IN_X), (OUT, IN_X), (ROWS, IN_Y), (OUT, IN_Y)
    return [jr.normal(k, shape, dtype) for k, shape in zip(jr.split(jr.key(0), 4), shapes, strict=True)]


def plain(x, x_weight, y, y_weight):
    return x @ x_weight.T + y @ y_weight.T


def transforms(product):
    """Values and every derivative and batching of a product in blocks of 256 rows and a rest of 188."""
    args = operands()
    everything = tuple(range(4))

    def loss(*args):
        return jnp.sum(jnp.sin(product(*args)))

    def through_scan(*args):
        start = jnp.zeros((ROWS, OUT), args[0].dtype)
        return jax.lax.scan(lambda total, _: (jnp.sin(total + product(*args)), None), start, length=2)[0]

    twice = [jnp.stack([a, 2 * a]) for a in args]
    moved = [jnp.cos(a) for a in args]
    return {
        "value": product(*args),
        "gradient": jax.grad(loss, everything)(*args),
        "rows frozen": jax.grad(loss, (1, 3))(*args),
        "weights frozen": jax.grad(loss, (0, 2))(*args),
        "one weight": jax.grad(loss, 3)(*args),
        "tangent": jax.jvp(product, args, moved)[1],
        "tangent of one": jax.jvp(lambda x: product(x, *args[1:]), args[:1], moved[:1])[1],
        "forward over reverse": jax.jvp(jax.grad(loss, everything), args, moved)[1],
        "reverse over reverse": jax.grad(lambda *a: jnp.sum(jnp.sin(jax.grad(loss, 1)(*a))), everything)(*args),
        "vmap": jax.vmap(product)(*twice),
        "vmap gradient": jax.vmap(jax.grad(loss, everything), in_axes=(0, 0, None, 0))(*twice[:2], args[2], twice[3]),
        "checkpoint": jax.grad(jax.checkpoint(loss), 1)(*args),
        "through a scan": jax.grad(lambda w: jnp.sum(through_scan(args[0], w, *args[2:]) ** 2))(args[1]),
    }


def test_every_transform_agrees_with_the_plain_sum(monkeypatch):
    with jax.enable_x64(True):
        expected = transforms(plain)
        monkeypatch.setattr(_kernels, "_BLOCK", 256)
        jaxpr = str(jax.make_jaxpr(jax.grad(lambda *a: sum_of_products(*a).sum(), (1, 3)))(*operands()))
        assert "concatenate" in jaxpr and f"256,{IN_X + IN_Y}" in jaxpr.replace(" ", "")
        found = transforms(sum_of_products)
    for name, value in found.items():
        for a, b in zip(jax.tree.leaves(value), jax.tree.leaves(expected[name]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("dtypes", ["bbbb", "bfbf", "fbfb", "hhhh"])
def test_gradients_have_the_dtypes_of_their_arrays_and_lose_nothing_to_blocks(dtypes, monkeypatch):
    monkeypatch.setattr(_kernels, "_BLOCK", 256)
    named = {"b": jnp.bfloat16, "f": jnp.float32, "h": jnp.float16}
    args = [a.astype(named[d]) for a, d in zip(operands(jnp.float32), dtypes, strict=True)]
    exact = [a.astype(jnp.float32) for a in args]
    with jax.numpy_dtype_promotion("standard"):
        out, pull = jax.vjp(sum_of_products, *args)
        ct = jr.normal(jr.key(1), (ROWS, OUT)).astype(out.dtype)
        found = pull(ct)
    for f, e, a in zip(found, jax.vjp(plain, *exact)[1](ct.astype(jnp.float32)), args, strict=True):
        assert f.dtype == a.dtype
        np.testing.assert_allclose(f.astype(jnp.float32), e, rtol=2e-2, atol=2e-2 * float(jnp.abs(e).max()))


def test_what_is_not_finite_stays_in_its_rows(monkeypatch):
    monkeypatch.setattr(_kernels, "_BLOCK", 256)
    x, x_weight, y, y_weight = operands(jnp.float32)
    x = x.at[300, 0].set(jnp.inf)
    ct = jnp.ones((ROWS, OUT)).at[300].set(-1.0)
    x_ct, x_weight_ct, _, y_weight_ct = jax.vjp(sum_of_products, x, x_weight, y, y_weight)[1](ct)
    assert (x_weight_ct[:, 0] == -jnp.inf).all() and jnp.isfinite(x_weight_ct[:, 1:]).all()
    assert jnp.isfinite(y_weight_ct).all() and jnp.isfinite(x_ct).all()


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


def _temporary_bytes(activation, num_nodes, width):
    """Of a training step of two layers, the first of them on features that have no gradient."""
    keys, senders = jr.split(jr.key(0), 3), np.arange(num_nodes)
    edges = EdgeIndex.from_array(np.stack([senders, senders[::-1]]), num_senders=num_nodes, num_receivers=num_nodes)
    convs = [SAGEConv(width, width, key=k) for k in keys[:2]]

    @eqx.filter_jit
    def step(convs, x, edges):
        def loss(convs):
            return jnp.sum(ft.reduce(lambda h, conv: activation(conv(h, edges)), convs, x) ** 2)

        return eqx.filter_grad(loss)(convs)

    compiled = step.lower(convs, jnp.ones((num_nodes, width)), edges).compile().compiled
    return compiled.memory_analysis().temp_size_in_bytes


def test_a_layer_keeps_its_aggregate_and_its_result_and_nothing_else():
    """At the peak, between the layers' backward passes: what was kept, a gradient, and what comes of it."""
    num_nodes, width = 32768, 64
    array = 4 * num_nodes * width
    with_ours, with_jax = (_temporary_bytes(f, num_nodes, width) for f in (relu, jax.nn.relu))
    assert with_ours < 5.5 * array, with_ours / array
    assert with_ours < with_jax - 0.9 * array, (with_ours / array, with_jax / array)
