"""The BrainState document's numbers: those it prints, and those its own library computes for its blocks."""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

from eqx_dynamics import AbstractCell, scan
from eqx_dynamics.spiking import LIFCell, LIFState
from eqx_dynamics.transform import (
    ensemble,
    grad,
    hessian,
    init_states,
    jacfwd,
    jacobian,
    jacrev,
    state_axes,
    vector_grad,
)


REFERENCE = pathlib.Path(__file__).parents[1] / "reference" / "snn"


@pytest.fixture(scope="module")
def linear():
    return {name: jnp.asarray(value) for name, value in np.load(REFERENCE / "tf_linear.npz").items()}


@pytest.fixture(scope="module")
def printed():
    return dict(np.load(REFERENCE / "seed_printed.npz"))


@pytest.fixture(scope="module")
def library():
    return dict(np.load(REFERENCE / "seed_brainstate_2024.npz"))


class Linear(eqx.Module):
    """BrainState stores weights as (in, out)."""

    weight: Float[Array, "n_in n_out"]
    bias: Float[Array, " n_out"]

    def __call__(self, x):
        return x @ self.weight + self.bias[None]


def mean_squared(model, x, y):
    return jnp.mean((y - model(x)) ** 2)


def squared(model, x, y):
    return jnp.ravel((y - model(x)) ** 2)


@pytest.mark.parametrize("case", ["seed", "rand"])
def test_every_derivative_of_the_linear_model(linear, case):
    """Blocks 2 and 3 against brainstate 0.5.4, for the document's ones and for random data."""
    model = Linear(linear["W"], linear["b"])
    x, y = linear[f"{case}_x"], linear[f"{case}_y"]

    def with_aux(model, x, y):
        return mean_squared(model, x, y), model(x)

    @eqx.filter_jit
    def everything(*args):
        first = {
            "grad": grad(mean_squared)(*args),
            "vector_grad": vector_grad(squared)(*args),
            "jacrev": jacrev(squared)(*args),
            "jacfwd": jacfwd(squared)(*args),
        }
        by_input = grad(mean_squared, argnums=1)(*args)
        return first, grad(with_aux, has_aux=True, return_value=True)(*args), by_input, hessian(mean_squared)(*args)

    def same(got, name):
        np.testing.assert_allclose(got, linear[f"{case}_{name}"], rtol=1e-5, atol=1e-6)

    first, (grads, loss, prediction), by_input, hess = everything(model, x, y)
    assert eqx.tree_equal(grads, first["grad"], rtol=1e-6, atol=1e-7)
    same(loss, "loss")
    same(prediction, "aux_pred")
    same(by_input, "grad_x")
    for name, result in first.items():
        same(result.weight, f"{name}_weight")
        same(result.bias, f"{name}_bias")
    for outer in ("weight", "bias"):
        for inner in ("weight", "bias"):
            same(getattr(getattr(hess, outer), inner), f"hessian_{outer}_{inner}")
    assert jacobian is jacrev


def test_printed_gradients_of_the_single_model_obey_their_identity(printed):
    """Block 2: the weights were not printed, but x is ones, so the bias gives the prediction and the rest follows."""
    bias_grad = jnp.asarray(printed["grad_bias_1"])
    prediction = 1 + 1.5 * bias_grad
    model = Linear(jnp.stack([prediction, jnp.zeros(3)]), jnp.zeros(3))
    grads = grad(mean_squared)(model, jnp.ones((1, 2)), jnp.ones((1, 3)))
    np.testing.assert_allclose(grads.bias, bias_grad, atol=1e-6)
    np.testing.assert_allclose(grads.weight, jnp.stack([bias_grad, bias_grad]), atol=1e-6)


def test_gradient_of_a_gradient_is_refused_as_there(linear):
    """Block 4."""
    model = Linear(linear["W"], linear["b"])
    with pytest.raises(ValueError, match="one real scalar"):
        grad(grad(mean_squared))(model, linear["seed_x"], linear["seed_y"])


