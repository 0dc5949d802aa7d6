"""Sparse connections against dense matrices; masked weights and Dale's law in training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqx_dynamics as dyn
import eqx_dynamics.spiking as snn
from eqx_dynamics.spiking import _sparse
from eqx_dynamics.spiking._connections import value_of


pytestmark = pytest.mark.usefixtures("light_compilation")


KEY = jr.key(5)


def _matrix(seed: int, shape: tuple[int, int], density: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < density, rng.normal(size=shape), 0).astype(np.float32)


def test_sparse_is_its_dense_matrix() -> None:
    """Values by both routes, for few and for more spikes than a block, graded ones, and any leading axes."""
    matrix = _matrix(0, (7, 150))
    layer = snn.SparseConnection.from_dense(matrix)
    assert np.array_equal(layer.to_dense(), matrix)
    rng = np.random.default_rng(1)
    rows = np.stack([(rng.random(150) < p) * rng.normal(size=150) for p in (0.0, 0.02, 0.4, 1.0)]).astype(np.float32)
    x = jnp.asarray(rows).reshape(2, 2, 150)
    want = rows.reshape(2, 2, 150) @ matrix.T
    np.testing.assert_allclose(layer(x), want, atol=1e-5)
    np.testing.assert_allclose(layer(x != 0), (rows.reshape(2, 2, 150) != 0) @ matrix.T, atol=1e-5)
    every = _sparse._visit_all(jnp.asarray(rows), layer.targets, jnp.asarray(layer.weight), 7)
    np.testing.assert_allclose(every, rows @ matrix.T, atol=1e-5)


def test_sparse_derivatives_are_the_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of neurons that did not fire, in forward and reverse mode, and when the synapses are visited in parts."""
    matrix = _matrix(2, (4, 9), 0.5)
    layer = snn.SparseConnection.from_dense(matrix)
    x = jnp.asarray(np.arange(18).reshape(2, 9) % 3 == 0, jnp.float32)
    seed = jnp.asarray(np.random.default_rng(3).normal(size=(2, 4)), jnp.float32)

    def loss(layer: snn.SparseConnection, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(layer(x)) * seed)

    dense = jnp.asarray(matrix)
    want = jax.grad(lambda m, x: jnp.sum(jnp.tanh(x @ m.T) * seed), argnums=(0, 1))(dense, x)
    for most in (1 << 22, 40):
        monkeypatch.setattr(_sparse, "_MOST_AT_ONCE", most)
        grad_layer, grad_x = eqx.filter_jit(eqx.filter_grad(lambda lx: loss(*lx)))((layer, x))
        spread = eqx.tree_at(lambda m: m.weight, layer, grad_layer.weight).to_dense()
        np.testing.assert_allclose(spread, np.where(matrix != 0, want[0], 0), atol=1e-5)
        np.testing.assert_allclose(grad_x, want[1], atol=1e-5)
    _, tangent = jax.jvp(lambda x: loss(layer, x), (x,), (jnp.ones_like(x),))
    np.testing.assert_allclose(tangent, jnp.sum(want[1]), rtol=1e-5)


def test_fixed_probability_draws_each_pair_with_that_probability() -> None:
    layer = snn.SparseConnection.fixed_probability(300, 300, 0.1, 2.0, autapses=False, key=jr.key(0))
    dense = np.asarray(layer.to_dense())
    assert set(np.unique(dense)) == {0.0, 2.0}  # No pair twice.
    assert not dense.diagonal().any()
    pairs = 300 * 299
    deviation = np.sqrt(pairs * 0.1 * 0.9)
    assert abs((dense > 0).sum() - 0.1 * pairs) < 4 * deviation
    for axis in (0, 1):  # Row and column sums are binomial, too.
        counts = (dense > 0).sum(axis)
        assert 0.7 < counts.var() / (299 * 0.1 * 0.9) < 1.4
    trimmed = layer.trimmed()
    assert trimmed.targets.shape[1] == (dense > 0).sum(0).max() < layer.targets.shape[1]
    assert np.array_equal(trimmed.to_dense(), dense)
    each = eqx.tree_at(lambda m: m.weight, layer, jr.normal(KEY, layer.targets.shape))
    np.testing.assert_array_equal(each.trimmed().to_dense(), each.to_dense())
    everyone = snn.SparseConnection.fixed_probability(3, 4, 1.0, key=jr.key(1))
    assert np.array_equal(everyone.to_dense(), np.ones((4, 3)))


def test_from_csr_puts_senders_in_rows() -> None:
    layer = snn.SparseConnection.from_csr(np.array([0, 2, 2, 3]), np.array([1, 3, 0]), np.array([0.5, -1.0, 2.0]), 4)
    want = np.zeros((4, 3))
    want[1, 0], want[3, 0], want[0, 2] = 0.5, -1.0, 2.0
    assert np.array_equal(layer.to_dense(), want)
    parallel = snn.SparseConnection.from_csr(np.array([0, 2]), np.array([1, 1]), np.array([0.5, 0.25]), 2)
    assert np.array_equal(parallel.to_dense(), [[0.0], [0.75]])  # Two synapses between two neurons add up.


