"""Derivatives with respect to chosen leaves: against JAX on the flattened problem, in every way of choosing."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest

from eqx_dynamics.transform import (
    Not,
    Tag,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacobian,
    jacrev,
    select,
    value_and_grad,
    vector_grad,
)


class Net(eqx.Module):
    encoder: eqx.nn.Linear
    heads: list[eqx.nn.Linear]
    scale: jax.Array = eqx.field(metadata={"tags": ("slow", "readout")})
    counter: jax.Array
    activation: Callable

    def __call__(self, x):
        h = self.activation(self.encoder(x))
        return self.scale * sum((head(h) for head in self.heads), start=jnp.zeros(()))


@pytest.fixture(scope="module")
def net():
    keys = jr.split(jr.key(0), 3)
    heads = [eqx.nn.Linear(3, 2, key=k) for k in keys[1:]]
    return Net(eqx.nn.Linear(2, 3, key=keys[0]), heads, jnp.array([0.5, -1.5]), jnp.array(3), jnp.tanh)


X = jnp.array([0.3, -1.2])


def loss(net, x):
    return jnp.mean((net(x) - 1) ** 2)


def paths(tree):
    return {jtu.keystr(path, simple=True, separator=".") for path, leaf in jtu.tree_flatten_with_path(tree)[0] if leaf}


EVERY_ARRAY = {
    "encoder.weight",
    "encoder.bias",
    "heads.0.weight",
    "heads.0.bias",
    "heads.1.weight",
    "heads.1.bias",
    "scale",
    "counter",
}
WAYS_TO_CHOOSE = [
    (..., EVERY_ARRAY),
    (eqx.is_inexact_array, EVERY_ARRAY - {"counter"}),
    (lambda leaf: leaf.ndim == 2, {"encoder.weight", "heads.0.weight", "heads.1.weight"}),
    (eqx.nn.Linear, EVERY_ARRAY - {"scale", "counter"}),
    ("encoder", {"encoder.weight", "encoder.bias"}),
    ("heads.*.weight", {"heads.0.weight", "heads.1.weight"}),
    ("**.bias", {"encoder.bias", "heads.0.bias", "heads.1.bias"}),
    (Tag("slow"), {"scale"}),
    (Not(Tag("slow")), EVERY_ARRAY - {"scale"}),
    (Not(eqx.nn.Linear), {"scale", "counter"}),
    (lambda net: (net.heads[1], net.scale), {"heads.1.weight", "heads.1.bias", "scale"}),
    (lambda net: [head.bias for head in net.heads], {"heads.0.bias", "heads.1.bias"}),
]


@pytest.mark.parametrize(("which", "expected"), WAYS_TO_CHOOSE)
def test_every_way_of_choosing_gives_a_mask_that_is_itself_a_way_of_choosing(net, which, expected):
    mask = select(net, which)
    assert jtu.tree_structure(mask) == jtu.tree_structure(net)
    assert paths(mask) == expected
    assert paths(select(net, mask)) == expected


def test_a_mask_may_cover_only_the_top_of_the_tree(net):
    mask = eqx.tree_at(lambda n: n.encoder, jtu.tree_map(lambda _: False, net), True)
    assert paths(select(net, mask)) == {"encoder.weight", "encoder.bias"}


def flat_problem(net, which):
    """The same loss as a function of one vector, by JAX alone."""
    chosen, rest = eqx.partition(
        net, jtu.tree_map(lambda m, leaf: m and eqx.is_inexact_array(leaf), select(net, which), net)
    )
    vector, unravel = jax.flatten_util.ravel_pytree(chosen)
    return vector, lambda v: eqx.combine(unravel(v), rest), unravel


@pytest.mark.parametrize("which", [which for which, _ in WAYS_TO_CHOOSE])
def test_gradient_equals_jax_on_the_vector_of_chosen_leaves(net, which):
    vector, build, unravel = flat_problem(net, which)
    expected = unravel(jax.grad(lambda v: loss(build(v), X))(vector))
    grads = grad(loss, which)(net, X)
    assert eqx.tree_equal(jtu.tree_leaves(grads), jtu.tree_leaves(expected), rtol=1e-6, atol=1e-7)


def test_results_have_the_structure_of_what_was_chosen(net):
    weight, head = grad(loss, lambda n: (n.encoder.weight, n.heads[0]))(net, X)
    assert weight.shape == (3, 2) and isinstance(head, eqx.nn.Linear) and head.weight.shape == (2, 3)
    grads = grad(loss, "**.bias")(net, X)
    assert isinstance(grads, Net) and grads.encoder.weight is None and grads.encoder.bias.shape == (3,)
    updated = eqx.apply_updates(net, grads)
    assert jnp.array_equal(updated.encoder.bias, net.encoder.bias + grads.encoder.bias)
    assert jnp.array_equal(updated.encoder.weight, net.encoder.weight)


@pytest.mark.parametrize("transform", [grad, vector_grad, jacrev, jacfwd, jacobian, hessian])
def test_value_order_is_gradients_value_aux(net, transform):
    """Aux may hold anything: here the model itself, functions included."""

    def with_aux(net, x):
        return loss(net, x), {"model": net, "name": "aux"}

    plain = transform(loss, "scale")(net, X)
    same = lambda a: eqx.tree_equal(a, plain, rtol=1e-6, atol=1e-7)  # noqa: E731
    grads, value = transform(loss, "scale", return_value=True)(net, X)
    assert same(grads) and jnp.allclose(value, loss(net, X))
    grads, aux = transform(with_aux, "scale", has_aux=True)(net, X)
    assert same(grads) and eqx.tree_equal(aux["model"], net) and aux["name"] == "aux"
    grads, value, aux = eqx.filter_jit(transform(with_aux, "scale", has_aux=True, return_value=True))(net, X)
    assert same(grads) and jnp.allclose(value, loss(net, X)) and aux["model"].activation is jnp.tanh


def test_value_and_grad_has_jax_order(net):
    value, grads = value_and_grad(loss, "scale")(net, X)
    assert jnp.allclose(value, loss(net, X)) and eqx.tree_equal(grads, grad(loss, "scale")(net, X))
    (value, aux), grads = value_and_grad(lambda n, x: (loss(n, x), x), "scale", has_aux=True)(net, X)
    assert jnp.array_equal(aux, X) and grads.scale.shape == (2,)


@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_jacobian_and_vector_gradient(net, transform):
    vector, build, _ = flat_problem(net, "**.bias")
    expected = jax.jacfwd(lambda v: build(v)(X))(vector)
    jac = transform(lambda n, x: n(x), "**.bias")(net, X)
    got = jnp.concatenate([leaf.reshape(2, -1) for leaf in jtu.tree_leaves(jac)], axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    summed = vector_grad(lambda n, x: n(x), "**.bias")(net, X)
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(summed)[0], expected.sum(0), rtol=1e-5, atol=1e-6)


def test_hessian_and_its_product_with_a_vector(net):
    vector, build, unravel = flat_problem(net, "encoder")
    expected = jax.jit(jax.hessian(lambda v: loss(build(v), X)))(vector)
    hess = eqx.filter_jit(hessian(loss, lambda n: n.encoder))(net, X)
    assert hess.weight.bias.shape == (3, 2, 3)
    np.testing.assert_allclose(hess.weight.weight.reshape(6, 6), expected[:6, :6], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(hess.weight.bias.reshape(6, 3), expected[:6, 6:], rtol=1e-4, atol=1e-6)
    v = jr.normal(jr.key(5), vector.shape)
    product, value = eqx.filter_jit(hvp(loss, "encoder", return_value=True))(unravel(v), net, X)
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(product)[0], expected @ v, rtol=1e-4, atol=1e-6)
    assert jnp.allclose(value, loss(net, X))


def test_they_nest_and_compose(net):
    """Gradient of a gradient's norm = 2 H g; forward over reverse = Hessian."""

    def grad_norm(n, x):
        return sum((jnp.sum(g**2) for g in jtu.tree_leaves(grad(loss, "encoder")(n, x))), start=jnp.zeros(()))

    twice = eqx.filter_jit(grad(grad_norm, "encoder"))(net, X)
    expected = hvp(loss, "encoder")(grad(loss, "encoder")(net, X), net, X)
    assert eqx.tree_equal(twice, jtu.tree_map(lambda leaf: 2 * leaf, expected), rtol=1e-4, atol=1e-6)
    both = jacfwd(grad(loss, "scale"), "scale")(net, X)
    assert eqx.tree_equal(both, hessian(loss, "scale")(net, X), rtol=1e-5, atol=1e-6)
    over_batch = jax.vmap(grad(loss, lambda n: n.scale), in_axes=(None, 0))
    assert eqx.filter_jit(over_batch)(net, jnp.stack([X, 2 * X])).shape == (2, 2)


