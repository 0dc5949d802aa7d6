"""Losses, regularisers, GradNorm, groups, ensembles, data, and the errors of bad input."""

import io
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import pytest

from eqx_dynamics import tidhy, training
from eqx_dynamics.datasets import SwitchingLinearSystem, linear_system, stack_windows


pytestmark = pytest.mark.usefixtures("light_compilation")


def make_model(key, activation=jax.nn.softmax):
    return tidhy.TiDHy.recommended(6, 4, 3, 3, 7, activation=activation, key=key)


@pytest.fixture(scope="module")
def observations():
    return jnp.cumsum(jr.normal(jr.key(1), (4, 6, 6)), axis=1) / 3


REGULARIZERS = [
    tidhy.BasisSimilarity(1.0),
    tidhy.BasisSimilarity(1.0, within=True),
    tidhy.NuclearNorm(1.0),
    tidhy.BasisL1(1.0),
    tidhy.HypernetworkL1(1.0),
    tidhy.HypernetworkOrthogonality(1.0),
    tidhy.DecoderL1(1.0),
    tidhy.DecoderOrthogonality(1.0),
    tidhy.DecoderOrthogonality(1.0, normalized=True),
    tidhy.WeightL1(1.0),
    tidhy.AdaptiveWeightSparsity(1.0),
    tidhy.ComponentCount(1.0),
    tidhy.SelectiveWeights(1.0),
]


def test_every_regularizer_has_a_gradient(observations):
    model = make_model(jr.key(0), jax.nn.relu)
    basis = model.transition.transition_basis
    model = eqx.tree_at(lambda m: m.transition.basis, model, basis + 0.1 * jr.normal(jr.key(2), basis.shape))
    solution, _ = tidhy.infer(model, observations)

    @eqx.filter_jit
    def slopes(model, solution):
        return [eqx.filter_grad(regularizer)(model, solution) for regularizer in REGULARIZERS]

    for regularizer, slope in zip(REGULARIZERS, slopes(model, solution), strict=True):
        size = sum(float(jnp.abs(leaf).sum()) for leaf in jtu.tree_leaves(slope))
        assert np.isfinite(size) and size > 1e-4, regularizer


def test_decompositions_of_a_model_in_sixteen_bits(observations):
    wide = make_model(jr.key(0))
    solution, _ = tidhy.infer(wide, observations)
    narrow = lambda tree: jtu.tree_map(lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a, tree)  # noqa: E731
    model = narrow(wide)
    (eigenvalues, eigenvectors), _ = tidhy.ReducedGaussNewton().prepare(model)
    assert eigenvalues.dtype == eigenvectors.dtype == jnp.bfloat16
    assert isinstance(wide.decoder, tidhy.LinearDecoder)
    weight, values, vectors = (
        np.asarray(a, np.float32) for a in (wide.decoder.linear.weight, eigenvalues, eigenvectors)
    )
    restored = (vectors * values) @ vectors.T
    np.testing.assert_allclose(restored, weight.T @ weight, atol=0.02)
    norm = tidhy.NuclearNorm(1.0)
    assert norm(model, narrow(solution)).dtype == jnp.bfloat16
    np.testing.assert_allclose(float(norm(model, narrow(solution))), float(norm(wide, solution)), rtol=0.01)