def test_printed_gradients_of_the_batch_of_models(printed):
    """Blocks 5 and 6."""
    models = ensemble(lambda key: Linear(jr.normal(key, (2, 3)), jnp.zeros(3)), jr.split(jr.key(0), 5))
    models = eqx.tree_at(lambda m: m.weight, models, jnp.asarray(printed["batched_W"]))

    def batch_loss(models, x, y):
        return jnp.mean((y - eqx.filter_vmap(lambda m, x: m(x[None])[0])(models, x)) ** 2)

    grads = grad(batch_loss)(models, jnp.ones((5, 2)), jnp.ones((5, 3)))
    np.testing.assert_allclose(grads.bias, printed["batched_grad_bias"], atol=1e-7)
    np.testing.assert_allclose(grads.weight, np.repeat(printed["batched_grad_bias"][:, None], 2, axis=1), atol=1e-7)


def test_printed_product_of_the_mapped_module(printed):
    """Block 7."""
    foo = {"a": jnp.arange(4), "b": jnp.arange(4)}
    after = eqx.filter_vmap(lambda foo: {**foo, "b": foo["a"] * foo["b"]})(foo)
    assert np.array_equal(after["b"], printed["foo_b"])


class LIFNet(AbstractCell[LIFState]):
    """Block 8."""

    i2r: eqx.nn.Linear
    lif: LIFCell

    def init_state(self, shape=(), *, key=None):
        return self.lif.init_state(shape, key=key)

    def __call__(self, x, state, *, key=None):
        return self.lif(self.i2r(x), state)


@pytest.fixture(scope="module")
def net(library):
    linear = eqx.nn.Linear(2, 3, key=jr.key(0))
    weights = jnp.asarray(library["W"].T), jnp.asarray(library["b"])
    return LIFNet(eqx.tree_at(lambda m: (m.weight, m.bias), linear, weights), LIFCell.like_brainstate(3, dt=0.1))


def test_printed_membranes(printed, net):
    """Blocks 9 to 12: zeros, then one step of 0.1 ms."""
    states = init_states(net, jr.split(jr.key(0), 5))
    assert np.array_equal(states.membrane, np.zeros((5, 3)))
    _, states = net.lif(jnp.asarray(printed["lif_I"]), states)
    np.testing.assert_allclose(states.membrane, printed["lif_V"], atol=1e-7)


def test_eight_steps_of_the_batched_network(library, net):
    """Block 11 by state axes: spikes exactly, membranes to float32 rounding at up to 40 mV."""
    axes = state_axes((net, net.init_state((5,))), {LIFState: 0, ...: None})

    def step(x, state, *, key=None):
        spikes, after = eqx.filter_vmap(lambda both, x: both[0](x, both[1]), in_axes=(axes, 0))(state, x)
        return (spikes, after.membrane), (state[0], after)

    (spikes, membranes), _ = scan(step, jnp.asarray(library["xs"]), (net, net.init_state((5,))))
    assert np.array_equal(spikes, library["spk"]) and spikes.sum() > 0
    np.testing.assert_allclose(membranes, library["V"], atol=1e-5)


def test_training_step(library, printed, net):
    """Block 13: gradient through the surrogate and Adam's first step (its later ones freeze the bias correction)."""
    states = eqx.tree_at(lambda s: s.membrane, net.init_state((5,)), jnp.asarray(library["V0"]))
    x, y = jnp.asarray(library["xs"][0]), jnp.asarray(library["ys"])

    def loss_fn(net, x, y):
        return jnp.mean((y - eqx.filter_vmap(net)(x, states)[0]) ** 2)

    grads, loss = eqx.filter_jit(grad(loss_fn, "i2r", return_value=True))(net, x, y)
    np.testing.assert_allclose(loss, library["train_loss"][0], rtol=1e-6)
    np.testing.assert_allclose(grads.i2r.weight.T, library["train_gW"][0], atol=1e-8)
    optimizer = optax.adam(1e-3)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(grads, optimizer.init(eqx.filter(grads, eqx.is_array)))
    after = eqx.apply_updates(net, updates)
    np.testing.assert_allclose(after.i2r.weight.T, library["train_W"][0], atol=1e-5)
    np.testing.assert_allclose(after.i2r.bias, library["train_b"][0], atol=1e-5)
    # The printed loss: no neuron fires in one step from rest, so it is the mean of the squared targets.
    at_rest, _ = eqx.filter_vmap(net)(0.1 * x, net.init_state((5,)))
    assert at_rest.sum() == 0 and 0.2 < printed["loss"] < 0.5
