"""Latent inference: solvers against each other and against closed forms, masks, streams, state, gradients."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest
import scipy.optimize

from eqx_dynamics import scan, tidhy
from eqx_dynamics.tidhy.solvers._sgd import soft_threshold


pytestmark = pytest.mark.usefixtures("light_compilation")

SOLVERS = {
    "gauss_newton": tidhy.ReducedGaussNewton(),
    "proximal": tidhy.ProximalGradient(max_steps=20),
    "sgd": tidhy.SgdNesterov(learning_rate=0.02, max_steps=30),
    "implicit": tidhy.Implicit(max_steps=40),
    "unrolled": tidhy.Unrolled(tidhy.ProximalGradient(), 5),
}


@pytest.fixture(scope="module")
def model():
    return tidhy.TiDHy.recommended(6, 4, 3, 3, 7, key=jr.key(0))


@pytest.fixture(scope="module")
def observations():
    return jnp.cumsum(jr.normal(jr.key(1), (3, 7, 6)), axis=1) / 3


def widen(tree):
    """The same in float64; for use under `jax.enable_x64`."""
    return jtu.tree_map(lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, tree)


def run(model, observations, solver, **keywords):
    return eqx.filter_jit(tidhy.infer)(model, observations, tidhy.Inference(solver), **keywords)


SLOWLY = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["gauss_newton", "proximal", "sgd", *(pytest.param(n, marks=SLOWLY) for n in ("implicit", "unrolled"))]
)
def test_every_solver_lowers_the_objective_and_reports(name, model, observations):
    solution, state = run(model, observations, SOLVERS[name])
    assert solution.latents.shape == (3, 7, 4) and solution.context_latents.shape == (3, 7, 3)
    assert solution.num_steps.shape == solution.objective.shape == (3, 7) and (solution.num_steps >= 1).all()
    assert not solution.has_diverged.any()
    np.testing.assert_array_equal(state.last.latents, solution.latents[:, -1])
    before = tidhy.start_state(model, jnp.zeros((3, 3)))
    cell = tidhy.LatentInference(model, tidhy.Inference(SOLVERS[name]))
    zero = jax.vmap(lambda x, s: cell.problem(x, s)(s.last))(observations[:, 0], before)
    assert (solution.objective[:, 0] < zero).all()


def one_sided_slopes(cell, x, before, latents, context):
    """The gradient with every ReLU at its kink taken as off, and what each of those adds when it is on."""
    problem, network = cell.problem(x, before), cell.model.hypernetwork

    def outputs(context):
        return network.mlp(network.squash(context))

    def value(latents, context, is_on):
        weights = jnp.where(is_on, outputs(context), 0.0)
        return problem.temporal_weight * jnp.sum((latents - problem.columns @ weights) ** 2) + (
            problem.prior_precision * jnp.sum((context - problem.prior_mean) ** 2) + problem.nll(latents)
        )

    z = outputs(context)
    is_kink, is_on = jnp.abs(z) < 1e-6, z > 0
    slope = lambda is_on: jnp.concatenate(jax.grad(value, (0, 1))(latents, context, is_on))  # noqa: E731
    off = slope(is_on & ~is_kink)
    added = jax.vmap(lambda one: slope((is_on & ~is_kink) | one) - off)(jnp.eye(len(z), dtype=bool) & is_kink[None])
    return off, added


@pytest.mark.slow
@pytest.mark.parametrize("activation", [jax.nn.softmax, jax.nn.relu], ids=["smooth", "kinked"])
def test_reduced_gauss_newton_ends_at_a_stationary_point_also_on_kinks(activation, model):
    """Zero is a gradient of the full objective, or between the one-sided ones where the solution sits on a kink."""
    with jax.enable_x64(True):
        x = jnp.cumsum(jr.normal(jr.key(1), (64, 2, 6), jnp.float64), axis=1) / 3
        mlp = model.hypernetwork.mlp
        other = tidhy.Hypernetwork(3, 3, 7, activation=activation, squash=jnp.tanh, key=jr.key(0))
        wide = widen(eqx.tree_at(lambda m: m.hypernetwork, model, eqx.tree_at(lambda n: n.mlp, other, mlp)))
        solver = tidhy.ReducedGaussNewton(5000, tolerance=0.0)
        _, state = run(wide, x[:, :1], solver)
        solution, _ = run(wide, x[:, 1:], solver, state=state)
        cell = tidhy.LatentInference(wide, tidhy.Inference(solver))

        def slopes(x, before, latents, context):
            if activation is jax.nn.relu:
                return one_sided_slopes(cell, x, before, latents, context)
            slope = jax.grad(cell.problem(x, before).smooth)(tidhy.LatentState(latents, context))
            return jnp.concatenate(jtu.tree_leaves(slope)), jnp.zeros((3, 7))

        off, added = eqx.filter_jit(jax.vmap(slopes))(
            x[:, 1], state, solution.latents[:, 0], solution.context_latents[:, 0]
        )
    distances = [
        scipy.optimize.lsq_linear(a.T, -o, (0, 1), tol=1e-14).cost ** 0.5
        for o, a in zip(np.asarray(off), np.asarray(added), strict=True)
    ]
    num_kinks = int((np.abs(added).max((1, 2)) > 0).sum())
    assert max(distances) < (1e-3 if num_kinks else 1e-6)
    assert (num_kinks > 10) == (activation is jax.nn.relu)  # else this shows nothing


def test_latents_of_the_reduced_problem_are_the_closed_form(model, observations):
    solution, _ = run(model, observations, tidhy.ReducedGaussNewton())
    weight, bias = np.asarray(model.decoder.linear.weight), np.asarray(model.decoder.linear.bias)
    latents = np.asarray(solution.latents)
    predicted = jax.vmap(jax.vmap(model.predict))(solution.latents[:, :-1], solution.context_latents[:, 1:])
    right = (np.asarray(observations)[:, 1:] - bias) @ weight + 2 * np.asarray(predicted)
    expected = np.linalg.solve(weight.T @ weight + 2 * np.eye(4), right[..., None])[..., 0]
    np.testing.assert_allclose(latents[:, 1:], expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["gauss_newton", *(pytest.param(n, marks=SLOWLY) for n in ("proximal", "sgd"))])
def test_results_do_not_depend_on_the_rest_of_the_batch(name, model, observations):
    with jax.enable_x64(True):
        wide, x = widen(model), observations[:, :4].astype(jnp.float64)
        alone, _ = run(wide, x[:1], SOLVERS[name])
        together, _ = run(wide, jnp.concatenate([x[:1], 100 * x[1:], x]), SOLVERS[name])
    np.testing.assert_allclose(together.latents[0], alone.latents[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(together.num_steps[0], alone.num_steps[0])


@pytest.mark.slow
def test_published_batch_mean_depends_on_the_batch_and_the_sum_does_not(model, observations):
    for coupling, same in ((tidhy.Coupling("batch_mean"), False), (tidhy.Coupling("sum"), True)):
        solver = tidhy.SgdNesterov(learning_rate=0.05, max_steps=20, coupling=coupling)
        one, _ = run(model, observations[:1], solver)
        many, _ = run(model, jnp.repeat(observations[:1], 8, axis=0), solver)
        assert np.allclose(one.latents[0], many.latents[0], rtol=1e-3) == same


def test_a_diverging_sequence_is_reported_and_leaves_its_mates_alone(model, observations):
    solver = tidhy.SgdNesterov(learning_rate=0.05, max_steps=200, tolerance=0.0)
    steep = eqx.tree_at(lambda m: m.decoder.linear.weight, model, 8 * model.decoder.linear.weight)
    mild, _ = run(model, observations, solver)
    wild, _ = run(steep, observations, solver)
    assert not mild.has_diverged.any() and wild.has_diverged.all()
    assert jnp.isfinite(wild.latents).all() and jnp.isfinite(wild.objective).all()
    # One batch with a sequence whose start is out of bounds beside two good ones.
    state = tidhy.InferenceState(
        tidhy.LatentState(jnp.zeros((3, 4)).at[1].set(1e13), jnp.zeros((3, 3)).at[1].set(jnp.inf)), jnp.ones(3, bool)
    )
    mixed, _ = run(model, observations, solver, state=state)
    np.testing.assert_array_equal(mixed.has_diverged.any(1), [False, True, False])
    good = tidhy.InferenceState(tidhy.LatentState(jnp.zeros((3, 4)), jnp.zeros((3, 3))), jnp.ones(3, bool))
    clean, _ = run(model, observations, solver, state=good)
    np.testing.assert_allclose(mixed.latents[::2], clean.latents[::2], rtol=1e-5, atol=1e-6)


def test_a_stream_gives_the_numbers_of_the_whole(model, observations):
    inference = tidhy.Inference()
    with jax.enable_x64(True):  # in float32 an unfinished inference amplifies rounding
        wide, x = widen(model), observations.astype(jnp.float64)
        whole, final = run(wide, x, inference.solver)
        step = eqx.filter_jit(tidhy.infer_step)
        state, latents = None, []
        for t in range(x.shape[1]):
            solution, state = step(wide, x[:, t], state, inference)
            latents.append(solution.latents)
        assert state is not None
        np.testing.assert_allclose(jnp.stack(latents, 1), whole.latents, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(state.last.context_latents, final.last.context_latents, rtol=1e-8, atol=1e-10)


def test_inference_is_a_cell_that_scan_runs(model, observations):
    cell = tidhy.LatentInference(model, tidhy.Inference())
    solution, _ = scan(cell, observations[0], cell.init_state())
    whole, _ = run(model, observations[0], tidhy.ReducedGaussNewton())
    np.testing.assert_allclose(solution.latents, whole.latents, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_state_carries_across_windows(model, observations):
    """Of one batch; a state that has not started is started as `infer` would, also by a published start."""
    with jax.enable_x64(True):
        wide, x = widen(model), observations.astype(jnp.float64)
        whole, _ = run(wide, x, tidhy.ReducedGaussNewton())
        first, state = run(wide, x[:, :4], tidhy.ReducedGaussNewton())
        second, _ = run(wide, x[:, 4:], tidhy.ReducedGaussNewton(), state=state)
        joined = jnp.concatenate([first.latents, second.latents], axis=1)
        np.testing.assert_allclose(joined, whole.latents, rtol=1e-8, atol=1e-10)
        np.testing.assert_array_equal(tidhy.state_at(first, (slice(None), 3)).last.latents, state.last.latents)
    original = tidhy.Inference.original(max_steps=10)
    solve = eqx.filter_jit(lambda state: tidhy.infer(model, observations[:, :2], original, state=state)[0].latents)
    fresh = tidhy.LatentInference(model, original).init_state((3,))
    np.testing.assert_array_equal(solve(fresh), solve(None))
    assert (solve(None)[:, 0] == 0).all()


@pytest.mark.parametrize("name", ["gauss_newton", *(pytest.param(n, marks=SLOWLY) for n in ("proximal", "sgd"))])
def test_masked_entries_and_padding_change_nothing(name, model, observations):
    mask = jnp.ones(observations.shape, bool).at[:, 2, 1].set(False).at[1, 5:].set(False)
    spoiled = jnp.where(mask, observations, jnp.nan)
    loss_fn = tidhy.TiDHyLoss(tidhy.Inference(SOLVERS[name]))
    value = eqx.filter_jit(eqx.filter_value_and_grad(lambda m, x: loss_fn(m, tidhy.Windows(x, mask), None)[0]))
    (a, grad_a), (b, grad_b) = value(model, observations), value(model, spoiled)
    assert jnp.isfinite(a) and a == b
    assert all(jnp.isfinite(leaf).all() for leaf in jtu.tree_leaves(grad_b)) and eqx.tree_equal(grad_a, grad_b)
    # A padded short sequence is that sequence.
    is_short = jnp.broadcast_to(jnp.arange(7)[None] < 5, (3, 7))
    short, _ = run(model, observations[:, :5], SOLVERS[name], mask=is_short[:, :5])
    padded, _ = run(model, observations.at[:, 5:].set(jnp.nan), SOLVERS[name], mask=is_short)
    np.testing.assert_allclose(padded.latents[:, :5], short.latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "inference",
    [
        tidhy.Inference(),
        pytest.param(tidhy.Inference(SOLVERS["sgd"], start=tidhy.ZeroStart()), marks=SLOWLY),
    ],
    ids=["default", "published start"],
)
def test_a_sequence_begins_with_its_first_observation(inference, model, observations):
    is_seen = jnp.arange(7)[None] >= 3
    late = jnp.where(is_seen[..., None], observations[:1], jnp.nan)
    infer = eqx.filter_jit(tidhy.infer)
    whole, state = infer(model, late, inference, mask=is_seen)
    trimmed, _ = infer(model, observations[:1, 3:], inference)
    np.testing.assert_allclose(whole.latents[:, 3:], trimmed.latents, rtol=1e-4, atol=1e-5)
    assert state.is_started.all() and not infer(model, late[:, :3], inference, mask=is_seen[:, :3])[1].is_started.any()
    loss_fn = tidhy.TiDHyLoss(inference)
    value = eqx.filter_jit(eqx.filter_value_and_grad(lambda m, windows: loss_fn(m, windows, None)[0]))
    (a, grad_a), (b, grad_b) = (
        value(model, windows) for windows in (tidhy.Windows(late, is_seen), tidhy.Windows(observations[:1, 3:]))
    )
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for got, want in zip(jtu.tree_leaves(grad_a), jtu.tree_leaves(grad_b), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_all_true_mask_is_no_mask(model, observations):
    with jax.enable_x64(True):
        wide, x = widen(model), observations.astype(jnp.float64)
        plain, _ = run(wide, x, tidhy.ReducedGaussNewton())
        masked, _ = run(wide, x, tidhy.ReducedGaussNewton(), mask=jnp.ones((3, 7), bool))
    np.testing.assert_allclose(masked.latents, plain.latents, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "flows"),
    [("gauss_newton", False), ("sgd", False), *(pytest.param(n, True, marks=SLOWLY) for n in ("implicit", "unrolled"))],
)
def test_parameters_are_frozen_unless_the_solver_differentiates(name, flows, model, observations):
    @eqx.filter_jit
    @eqx.filter_grad
    def slope(model):
        return tidhy.infer(model, observations[:1, :3], tidhy.Inference(SOLVERS[name]))[0].latents.sum()

    size = sum(float(jnp.abs(leaf).sum()) for leaf in jtu.tree_leaves(slope(model)))
    assert np.isfinite(size) and (size > 0) == flows


@pytest.mark.slow
def test_implicit_gradient_is_that_of_the_minimiser(observations):
    with jax.enable_x64(True):
        wide = widen(tidhy.TiDHy.recommended(6, 4, 3, 3, 7, key=jr.key(3)))
        x = observations[:1, :2].astype(jnp.float64)
        inference = tidhy.Inference(tidhy.Implicit(1e-12, 1e-14, 500))

        @eqx.filter_jit
        def value(bias):
            model = eqx.tree_at(lambda m: m.decoder.linear.bias, wide, bias)
            return tidhy.infer(model, x, inference)[0].latents[0, -1].sum()

        bias = wide.decoder.linear.bias
        direction = jr.normal(jr.key(5), bias.shape, jnp.float64)
        slope = jax.grad(value)(bias) @ direction
        numeric = (value(bias + 1e-4 * direction) - value(bias - 1e-4 * direction)) / 2e-4
    np.testing.assert_allclose(slope, numeric, rtol=1e-3)


def test_forecast_continues_the_dynamics_and_reconstruct_decodes(model, observations):
    _, state = run(model, observations, tidhy.ReducedGaussNewton())
    ahead = tidhy.forecast(model, state, 3)
    expected = jax.vmap(model.predict)(state.last.latents, state.last.context_latents)
    np.testing.assert_allclose(ahead.latents[:, 0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tidhy.reconstruct(model, ahead.latents), ahead.observations, rtol=1e-5, atol=1e-6)
    alone = tidhy.forecast(model, jtu.tree_map(lambda leaf: leaf[1], state), 3)
    np.testing.assert_allclose(alone.observations, ahead.observations[1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_record_keeps_one_convention(model, observations):
    rec, _ = eqx.filter_jit(tidhy.record)(model, observations)
    np.testing.assert_allclose(
        rec.transitions, jax.vmap(jax.vmap(model.transition.combine))(rec.weights), rtol=1e-5, atol=1e-6
    )
    applied = jnp.einsum("btij,btj->bti", rec.predicted_transitions[:, 1:], rec.latents[:, :-1])
    np.testing.assert_allclose(rec.predicted_latents[:, 1:], applied, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rec.predicted_weights[:, 1:], rec.weights[:, :-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rec.temporal_loss, (rec.latents - rec.predicted_latents) ** 2, rtol=1e-5)
    single, _ = tidhy.record(model, observations[0])
    np.testing.assert_allclose(single.predicted_latents, rec.predicted_latents[0], rtol=1e-3, atol=1e-4)


def test_saturations_and_thresholds_bound_the_iterates(model, observations):
    far = jnp.linspace(-9.0, 9.0, 7)
    for saturation, bound in (
        (tidhy.ScaledTanh(0.3), 0.3),
        (tidhy.HardTanh(0.2), 0.2),
        (tidhy.ScaledSoftsign(0.3), 0.3),
        (tidhy.ShiftedSigmoid(), 1.0),
    ):
        assert 0.9 * bound < jnp.abs(saturation(far)).max() <= bound
        np.testing.assert_array_equal(jnp.sign(saturation(far)), jnp.sign(far))
    bounded = tidhy.SgdNesterov(learning_rate=0.02, max_steps=30, threshold=0.1, saturation=tidhy.HardTanh(0.2))
    latents = run(model, observations, bounded)[0].latents
    assert jnp.abs(latents).max() <= 0.2 and (latents == 0).mean() > 0.1


def test_l1_terms_make_latents_sparse(model, observations):
    inference = tidhy.Inference(tidhy.ProximalGradient(), tidhy.Objective(l1_latents=20.0, l1_context=1.0))
    solution, _ = eqx.filter_jit(tidhy.infer)(model, observations, inference)
    assert (solution.latents == 0).mean() > 0.3 and jnp.isfinite(solution.objective).all()


def test_recommended_solver_follows_the_model(model, getkey):
    assert isinstance(tidhy.Inference.recommended(model).solver, tidhy.ReducedGaussNewton)
    counts = tidhy.TiDHy.recommended(6, likelihood=tidhy.Poisson(), key=getkey())
    assert isinstance(tidhy.Inference.recommended(counts).solver, tidhy.ProximalGradient)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", [tidhy.Bernoulli(), tidhy.Poisson(), tidhy.Poisson("log")], ids=str)
def test_proximal_gradient_fits_binary_and_count_data(likelihood, getkey):
    model = tidhy.TiDHy.recommended(6, 4, 3, 3, 7, likelihood=likelihood, key=getkey())
    data = jr.bernoulli(getkey(), 0.5, (2, 6, 6)).astype(jnp.float32)
    solution, _ = eqx.filter_jit(tidhy.infer)(model, data)
    zero = jax.vmap(lambda x: likelihood.nll(model.decoder(jnp.zeros(4)), x).sum())(data[:, 0])
    assert (solution.objective[:, 0] < zero).all() and not solution.has_diverged.any()


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "is_masked"), [((5, 3), True), ((4, 6), False)])  # unseen latents; orthogonal axes
def test_unrolled_gauss_newton_where_eigenvalues_repeat(sizes, is_masked):
    with jax.enable_x64(True):
        keys = jr.split(jr.key(1), 6)
        network = tidhy.Hypernetwork(2, 3, 8, activation=jax.nn.softmax, squash=jnp.tanh, key=keys[0])
        transition = tidhy.FullRankTransition(3, sizes[0], use_offsets=True, key=keys[1])
        decoder = tidhy.LinearDecoder(*sizes, key=keys[2])
        model = tidhy.TiDHy(decoder, network, transition, prior=tidhy.RandomWalk(0.5))
        x = jr.normal(keys[3], (2, 4, sizes[1]))
        mask = jr.bernoulli(keys[4], 0.7, x.shape) if is_masked else None
        inference = tidhy.Inference(tidhy.Unrolled(tidhy.ReducedGaussNewton(), 3))
        weight = jnp.linalg.qr(decoder.linear.weight)[0] if sizes[1] > sizes[0] else decoder.linear.weight

        @jax.jit
        def loss(weight):
            decoded = eqx.tree_at(lambda m: m.decoder, model, eqx.tree_at(lambda d: d.linear.weight, decoder, weight))
            solution, _ = tidhy.infer(decoded, x, inference=inference, mask=mask)
            return jnp.sum(solution.latents**2) + jnp.sum(jnp.sin(solution.context_latents))

        direction, step = jr.normal(keys[5], weight.shape), 1e-6
        numeric = (loss(weight + step * direction) - loss(weight - step * direction)) / (2 * step)
        assert jnp.allclose(jnp.sum(jax.grad(loss)(weight) * direction), numeric, rtol=1e-5)


@pytest.mark.slow
def test_unrolled_gauss_newton_has_second_derivatives():
    """Inside the scan over time: partial evaluation of a scan drops the rules of a `custom_jvp`."""
    with jax.enable_x64(True):
        keys = jr.split(jr.key(4), 4)
        decoder = tidhy.LinearDecoder(2, 4, key=keys[0])
        network = tidhy.Hypernetwork(2, 2, 5, activation=jax.nn.softmax, squash=jnp.tanh, key=keys[1])
        transition = tidhy.FullRankTransition(2, 2, key=keys[2])
        x, inference = jr.normal(keys[3], (1, 3, 4)), tidhy.Inference(tidhy.Unrolled(tidhy.ReducedGaussNewton(), 1))

        def loss(weight):
            decoded = eqx.tree_at(lambda d: d.linear.weight, decoder, weight)
            model = tidhy.TiDHy(decoded, network, transition, prior=tidhy.RandomWalk(0.5))
            solution, _ = tidhy.infer(model, x, inference)
            return jnp.sum(jnp.sin(solution.latents)) + jnp.sum(solution.context_latents**2)

        weight, step = decoder.linear.weight, 1e-5
        slope, direction = jax.jit(jax.grad(loss)), jr.normal(keys[0], weight.shape)
        numeric = (slope(weight + step * direction) - slope(weight - step * direction)) / (2 * step)
        exact = jax.jit(lambda w, d: jax.jvp(jax.grad(loss), (w,), (d,))[1])(weight, direction)
        np.testing.assert_allclose(exact, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_a_trace_leaves_out_what_is_missing(model, observations):
    mask = jnp.ones((3, 6), bool).at[:, 2].set(False)
    _, state = run(model, observations, SOLVERS["proximal"])

    def trace(x, mask):
        return tidhy.inference_trace(
            model, x, tidhy.Inference(SOLVERS["proximal"]), state=state, num_steps=3, mask=mask
        ).latents

    x = observations[:, 0]
    masked = trace(x, mask)
    assert jnp.array_equal(masked, trace(x.at[:, 2].set(jnp.nan), mask)) and not jnp.allclose(masked, trace(x, None))


@pytest.mark.slow
def test_unrolled_gradients_where_nothing_moves_yet():
    """Offsets that are zero leave the first context latents in place: ties and thresholds of zero have derivatives."""
    with jax.enable_x64(True):
        keys = jr.split(jr.key(2), 5)
        model = tidhy.TiDHy(
            tidhy.LinearDecoder(2, 4, key=keys[0]),
            tidhy.Hypernetwork(2, 2, 5, squash=jnp.tanh, final_bias_lift=0.5, key=keys[1]),
            tidhy.FullRankTransition(2, 2, use_offsets=True, key=keys[2]),
            prior=tidhy.MeanReverting(0.5, 0.9),
        )
        x, inference = jr.normal(keys[3], (2, 2, 4)), tidhy.Inference(tidhy.Unrolled(tidhy.ReducedGaussNewton(), 2))

        @jax.jit
        def loss(offsets):
            moved = eqx.tree_at(lambda m: m.transition.offsets, model, offsets)
            solution, _ = tidhy.infer(moved, x, inference)
            return jnp.sum(solution.latents**2) + jnp.sum(jnp.sin(solution.context_latents))

        direction, zeros = jr.normal(keys[4], (2, 2)), jnp.zeros((2, 2))
        numeric = (loss(1e-5 * direction) - loss(-1e-5 * direction)) / 2e-5
        np.testing.assert_allclose(jnp.sum(jax.grad(loss)(zeros) * direction), numeric, rtol=1e-5)
    assert jax.grad(lambda x: soft_threshold(x, 0.0).sum())(jnp.zeros(1)) == 1


def test_states_of_another_model_or_other_sequences_are_named(model, observations):
    wrong = [
        tidhy.start_state(model, jnp.zeros((2, 3))),  # sequences
        tidhy.start_state(model, jnp.zeros((3, 4))),  # context
        tidhy.start_state(tidhy.TiDHy.recommended(6, 5, 3, 3, 7, key=jr.key(0)), jnp.zeros((3, 3))),  # latents
    ]
    for state in wrong:
        with pytest.raises(ValueError, match=r"`state` .*must hold latents .* as `model` has them"):
            tidhy.infer(model, observations, state=state)
        trace = tidhy.Inference(SOLVERS["proximal"])
        with pytest.raises(ValueError, match=r"`state` .*must hold latents"):
            tidhy.inference_trace(model, observations[:, 0], trace, state=state, num_steps=1)
    with pytest.raises(ValueError, match=r"`initial_context`.* must hold latents"):
        tidhy.infer(model, observations, initial_context=jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="must hold latents"):
        tidhy.forecast(model, wrong[2], 1)
    nowhere = tidhy.start_state(model, jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match="`observations` must be finite"):
        bad = observations[:, 0].at[0, 0].set(jnp.nan)
        tidhy.inference_trace(model, bad, tidhy.Inference(SOLVERS["proximal"]), state=nowhere, num_steps=1)


@pytest.mark.parametrize("name", ["gauss_newton", *(pytest.param(n, marks=SLOWLY) for n in ("proximal", "implicit"))])
def test_observations_too_large_to_square_are_a_divergence(name, model, observations):
    solution, _ = run(model, observations.at[1, 2].set(3e38), SOLVERS[name])
    np.testing.assert_array_equal(solution.has_diverged, (jnp.arange(7)[None] == 2) & (jnp.arange(3)[:, None] == 1))
    assert jnp.isfinite(solution.latents).all() and jnp.isfinite(solution.context_latents).all()


def test_a_forecast_starts_from_any_axes(model, observations):
    solution, _ = run(model, observations, SOLVERS["gauss_newton"])
    every = tidhy.forecast(model, tidhy.state_at(solution, (slice(None), slice(2, 5))), 2)
    one = tidhy.forecast(model, tidhy.state_at(solution, (1, 3)), 2)
    assert every.observations.shape == (3, 3, 2, 6)
    np.testing.assert_allclose(every.observations[1, 1], one.observations, rtol=1e-5, atol=1e-6)