@pytest.mark.slow
def test_regularizers_survive_zeros_and_leave_padding_out(observations):
    model = make_model(jr.key(0), jax.nn.relu)
    rows = lambda m: (m.transition.basis, m.decoder.linear.weight, m.hypernetwork.mlp.first.weight)  # noqa: E731
    zeros = eqx.tree_at(rows, model, replace_fn=lambda a: a.at[0].set(0).at[..., 0].set(0))
    mixture = tuple(REGULARIZERS[-4:])
    padded = jnp.pad(observations, ((0, 0), (0, 3), (0, 0)), constant_values=jnp.nan)
    batch = tidhy.Windows(padded, jnp.broadcast_to(jnp.arange(9) < 6, (4, 9)))

    @eqx.filter_jit
    def check(model, zeros):
        loss_fn = tidhy.TiDHyLoss(tidhy.Inference(), mixture)
        plain, with_padding = loss_fn.infer(model, observations), loss_fn.infer(model, batch)
        slopes = [eqx.filter_grad(r)(zeros, plain.solution) for r in REGULARIZERS]
        totals = [[r(model, i.solution, i.is_step) for r in mixture] for i in (plain, with_padding)]
        return slopes, totals, tidhy.normalize(zeros)

    slopes, totals, unit = check(model, zeros)
    assert all(jnp.isfinite(leaf).all() for leaf in jtu.tree_leaves((slopes, eqx.filter(unit, eqx.is_array))))
    np.testing.assert_allclose(*totals, rtol=1e-4)


def test_mixture_regularizers_are_their_formulas():
    model = make_model(jr.key(0), jax.nn.relu)
    context = jr.normal(jr.key(3), (2, 5, 3))
    solution = eqx.tree_at(lambda s: s.context_latents, tidhy.infer(model, jnp.zeros((2, 5, 6)))[0], context)
    weights = np.asarray(jax.vmap(jax.vmap(model.mixture))(context), float).reshape(-1, 3)
    np.testing.assert_allclose(tidhy.WeightL1(1.0)(model, solution), np.abs(weights).sum(1).mean(), rtol=1e-5)
    shares = -np.sort(-np.abs(weights) / (np.abs(weights).sum(1, keepdims=True) + 1e-8), axis=1)
    gates = 1 / (1 + np.exp(-2 * (np.arange(3) - 1.5)))
    np.testing.assert_allclose(tidhy.ComponentCount(1.0)(model, solution), (shares @ gates).mean(), rtol=1e-5)
    fraction = (np.abs(weights) < 1e-3).mean(1)
    expected = (np.exp(0.6 - fraction) * np.abs(weights).sum(1)).mean()
    np.testing.assert_allclose(tidhy.AdaptiveWeightSparsity(1.0)(model, solution), expected, rtol=1e-5)
    soft = np.exp(weights) / np.exp(weights).sum(1, keepdims=True)
    soft, gates = -np.sort(-soft, axis=1), 1 / (1 + np.exp(-10 * (0.5 - np.arange(3) / 3)))
    expected = (soft @ (1 - gates) - 0.5 * soft @ gates).mean()
    np.testing.assert_allclose(tidhy.SelectiveWeights(1.0)(model, solution), expected, rtol=1e-5)


def test_training_lowers_the_loss_and_never_retraces(observations):
    num_traces = []

    def loss_fn(model, batch, key):
        num_traces.append(1)
        return tidhy.TiDHyLoss(tidhy.Inference(), (tidhy.BasisSimilarity(0.1),))(model, batch, key)

    step = training.make_step(loss_fn, optax.adam(1e-2), clip=10.0)
    run, state, losses = eqx.filter_jit(lambda b, s: step(b, s)), step.init(make_model(jr.key(0)), key=jr.key(1)), []
    metrics = {}
    for _ in range(15):
        metrics, state = run(observations, state)
        losses.append(float(metrics["loss"]))
    traced = len(num_traces)
    run(observations, state)
    assert losses[-1] < 0.7 * losses[0] and len(num_traces) == traced
    assert {"r2", "inference_steps", "diverged", "reconstruction", "prediction", "temporal"} <= set(metrics)


