"""The parts of TiDHy: likelihoods, decoders, hypernetwork, transitions, priors, presets."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

from eqx_dynamics import tidhy


pytestmark = pytest.mark.usefixtures("light_compilation")


def test_likelihoods_are_those_of_scipy_up_to_constants():
    logits = jnp.linspace(-4.0, 4.0, 9)
    ones, counts = jnp.ones(9), jnp.full(9, 3.0)
    bernoulli = tidhy.Bernoulli()
    expected = -scipy.stats.bernoulli.logpmf(1, np.asarray(jax.nn.sigmoid(logits)))
    np.testing.assert_allclose(bernoulli.nll(logits, ones), expected, rtol=2e-5)
    for link in ("softplus", "log"):
        poisson = tidhy.Poisson(link)
        expected = -scipy.stats.poisson.logpmf(3, np.asarray(poisson.mean(logits), float)) - np.log(6.0)
        np.testing.assert_allclose(poisson.nll(logits, counts), expected, rtol=2e-5)
    np.testing.assert_allclose(tidhy.Gaussian().nll(logits, ones), (np.asarray(logits) - 1) ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    "likelihood", [tidhy.Bernoulli(), tidhy.Poisson(), tidhy.Poisson("log"), tidhy.Gaussian()], ids=str
)
def test_likelihoods_and_their_gradients_stay_finite_far_out(likelihood):
    far = jnp.array([-80.0, -40.0, -1e-3, 0.0, 40.0, 80.0])
    for observed in (0.0, 1.0):
        value, slope = jax.vmap(jax.value_and_grad(lambda z, x=observed: likelihood.nll(z, jnp.asarray(x))))(far)
        assert jnp.isfinite(value).all() and jnp.isfinite(slope).all()


def test_low_rank_components_can_rotate_and_symmetric_ones_cannot(getkey):
    free = tidhy.LowRankTransition(5, 4, 2, key=getkey())
    tied = tidhy.LowRankTransition(5, 4, 2, symmetric=True, key=getkey())
    assert np.abs(np.linalg.eigvals(np.asarray(free.transition_basis)).imag).max() > 0.01
    assert np.abs(np.linalg.eigvals(np.asarray(tied.transition_basis)).imag).max() < 1e-6
    assert np.linalg.matrix_rank(np.asarray(free.transition_basis), tol=1e-5).max() == 2


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("kind", ["full", "offsets", "low", "symmetric"])
def test_prediction_is_the_mixture_of_components(kind, use_bias, getkey):
    if kind in ("full", "offsets"):
        transition = tidhy.FullRankTransition(3, 4, use_bias=use_bias, use_offsets=kind == "offsets", key=getkey())
        if transition.offsets is not None:
            transition = eqx.tree_at(lambda t: t.offsets, transition, jr.normal(getkey(), (3, 4)))
    else:
        transition = tidhy.LowRankTransition(3, 4, symmetric=kind == "symmetric", use_bias=use_bias, key=getkey())
    weights, gains, latents = jr.normal(getkey(), (3,)), jr.normal(getkey(), (transition.gain_size,)), jnp.arange(4.0)
    expected = transition.combine(weights) @ latents
    if isinstance(transition, tidhy.FullRankTransition) and transition.offsets is not None:
        expected = expected + weights @ transition.offsets
    if transition.bias is not None:
        expected = expected + gains * transition.bias
    got = transition.columns(latents) @ jnp.concatenate([weights, gains])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_components_start_orthonormal(getkey):
    basis = tidhy.FullRankTransition(5, 4, key=getkey()).basis.reshape(5, -1)
    np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "holds"),
    [
        (jax.nn.relu, lambda w: (w >= 0).all()),
        (jax.nn.softplus, lambda w: (w > 0).all()),
        (jax.nn.softmax, lambda w: np.allclose(w.sum(-1), 1, atol=1e-6)),
        (tidhy.signed, lambda w: (w < 0).any() and (w > 0).any()),
    ],
)
def test_activation_decides_what_weights_may_be(activation, holds, getkey):
    network = tidhy.Hypernetwork(3, 5, 7, activation=activation, key=getkey())
    assert holds(np.asarray(jax.vmap(network)(jr.normal(getkey(), (50, 3)))))


def test_biases_keep_the_context_gradient_bounded_at_zero(getkey):
    network = tidhy.Hypernetwork(8, 8, 32, activation=tidhy.signed, key=getkey())
    no_bias = eqx.tree_at(lambda n: n.mlp.first.bias, network, jnp.zeros(32))
    start = 0.001 * jr.normal(getkey(), (8,))
    slope = lambda n: float(jnp.linalg.norm(jax.jacobian(n)(start)))  # noqa: E731
    assert slope(no_bias) > 30 * slope(network)


def test_presets_and_their_parts(getkey):
    original = tidhy.TiDHy.original(6, dynamic_bias=True, low_rank=True, context_decoder_size=4, key=getkey())
    assert original.num_components == 15 and original.latent_size == 10 and original.context_size == 5
    assert original.transition.gain_size == 10 and isinstance(original.prior, tidhy.LearnedPrior)
    later = tidhy.TiDHy.original(6, version="nnx", nonlinear_decoder=True, key=getkey())
    assert later.hypernetwork.squash is jnp.tanh and later.hypernetwork.mlp.norm.eps == 1e-6
    recommended = tidhy.TiDHy.recommended(6, key=getkey())
    alive = jax.vmap(recommended.mixture)(jr.normal(getkey(), (100, 8))).max(0) > 0
    assert alive.all()


def test_parts_that_do_not_fit_are_named(getkey):
    decoder = tidhy.LinearDecoder(4, 6, key=getkey())
    transition = tidhy.FullRankTransition(3, 4, use_bias=True, key=getkey())
    with pytest.raises(ValueError, match="`hypernetwork` must return 3 mixture weights and 4 bias gains"):
        tidhy.TiDHy(decoder, tidhy.Hypernetwork(2, 3, 5, key=getkey()), transition)
    fitting = tidhy.Hypernetwork(2, 3, 5, gain_size=4, key=getkey())
    with pytest.raises(ValueError, match="`decoder` must accept the 4 latents"):
        tidhy.TiDHy(tidhy.LinearDecoder(5, 6, key=getkey()), fitting, transition)


def test_weights_of_another_shape_or_name_are_named(getkey):
    model = tidhy.TiDHy.original(6, 4, 3, 2, 5, key=getkey())
    with pytest.raises(ValueError, match=r"`weights` has no 'spatial_decoder\.0\.weight'"):
        tidhy.load_original(model, {"temporal": np.zeros((2, 16))})
    weights = {
        "spatial_decoder.0.weight": np.zeros((6, 5)),
    }
    with pytest.raises(ValueError, match=r"must hold \(6, 4\); got \(6, 5\)"):
        tidhy.load_original(model, weights)


def test_normalize_makes_columns_and_components_unit(getkey):
    model = tidhy.normalize(tidhy.TiDHy.original(6, 4, 3, 2, 5, key=getkey()))
    assert isinstance(model.decoder, tidhy.LinearDecoder) and isinstance(model.transition, tidhy.FullRankTransition)
    np.testing.assert_allclose(jnp.linalg.norm(model.decoder.linear.weight, axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(model.transition.basis, axis=(1, 2)), 1, rtol=1e-5)


def test_initialize_finds_the_axes_and_the_dynamics_of_a_linear_system(getkey):
    angle = 0.2
    true = 0.99 * jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    _, states = jax.lax.scan(lambda s, _: (true @ s, s), jnp.array([1.0, 0.0]), length=200)
    recording = states @ jr.normal(getkey(), (2, 6))
    model = tidhy.TiDHy(
        tidhy.LinearDecoder(2, 6, key=getkey()),
        tidhy.Hypernetwork(2, 3, 5, activation=jax.nn.softmax, key=getkey()),
        tidhy.FullRankTransition(3, 2, use_offsets=True, key=getkey()),
    )
    model = tidhy.initialize(model, recording[None], ridge=0.01, key=getkey())
    found = np.linalg.eigvals(np.asarray(model.transition.combine(jnp.full(3, 1 / 3))))
    np.testing.assert_allclose(np.abs(found), 0.99, atol=5e-3)
    np.testing.assert_allclose(np.abs(np.angle(found)), angle, atol=5e-3)


def test_rounds_of_initialize_tell_two_dynamics_apart(getkey):
    sizes, angles = jnp.array([0.98, 0.9]), jnp.array([0.1, 0.8])
    turns = jnp.stack([jnp.stack([jnp.cos(angles), -jnp.sin(angles)]), jnp.stack([jnp.sin(angles), jnp.cos(angles)])])
    matrices = sizes[:, None, None] * jnp.moveaxis(turns, 2, 0)
    regimes = jnp.repeat(jnp.arange(40) % 2, 25)

    def step(state, regime_and_kick):
        state = matrices[regime_and_kick[0]] @ state + 0.2 * regime_and_kick[1]
        return state, state

    kicks = jr.normal(getkey(), (1000, 2)) * jnp.where(jnp.arange(1000) % 25 == 0, 1.0, 0.0)[:, None]
    _, states = jax.lax.scan(step, jnp.ones(2), (regimes, kicks))
    model = tidhy.TiDHy(
        tidhy.LinearDecoder(2, 4, key=getkey()),
        tidhy.Hypernetwork(2, 2, 5, activation=jax.nn.softmax, key=getkey()),
        tidhy.FullRankTransition(2, 2, use_offsets=True, key=getkey()),
    )
    recording = (states @ jr.normal(getkey(), (2, 4)))[None]
    model = tidhy.initialize(model, np.asarray(recording), ridge=1e-3, num_rounds=10, num_restarts=2, key=getkey())
    found = np.abs(np.linalg.eigvals(np.asarray(model.transition.transition_basis)))
    np.testing.assert_allclose(np.sort(found[:, 0]), [0.9, 0.98], atol=0.01)
    with pytest.raises(ValueError, match="`num_rounds` must not be negative and `num_restarts`"):
        tidhy.initialize(model, recording, num_rounds=1, num_restarts=0, key=getkey())


@pytest.mark.slow
def test_components_that_last_are_found_where_one_step_does_not_tell_them_apart(getkey):
    regimes = jnp.repeat(jnp.arange(40) % 2, 50)
    slopes = jnp.array([[1.2, -0.5], [0.2, 0.4]])  # of the last value and of the one before

    def step(before, regime_and_kick):
        now = slopes[regime_and_kick[0]] @ before + regime_and_kick[1]
        return jnp.stack([now, before[0]]), now

    _, values = jax.lax.scan(step, jnp.zeros(2), (regimes, jr.normal(getkey(), (2000,))))
    recording = 3.0 * values[None, :, None]
    model = tidhy.TiDHy(
        tidhy.LinearDecoder(2, 1, key=getkey()),
        tidhy.Hypernetwork(3, 2, 16, activation=jax.nn.softmax, squash=jnp.tanh, key=getkey()),
        tidhy.FullRankTransition(2, 2, use_offsets=True, key=getkey()),
    )
    model = tidhy.initialize(
        model, recording, num_rounds=20, num_restarts=1, persistence=0.97, num_lags=2, context_gain=2.0, key=getkey()
    )
    basis, decoder = np.asarray(model.transition.transition_basis), model.decoder
    np.testing.assert_allclose(basis[np.argsort(-basis[:, 0, 0]), 0], slopes, atol=0.12)
    np.testing.assert_allclose(basis[:, 1], [[1, 0], [1, 0]], atol=1e-6)  # the hidden latent is the one before
    assert isinstance(decoder, tidhy.LinearDecoder) and decoder.linear.weight[0, 1] == 0
    # Each context latent raises the weight of its own component.
    weights = jax.vmap(model.mixture)(jnp.array([[1.0, 0, 0], [0, 1.0, 0]]))
    np.testing.assert_allclose(jnp.diagonal(weights), jax.nn.sigmoid(2 * jnp.tanh(1.0)), atol=0.1)

    with pytest.raises(ValueError, match=r"`persistence` must lie in \[0, 1\); got 1.0"):
        tidhy.initialize(model, recording, persistence=1.0, key=getkey())
    with pytest.raises(ValueError, match="`num_lags` must divide the 2 latents; got 3"):
        tidhy.initialize(model, recording, num_lags=3, key=getkey())
    network = tidhy.Hypernetwork(1, 2, 4, activation=jax.nn.softmax, key=getkey())
    narrow = tidhy.TiDHy(model.decoder, network, model.transition)
    with pytest.raises(ValueError, match="`context_gain` needs a context latent for each of the 2 components"):
        tidhy.initialize(narrow, recording, num_lags=2, context_gain=1.0, key=getkey())


def test_a_forecasting_loss_predicts_from_the_context_expected_before(getkey):
    model = tidhy.TiDHy(
        tidhy.LinearDecoder(2, 3, key=getkey()),
        tidhy.Hypernetwork(2, 2, 5, activation=jax.nn.softmax, squash=jnp.tanh, key=getkey()),
        tidhy.FullRankTransition(2, 2, key=getkey()),
        prior=tidhy.MeanReverting(0.5, 0.8),
    )
    x = jr.normal(getkey(), (1, 6, 3))
    loss = tidhy.TiDHyLoss(tidhy.Inference(), is_forecast=True)
    inferred = loss.infer(model, x)
    r, h = inferred.solution.latents[0], inferred.solution.context_latents[0]
    predicted = jax.vmap(model.predict)(r[:-1], 0.8 * h[:-1])
    expected = jnp.sum((jax.vmap(model.decoder)(predicted) - x[0, 1:]) ** 2)
    np.testing.assert_allclose(inferred.terms(model).prediction, expected, rtol=1e-5)
    published = tidhy.TiDHyLoss(tidhy.Inference()).infer(model, x).terms(model).prediction
    assert abs(published - expected) > 1e-3 * expected
    # A forecast lets the context decay as well.
    state = tidhy.InferenceState(tidhy.LatentState(r[-1], h[-1]), jnp.ones((), bool))
    np.testing.assert_allclose(tidhy.forecast(model, state, 2).context_latents[-1], 0.64 * h[-1], rtol=1e-5)
    with pytest.raises(ValueError, match=r"`decay` must lie in \[0, 1\]; got 1.5"):
        tidhy.MeanReverting(1.0, 1.5)


def test_initialize_names_what_it_cannot_use(getkey):
    model = tidhy.TiDHy.recommended(12, key=getkey())
    recording = jr.normal(getkey(), (1, 100, 12))
    with pytest.raises(ValueError, match=r"channels of zero variance: \[3\]"):
        tidhy.initialize(model, recording.at[..., 3].set(1.0), key=getkey())
    with pytest.raises(ValueError, match="`segment_length` must be less than the 100 time steps"):
        tidhy.initialize(model, recording, segment_length=100, key=getkey())
    with pytest.raises(ValueError, match="`observations` must be finite: pass recordings"):
        tidhy.initialize(model, recording.at[0, 5, 2].set(jnp.nan), key=getkey())
    with pytest.raises(ValueError, match="the 12 channels of `model`; got 11"):
        tidhy.initialize(model, recording[..., :11], key=getkey())
    nonlinear = tidhy.TiDHy.original(12, nonlinear_decoder=True, key=getkey())
    with pytest.raises(ValueError, match="`model` must have a LinearDecoder"):
        tidhy.initialize(nonlinear, recording, key=getkey())