def test_argnums_chooses_the_argument_or_several(net):
    np.testing.assert_allclose(grad(loss, argnums=1)(net, X), jax.grad(lambda x: loss(net, x))(X), rtol=1e-6)
    net_grads, x_grad = grad(loss, lambda args: (args[0].scale, args[1]), argnums=(0, 1))(net, X)
    assert net_grads.shape == (2,) and x_grad.shape == (2,)
    scaled = grad(lambda n, *, x: loss(n, x), "scale")(net, x=X)
    assert eqx.tree_equal(scaled, grad(loss, "scale")(net, X), rtol=1e-6)


def test_named_errors(net):
    for transform in (grad, hessian, jacobian):
        with pytest.raises(ValueError, match=r"`wrt` selects no differentiable .* encoder.weight"):
            transform(loss, "decoder")(net, X)
    with pytest.raises(ValueError, match="`wrt` selects no differentiable"):
        grad(loss, "counter")(net, X)
    with pytest.raises(ValueError, match="`wrt` selects a leaf twice"):
        grad(loss, lambda n: (n.encoder, n.encoder.weight))(net, X)
    with pytest.raises(ValueError, match="`wrt` must be a function from the tree"):
        grad(loss, lambda n: n.decoder)(net, X)
    with pytest.raises(ValueError, match="`wrt` must be a type, a path pattern"):
        grad(loss, 3)(net, X)
    with pytest.raises(ValueError, match="`wrt` must have the structure of Net"):
        grad(loss, (True, False))(net, X)
    with pytest.raises(ValueError, match="`which` selects no array"):
        select(net, Tag("fast"))
    with pytest.raises(ValueError, match=r"one real scalar .* got float32\[2\]"):
        grad(lambda n, x: n(x))(net, X)
    with pytest.raises(ValueError, match=r"one real scalar .*, float32\[2\]\..*`has_aux=True`"):
        value_and_grad(lambda n, x: (loss(n, x), x))(net, X)
    with pytest.raises(ValueError, match="one real scalar"):  # The seed's `composite_grad`: a gradient is no scalar.
        grad(grad(loss))(net, X)
    with pytest.raises(ValueError, match=r"must return `\(value, aux\)`"):
        grad(loss, has_aux=True)(net, X)
    with pytest.raises(ValueError, match="`argnums` must name positional"):
        grad(loss, argnums=2)(net, X)
    with pytest.raises(ValueError, match="`vector` must have the structure"):
        hvp(loss, "scale")(grad(loss, "encoder")(net, X), net, X)