def test_sparse_feedback_is_dense_feedback() -> None:
    """In `Recurrent`, without a batch and with one; and learned there."""
    matrix = _matrix(4, (12, 12), 0.4)
    cell = snn.LIFCell(12, 5.0)
    linear = eqx.nn.Linear(12, 12, use_bias=False, key=jr.key(0))
    dense = snn.Recurrent(cell, eqx.tree_at(lambda m: m.weight, linear, jnp.asarray(matrix)))
    sparse = snn.Recurrent(cell, snn.SparseConnection.from_dense(matrix))
    xs = 4 * jr.normal(jr.key(1), (15, 3, 12))

    def run(network: snn.Recurrent, xs: jax.Array) -> jax.Array:
        return dyn.scan(network, xs, network.init_state(xs.shape[1:-1]))[0]

    want, got, alone = jax.jit(lambda xs: (run(dense, xs), run(sparse, xs), run(sparse, xs[:, 0])))(xs)
    assert 0.05 < want.mean() < 0.9
    assert np.array_equal(got, want)
    assert np.array_equal(alone, want[:, 0])


def test_masked_and_dale_weights_stay_so_in_training() -> None:
    """A step of gradient descent moves what exists, keeps signs, and leaves no synapse where there was none."""
    sign, mask = jnp.array([1, 1, -1, 1]), jnp.asarray(_matrix(5, (3, 4), 0.6) != 0)
    initial = jr.normal(jr.key(2), (3, 4))
    layer = snn.DenseConnection(snn.Masked(snn.Dale(initial, sign), mask), jnp.zeros(3))
    before = value_of(layer.weight)
    np.testing.assert_allclose(before, np.where(mask, np.abs(initial) * np.asarray(sign), 0), atol=1e-6)
    x = jr.normal(jr.key(3), (2, 5, 4))
    np.testing.assert_allclose(layer(x), x @ before.T, atol=1e-5)
    grads = eqx.filter_grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)
    after = value_of(eqx.apply_updates(layer, jax.tree.map(lambda g: -10.0 * g, grads)).weight)
    assert np.all(np.asarray(after)[~np.asarray(mask)] == 0)
    moved = np.asarray(after)[np.asarray(mask)]
    assert np.all(moved * np.broadcast_to(sign, (3, 4))[np.asarray(mask)] >= 0)
    assert np.all(moved != np.asarray(before)[np.asarray(mask)])


def test_bad_connections_are_named() -> None:
    targets = jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(ValueError, match=r"`targets` must lie in \[0, 3\).*got 0 to 4"):
        snn.SparseConnection(targets.at[0, 0].set(4), 1.0, 3)
    with pytest.raises(ValueError, match=r"`weight` must be one number, one per sender \(2, 1\).*got shape \(3, 2\)"):
        snn.SparseConnection(targets, jnp.ones((3, 2)), 3)
    with pytest.raises(ValueError, match="`out_features` must be positive; got 0"):
        snn.SparseConnection(targets, 1.0, 0)
    with pytest.raises(ValueError, match=r"`x` must end in the 2 senders; got shape \(3,\)"):
        snn.SparseConnection(targets, 1.0, 3)(jnp.ones(3))
    with pytest.raises(ValueError, match="`probability` must be above 0"):
        snn.SparseConnection.fixed_probability(2, 2, 0.0, key=jr.key(0))
    with pytest.raises(ValueError, match="`autapses=False` needs as many receivers"):
        snn.SparseConnection.fixed_probability(2, 3, 0.5, autapses=False, key=jr.key(0))
    with pytest.raises(ValueError, match="`trimmed` chooses a size by looking at numbers"):
        eqx.filter_jit(lambda m: m.trimmed())(snn.SparseConnection(targets, 1.0, 3))
    with pytest.raises(ValueError, match="`weight` must be an array, or one number per sender, to be trimmed"):
        snn.SparseConnection(targets, snn.Frozen(jnp.ones((2, 3))), 3).trimmed()
    with pytest.raises(ValueError, match="`pointers` must rise from 0 to the 1 synapses"):
        snn.SparseConnection.from_csr(np.array([0, 2]), np.array([0]), np.array([1.0]), 2)
    with pytest.raises(ValueError, match=r"`mask` must have the shape \(2, 2\)"):
        snn.Masked(jnp.ones((2, 2)), jnp.ones((2, 1), bool))
    with pytest.raises(ValueError, match=r"`sign` must be 1 or -1.*got \[0, 1\]"):
        snn.Dale(jnp.ones((2, 2)), jnp.array([0, 1]))
    with pytest.raises(ValueError, match=r"`sign` must fit the weights \(2, 2\)"):
        snn.Dale(jnp.ones((2, 2)), jnp.array([1, 1, 1]))
    with pytest.raises(ValueError, match=r"`weight` must be a matrix \(receivers, senders\)"):
        snn.DenseConnection(jnp.ones(3))
    with pytest.raises(ValueError, match="`x` must end in the 2 senders"):
        snn.DenseConnection(jnp.ones((3, 2)))(jnp.ones(3))
