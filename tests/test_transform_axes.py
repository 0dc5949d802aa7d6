"""State axes, shardings and ensembles: what is batched is batched, what is shared is shared, nothing is guessed."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from eqx_dynamics import AbstractCell
from eqx_dynamics.transform import Tag, ensemble, grad, init_states, state_axes, state_shardings


class Leaky(eqx.Module):
    membrane: Float[Array, "*batch 3"]
    noise: Float[Array, "*batch 3"] = eqx.field(metadata={"tags": ("new",)})


class Net(AbstractCell[Leaky]):
    linear: eqx.nn.Linear
    activation: Callable

    def init_state(self, shape=(), *, key=None):
        noise = jnp.zeros((*shape, 3)) if key is None else jr.normal(key, (*shape, 3))
        return Leaky(jnp.zeros((*shape, 3)), noise)

    def __call__(self, x, state, *, key=None):
        membrane = 0.9 * state.membrane + self.linear(x) + state.noise
        return self.activation(membrane), Leaky(membrane, state.noise)


@pytest.fixture(scope="module")
def net():
    return Net(eqx.nn.Linear(2, 3, key=jr.key(0)), jnp.tanh)


def test_batch_these_states_share_those_parameters(net):
    """`vmap` over a tree of axes equals the Python loop, for a model and its state in one argument."""
    state = init_states(net, jr.split(jr.key(1), 4))
    assert state.membrane.shape == (4, 3) and not jnp.allclose(state.noise[0], state.noise[1])
    both = (net, state)
    axes = state_axes(both, {Leaky: 0, ...: None})
    assert axes[1].membrane == 0 and axes[0].linear.weight is None and axes[0].activation is None
    xs = jr.normal(jr.key(2), (4, 2))

    def run(both, x):
        return both[0](x, both[1])

    outs, after = eqx.filter_vmap(run, in_axes=(axes, 0))(both, xs)
    for i in range(4):
        out, expected = net(xs[i], jtu.tree_map(lambda leaf, i=i: leaf[i], state))
        assert jnp.allclose(outs[i], out, atol=1e-6) and jnp.allclose(after.membrane[i], expected.membrane, atol=1e-6)

    weight_grad = grad(lambda n: jnp.sum(eqx.filter_vmap(n, in_axes=(0, 0))(xs, state)[0]), "linear")(net)
    assert weight_grad.linear.weight.shape == (3, 2)  # Shared: one gradient for all members.


def test_tags_and_other_axes_and_nested_vmap(net):
    state = jtu.tree_map(lambda leaf: jnp.moveaxis(leaf, 0, 1), init_states(net, jr.split(jr.key(1), 4)))
    axes = state_axes(state, {Tag("new"): 1, "membrane": -1})
    assert (axes.noise, axes.membrane) == (1, -1)
    grid = eqx.filter_vmap(eqx.filter_vmap(lambda s, x: net(x, s)[0], in_axes=(axes, None)), in_axes=(None, 0))(
        state, jr.normal(jr.key(2), (5, 2))
    )
    assert grid.shape == (5, 4, 3)


def test_out_axes_from_the_shapes_of_one_member(net):
    """`out_axes`: new state batched along the last axis, parameters handed through unbatched."""

    def init(key):
        return net, net.init_state(key=key)

    axes = state_axes(eqx.filter_eval_shape(init, jr.key(0)), {Leaky: 1, ...: None}, of_one_member=True)
    same, state = eqx.filter_vmap(init, out_axes=axes)(jr.split(jr.key(3), 6))
    assert state.noise.shape == (3, 6) and eqx.tree_equal(same, net)


def test_the_same_choice_as_shardings(net):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    both = (net, init_states(net, jr.split(jr.key(1), 4)))
    shardings = state_shardings(both, {Leaky: 0, ...: None}, mesh)
    assert shardings[1].membrane == NamedSharding(mesh, PartitionSpec("batch"))
    assert shardings[0].linear.weight == NamedSharding(mesh, PartitionSpec()) and shardings[0].activation is None

    @eqx.filter_jit
    def run(both, xs):
        return eqx.filter_vmap(lambda s, x: both[0](x, s))(both[1], xs)

    xs = jr.normal(jr.key(2), (4, 2))
    placed = eqx.filter_shard(both, shardings)
    assert len(placed[1].membrane.sharding.device_set) == 2
    outs, after = run(placed, xs)
    expected, _ = run(both, xs)
    assert jnp.allclose(outs, expected, atol=1e-6)
    assert after.membrane.sharding.spec == PartitionSpec("batch")


def test_ensemble_is_the_stack_of_its_members():
    make = lambda key: eqx.nn.MLP(2, 1, 4, 1, key=key)  # noqa: E731
    members = ensemble(make, jr.split(jr.key(0), 3))
    one = make(jr.split(jr.key(0), 3)[1])
    assert jnp.allclose(members.layers[0].weight[1], one.layers[0].weight)
    assert members.activation is one.activation
    outs = eqx.filter_vmap(lambda m, x: m(x), in_axes=(eqx.if_array(0), None))(members, jnp.ones(2))
    assert outs.shape == (3, 1)


def test_named_errors(net):
    state = net.init_state((4,))
    with pytest.raises(ValueError, match=r"matches no filter to `noise`"):
        state_axes(state, {"membrane": 0})
    with pytest.raises(ValueError, match="`axes` selects no array"):
        state_axes(state, {"membran": 0, ...: None})
    with pytest.raises(ValueError, match=r"`membrane` the batch axis 2, but it has shape \(4, 3\)"):
        state_axes(state, {"membrane": 2, ...: None})
    with pytest.raises(ValueError, match=r"`1` the batch axis 0, but it has shape \(\)"):
        state_axes((jnp.ones(2), jnp.ones(())), {...: 0})
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=r"`membrane` has 3 entries along axis 0, which 2 devices"):
        state_shardings(net.init_state((3,)), {...: 0}, mesh)
    with pytest.raises(ValueError, match="`axis_name` must be an axis of `mesh`"):
        state_shardings(state, {...: 0}, mesh, "data")
    with pytest.raises(ValueError, match=r"`keys` must be typed keys of shape"):
        ensemble(lambda key: key, jr.key(0))
    with pytest.raises(ValueError, match=r"`keys` must be typed keys of shape"):
        ensemble(lambda key: key, jr.PRNGKey(0))