def test_groups_move_at_their_own_rates(observations):
    rates = {"decoder": 0.1, "transition": 0.01, "hypernetwork": 0.001}
    groups = training.optimizer_groups({name: optax.sgd(rate) for name, rate in rates.items()})
    loss_fn = tidhy.TiDHyLoss(tidhy.Inference())
    model = make_model(jr.key(0))
    step = training.make_step(loss_fn, groups)

    @eqx.filter_jit
    def move(model):
        slope = eqx.filter_grad(lambda m: loss_fn(m, observations, None)[0])(model)
        return slope, step(observations, step.init(model, key=jr.key(1)))[1].model

    slope, moved = move(model)
    for name, rate in rates.items():
        pick = lambda tree, name=name: eqx.filter(getattr(tree, name), eqx.is_inexact_array)  # noqa: E731
        expected = jtu.tree_map(lambda p, g, rate=rate: p - rate * g, pick(model), pick(slope))
        for got, want in zip(jtu.tree_leaves(pick(moved)), jtu.tree_leaves(expected), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_gradnorm_takes_one_inference_and_balances_the_norms(observations):
    num_inferences = []

    class Counting(tidhy.AbstractStart):
        def context(self, shape, dtype, key):
            return jnp.zeros(shape, dtype)

        def __call__(self, problem, previous):
            num_inferences.append(1)
            return tidhy.ReducedGaussNewton()(problem, previous)

    inference = tidhy.Inference(tidhy.ReducedGaussNewton(), start=Counting())
    loss_fn = tidhy.BalancedLoss(tidhy.TiDHyLoss(inference), tidhy.GradNorm(alpha=0.0, learning_rate=0.05))
    step = training.make_step(loss_fn, optax.set_to_zero())
    state = step.init(make_model(jr.key(0)), key=jr.key(1), statistics=loss_fn.init_state())
    run = eqx.filter_jit(lambda b, s: step(b, s))
    weights = []
    for _ in range(60):
        _, state = run(observations, state)
        weights.append(np.asarray(state.statistics.weights))
    assert len(num_inferences) == 1
    np.testing.assert_allclose(np.sum(weights, axis=1), 3, rtol=1e-5)

    @eqx.filter_jit
    def norms(model):
        inferred = loss_fn.loss.infer(model, observations)
        params, static = eqx.partition(model, eqx.is_inexact_array)
        return loss_fn.balance.norms(
            model, jax.jacrev(lambda p: loss_fn._tasks(eqx.combine(p, static), inferred))(params)
        )

    raw = np.asarray(norms(state.model))
    spread = lambda w: np.std(w * raw) / np.mean(w * raw)  # noqa: E731
    assert spread(weights[-1]) < 0.5 * spread(np.ones(3))


@pytest.mark.slow
def test_an_ensemble_is_its_members(observations):
    """Members differ in seed, learning rate and a weight of the objective."""
    keys, rates, weights = jr.split(jr.key(0), 2), jnp.array([1e-3, 1e-2]), jnp.array([2.0, 0.5])

    def advance(key, rate, weight):
        loss_fn = tidhy.TiDHyLoss(tidhy.Inference(objective=tidhy.Objective(temporal=weight)))
        step = training.make_step(loss_fn, optax.sgd(rate))
        metrics, state = step(observations, step.init(make_model(key), key=key))
        return metrics["loss"], state.model.decoder.linear.weight

    run = eqx.filter_jit(advance)
    alone = [run(*member) for member in zip(keys, rates, weights, strict=True)]
    losses, decoders = eqx.filter_jit(eqx.filter_vmap(advance))(keys, rates, weights)
    np.testing.assert_allclose(losses, [loss for loss, _ in alone], rtol=1e-4)
    np.testing.assert_allclose(decoders, [decoder for _, decoder in alone], rtol=1e-3, atol=1e-4)


def test_windows_never_cross_trials_and_keep_the_last():
    trials = np.arange(2 * 10 * 1).reshape(2, 10, 1)
    windows = stack_windows(trials, 4, stride=3)
    assert windows[:, 0, 0].tolist() == [0, 3, 6, 10, 13, 16]
    assert (np.diff(windows[..., 0], axis=1) == 1).all()
    assert stack_windows(trials[0], 10).shape == (1, 10, 1)
    with pytest.raises(ValueError, match="`length` must be between 1 and the recording's 10 time steps; got 11"):
        stack_windows(trials, 11)
    with pytest.raises(ValueError, match="`stride` must be at least 1"):
        stack_windows(trials, 4, stride=0)


@pytest.mark.slow
def test_the_benchmark_has_the_published_timescales_and_occupancy():
    system = SwitchingLinearSystem(key=jr.key(0))
    np.testing.assert_allclose(system.timescales, [[42.0, 5.7], [11.7, 3.8], [77.1, 2.5]], atol=0.06)
    sample = eqx.filter_jit(lambda s: s.sample(3000, key=jr.key(1)))(system)
    assert sample.observations.shape == (3000, 20) and sample.states.shape == (3000, 3, 2)
    occupancy = np.asarray(sample.regimes).mean(0)
    assert ((occupancy > 0.43) & (occupancy < 0.57)).all()
    rank = np.linalg.matrix_rank(np.asarray(system.projection))
    assert rank == 5 and np.abs(np.asarray(sample.observations)).max() < 2
    # Each step is that of the regime, up to the noise.
    quiet = eqx.tree_at(lambda s: s.process_noise, system, 0.0)
    calm = eqx.filter_jit(lambda s: s.sample(300, key=jr.key(1)))(eqx.tree_at(lambda s: s.min_occupancy, quiet, 0.0))
    z = np.asarray(calm.regimes)[1:]
    matrices = np.asarray(system.transitions)[np.arange(3)[None], z]
    expected = np.einsum("tsij,tsj->tsi", matrices, np.asarray(calm.states)[:-1])
    expected += np.asarray(system.biases)[np.arange(3)[None], z]
    np.testing.assert_allclose(np.asarray(calm.states)[1:], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("mixing", "rank"), [("full_sum", 3), ("partial_observation", 6), ("separate", 9)])
def test_mixing_modes(mixing, rank):
    system = linear_system(mixing=mixing, key=jr.key(0))
    assert system.projection.shape == (20, rank)
    assert system.sample(50, key=jr.key(1)).regimes.max() == 0


def test_bad_systems_are_named():
    with pytest.raises(ValueError, match="must be tables of one shape"):
        SwitchingLinearSystem(((-0.1, -0.2),), ((0.1,),), key=jr.key(0))
    with pytest.raises(ValueError, match="must give stable systems"):
        SwitchingLinearSystem(((0.1, -0.2),), ((0.1, 0.1),), key=jr.key(0))
    with pytest.raises(ValueError, match="`persistence`"):
        SwitchingLinearSystem(persistence=1.0, key=jr.key(0))
    with pytest.raises(ValueError, match="`min_occupancy`"):
        SwitchingLinearSystem(min_occupancy=0.6, key=jr.key(0))


def test_bad_observations_are_named():
    model, x = make_model(jr.key(0)), jnp.zeros((2, 5, 6))
    with pytest.raises(ValueError, match=r"`observations` must be finite numbers for a Gaussian .*`mask`"):
        tidhy.infer(model, x.at[0, 0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match=r"`observations` must be finite"):
        tidhy.infer(model, x.at[0, 0, 0].set(jnp.inf))
    with pytest.raises(eqx.EquinoxRuntimeError, match=r"`observations` must be finite"):
        eqx.filter_jit(tidhy.infer)(model, x.at[0, 0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="with 6 observations as in `model`"):
        tidhy.infer(model, jnp.zeros((2, 5, 7)))
    with pytest.raises(ValueError, match="none of them zero"):
        tidhy.infer(model, jnp.zeros((2, 0, 6)))
    with pytest.raises(ValueError, match=r"`mask` must have the shape of `observations`"):
        tidhy.infer(model, x, mask=jnp.ones((2, 4), bool))
    with pytest.raises(ValueError, match=r"`mask` must have the shape of `observations`"):
        tidhy.TiDHyLoss(tidhy.Inference()).infer(model, tidhy.Windows(x, jnp.ones((2, 4), bool)))
    counts = eqx.tree_at(lambda m: m.likelihood, model, tidhy.Poisson())
    with pytest.raises(ValueError, match=r"must be counts \(non-negative"):
        tidhy.infer(counts, x + 0.5)
    binary = eqx.tree_at(lambda m: m.likelihood, model, tidhy.Bernoulli())
    with pytest.raises(ValueError, match=r"must be probabilities in \[0, 1\]"):
        tidhy.infer(binary, x + 1.5)


def test_bad_settings_are_named():
    model, x = make_model(jr.key(0)), jnp.zeros((2, 5, 6))
    with pytest.raises(ValueError, match="`max_steps` must be at least the number of milestones"):
        tidhy.SgdNesterov(max_steps=5, num_halvings=10)
    with pytest.raises(ValueError, match="`learning_rate` must be positive"):
        tidhy.SgdNesterov(learning_rate=0.0)
    for solver in (tidhy.ReducedGaussNewton, tidhy.ProximalGradient):
        with pytest.raises(ValueError, match="`max_steps` must be at least 1"):
            solver(0)
    with pytest.raises(ValueError, match="`num_steps` must be at least 1"):
        tidhy.Unrolled(tidhy.ProximalGradient(), 0)
    with pytest.raises(ValueError, match="`precision` must not be negative"):
        tidhy.RandomWalk(-1.0)
    with pytest.raises(ValueError, match="`temporal` must be positive"):
        tidhy.Objective(temporal=0.0)
    with pytest.raises(ValueError, match="`l1_latents` must not be negative"):
        tidhy.Objective(l1_latents=-1.0)
    counts = eqx.tree_at(lambda m: m.likelihood, model, tidhy.Poisson())
    with pytest.raises(ValueError, match="needs a LinearDecoder and a Gaussian"):
        tidhy.infer(counts, x, tidhy.Inference(tidhy.ReducedGaussNewton()))
    sparse = tidhy.Objective(l1_latents=1.0)
    with pytest.raises(ValueError, match=r"`ReducedGaussNewton` has no L1 terms; got l1_latents=1\.0"):
        tidhy.infer(model, x, tidhy.Inference(tidhy.ReducedGaussNewton(), sparse))
    with pytest.raises(ValueError, match="`Implicit` needs a twice differentiable objective"):
        tidhy.infer(model, x, tidhy.Inference(tidhy.Implicit(), sparse))
    with pytest.raises(ValueError, match="`key` is needed"):
        tidhy.infer(model, x, tidhy.Inference.original("nnx"))
    _, state = tidhy.infer(model, x)
    with pytest.raises(ValueError, match="`num_steps` must be at least 1; got 0"):
        tidhy.forecast(model, state, 0)
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="`tolerance` must not be negative"):
            tidhy.SgdNesterov(tolerance=bad)
    with pytest.raises(ValueError, match="`threshold` must not be negative"):
        tidhy.SgdNesterov(threshold=-1.0)
    with pytest.raises(ValueError, match="`num_halvings` must not be negative"):
        tidhy.SgdNesterov(num_halvings=-1)
    with pytest.raises(ValueError, match="`context_learning_rate` must be positive"):
        tidhy.SgdNesterov(context_learning_rate=0.0)
    with pytest.raises(ValueError, match=r"`momentum` must lie in \[0, 1\)"):
        tidhy.SgdNesterov(momentum=1.0)
    with pytest.raises(ValueError, match="`damping` must be positive"):
        tidhy.ReducedGaussNewton(damping=0.0)
    with pytest.raises(ValueError, match="`rtol` must not be negative"):
        tidhy.Implicit(-1.0)
    with pytest.raises(ValueError, match=r"`decay` must lie in \[0, 1\]; got 2"):
        tidhy.MeanReverting(1.0, 2.0)
    for n, name in enumerate(("observation_size", "latent_size", "context_size", "num_components", "hidden_size")):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1; got 0"):
            tidhy.TiDHy.recommended(*(0 if k == n else 3 for k in range(5)), key=jr.key(0))
    with pytest.raises(ValueError, match="`Implicit` differentiates the minimum"):
        tidhy.Implicit().prepare(make_model(jr.key(0), jax.nn.relu))
    with pytest.raises(ValueError, match="`Implicit` needs a `prior`"):
        tidhy.Implicit().prepare(eqx.tree_at(lambda m: m.prior.precision, model, 0.0))
    solution, _ = tidhy.infer(model, x)
    for penalty in (tidhy.WeightL1(), tidhy.AdaptiveWeightSparsity()):
        with pytest.raises(ValueError, match=f"`{type(penalty).__name__}` does nothing to weights that a softmax"):
            penalty(model, solution)
    with pytest.raises(ValueError, match="`l1_weights` does nothing to weights"):
        tidhy.infer(model, x, tidhy.Inference(tidhy.ProximalGradient(), tidhy.Objective(l1_weights=1.0)))
    with pytest.raises(TypeError, match="must be iterative to be traced"):
        tidhy.inference_trace(model, x[:, 0], tidhy.Inference(tidhy.Implicit()), state=state, num_steps=2)


@pytest.mark.slow
def test_twenty_seeds_train_two_hundred_steps_without_nan(observations):
    """Default settings, all seeds in one program; `benchmarks/tidhy/stability.py` takes a thousand."""
    step = training.make_step(tidhy.TiDHyLoss(tidhy.Inference()), optax.adamw(1e-2), nan_policy=None)
    states = eqx.filter_vmap(lambda key: step.init(make_model(key), key=key))(jr.split(jr.key(0), 20))
    many = eqx.filter_vmap(step, in_axes=(None, eqx.if_array(0)))
    arrays, static = eqx.partition(states, eqx.is_array)

    @jax.jit
    def train(arrays):
        def advance(arrays, _):
            metrics, new = many(observations, eqx.combine(arrays, static))
            return eqx.filter(new, eqx.is_array), metrics["loss"]

        return jax.lax.scan(advance, arrays, length=200)

    arrays, losses = train(arrays)
    assert losses.shape == (200, 20) and jnp.isfinite(losses).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jtu.tree_leaves(arrays) if eqx.is_inexact_array(leaf))
    assert (losses[-1] < losses[0]).all()


def test_stateful_training_carries_latents_across_windows(observations):
    loss_fn = tidhy.StatefulLoss(tidhy.TiDHyLoss(tidhy.Inference()))
    model = make_model(jr.key(0))
    step = training.make_step(loss_fn, optax.set_to_zero())
    state = step.init(model, key=jr.key(1), statistics=loss_fn.init_state(model, 4))
    run = eqx.filter_jit(lambda b, s: step(b, s))
    begins = jnp.ones(4, bool)
    for window, is_first in ((3, ~begins), (0, begins), (3, ~begins)):  # what came before a beginning is forgotten
        _, state = run(tidhy.Windows(observations[:, window : window + 3], is_first=is_first), state)
    whole, final = eqx.filter_jit(tidhy.infer)(model, observations)
    np.testing.assert_allclose(state.statistics.last.latents, final.last.latents, rtol=1e-4, atol=1e-5)
    assert state.statistics.is_started.all() and whole.latents.shape == (4, 6, 4)


@pytest.mark.slow
def test_stateful_training_goes_on_exactly(observations, tmp_path):
    loss_fn = tidhy.StatefulLoss(tidhy.TiDHyLoss(tidhy.Inference()))
    model = make_model(jr.key(0))
    step = training.make_step(loss_fn, optax.adam(1e-2))
    start = step.init(model, key=jr.key(1), statistics=loss_fn.init_state(model, 4))
    windows = [observations[:, 2 * i : 2 * i + 2] for i in range(3)]
    whole, _ = training.fit(start, step, windows, steps=3, steps_per_dispatch=1)
    checkpoint = training.Checkpoint(tmp_path, save_iterator=False)
    training.fit(start, step, windows[:1], steps=1, steps_per_dispatch=1, callbacks=[checkpoint])
    again = training.Checkpoint(tmp_path, save_iterator=False).restore(start)
    assert int(again.step) == 1 and again.statistics.is_started.all()
    resumed, _ = training.fit(again, step, windows[1:], steps=2, steps_per_dispatch=1)
    assert eqx.tree_equal(whole, resumed)


class Screen(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self):
        return True


@pytest.mark.slow
def test_a_run_stops_early_keeps_its_best_and_goes_on_exactly(observations, tmp_path):
    """Validation split with patience, best and latest checkpoints, a progress bar; one program for all of it."""
    held_out = observations[2:]
    loss_fn = tidhy.TiDHyLoss(tidhy.Inference())

    step = training.make_step(loss_fn, optax.adam(3e-2))
    start = step.init(make_model(jr.key(0)), key=jr.key(1))

    def evaluate(model):
        inferred = loss_fn.infer(model, held_out)
        return {"validation": loss_fn.total(model, inferred)}

    def run(state, step, epochs, *callbacks):
        data = training.ArrayData(observations[:2], batch_size=1)
        return training.fit(state, step, data, epochs=epochs, evaluate=evaluate, callbacks=callbacks)

    screen = Screen()
    bar = training.ProgressBar(("loss", "r2", "inference_steps"), stream=screen, interval=0.0)
    best = training.Checkpoint(tmp_path / "best", keep=1, metric="validation")
    whole, history = run(start, step, 4, bar, best)
    assert all(name in screen.getvalue() for name in ("loss", "r2", "inference_steps"))
    # Killed after two epochs and started again in the same folder: the same bits.
    latest = training.Checkpoint(tmp_path / "latest")
    half, _ = run(start, step, 2, latest)
    again = training.Checkpoint(tmp_path / "latest").restore(start)
    assert int(again.step) == int(half.step) == 4
    resumed, _ = run(again, step, 2)
    assert eqx.tree_equal(resumed.model, whole.model) and eqx.tree_equal(resumed.opt_state, whole.opt_state)
    # Validation cannot improve by a thousand: patience runs out after two more epochs.
    stop = training.EarlyStopping("validation", 2, min_change=1e3)
    _, short = run(start, step, 10, stop, training.KeepBest("validation"))
    assert len(short["validation"]) == 3
    with pytest.raises(training.CheckpointError, match=r"hypernetwork|decoder|transition"):
        other = tidhy.TiDHy.recommended(6, 5, 3, 3, 7, key=jr.key(0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            latest.restore(step.init(other, key=jr.key(1)))
    assert np.isfinite(history["validation"]).all()


@pytest.mark.slow
def test_steps_epochs_and_a_ladder_of_lengths_compile_once_each(observations):
    num_traces = []

    def loss_fn(model, batch, key):
        num_traces.append(batch.shape)
        return tidhy.TiDHyLoss(tidhy.Inference())(model, batch, key)

    step = training.make_step(loss_fn, optax.adam(1e-3))
    run = eqx.filter_jit(lambda batch, state: step(batch, state))
    state = step.init(make_model(jr.key(0)), key=jr.key(1))
    for length in (4, 6):
        _, state = run(observations[:, :length], state)
    traced = list(num_traces)
    for length in (4, 6, 4, 6, 6):
        _, state = run(observations[:, :length], state)
    assert num_traces == traced and {shape[1] for shape in traced} == {4, 6}


@pytest.mark.slow
def test_training_in_bfloat16_lowers_the_float32_loss(observations):
    step = training.make_step(
        tidhy.TiDHyLoss(tidhy.Inference()), optax.adam(2e-2), precision=training.Precision(jnp.bfloat16)
    )
    run = eqx.filter_jit(lambda batch, state: step(batch, state))
    state = step.init(make_model(jr.key(0)), key=jr.key(1))
    losses = []
    for _ in range(12):
        metrics, state = run(observations, state)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.8 * losses[0] and state.model.transition.basis.dtype == jnp.float32


def test_the_implicit_solver_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optimistix", None)
    with pytest.raises(ImportError, match=r"`Implicit` needs optimistix.*\[implicit\]"):
        tidhy.Implicit().prepare(make_model(jr.key(0)))
