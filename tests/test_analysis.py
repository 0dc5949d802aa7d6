"""Measures of what a model found, on data where the answer is known."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from eqx_dynamics.analysis import (
    BlockedSplit,
    Decoding,
    TrialSplit,
    align,
    canonical_correlations,
    compare_forecasts,
    consistency,
    decode,
    fit_transitions,
    forecast_windows,
    match_modes,
    mixture_usage,
    spectrum,
)


def rotation(size, angle):
    return size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_a_spectrum_is_timescales_and_frequencies_without_zero_modes():
    matrix = np.zeros((5, 5), np.float32)
    matrix[:2, :2] = rotation(np.exp(-1 / 40), 2 * np.pi / 25)
    matrix[2, 2], matrix[3, 3] = -np.exp(-1 / 3), 1.0
    found = spectrum(np.stack([matrix, matrix]), time_step=0.5)
    order = np.argsort(np.nan_to_num(np.asarray(found.timescales[1]), nan=-1.0))
    np.testing.assert_allclose(found.timescales[1][order], [np.nan, 1.5, 20, 20, np.inf], rtol=1e-4)
    np.testing.assert_allclose(found.frequencies[1][order], [np.nan, 1.0, 0.08, 0.08, 0.0], rtol=1e-4)
    assert found.is_zero.sum() == 2 and found.is_stable[0].sum() == 4
    assert found.is_first[0].sum() == 3  # one of the pair, and two real ones

    # d tau / d log|lambda| = tau^2 / dt, for both eigenvalues of the pair; a zero mode beside it spoils nothing.
    def total(log_size):
        pair = jnp.exp(log_size) * jnp.asarray(rotation(1.0, 0.3), jnp.float32)
        whole = jnp.zeros((3, 3)).at[:2, :2].set(pair)
        return jnp.nansum(spectrum(whole).timescales)

    np.testing.assert_allclose(jax.grad(total)(-0.1), 200.0, rtol=1e-4)
    with pytest.raises(ValueError, match="`time_step` must be positive; got 0"):
        spectrum(matrix, time_step=0.0)
    with pytest.raises(ValueError, match="`zero` must be at least 0"):
        spectrum(matrix, zero=1.0)
    with pytest.raises(ValueError, match="`transitions` must be finite"):
        spectrum(matrix * np.float32("nan"))


def test_transitions_are_fitted_within_regimes_and_trials():
    rng = np.random.default_rng(0)
    matrices, offsets = np.stack([rotation(0.9, 0.3), rotation(0.5, 1.0)]), rng.normal(size=(2, 2))
    regimes = np.repeat([0, 1, 0, 1, 1], 12)
    trials = np.repeat([0, 0, 0, 1, 2], 12)
    states = rng.normal(size=(60, 2))
    for t in range(1, 60):
        if regimes[t] == regimes[t - 1] and trials[t] == trials[t - 1]:
            states[t] = matrices[regimes[t]] @ states[t - 1] + offsets[regimes[t]]
    found, shift = fit_transitions(states, regimes, trials=trials)
    np.testing.assert_allclose(found, matrices, atol=1e-9)
    np.testing.assert_allclose(shift, offsets, atol=1e-9)
    with pytest.raises(ValueError, match="`regimes`: 2 steps within regime 9 are too few to fit 2 latents"):
        fit_transitions(states, np.r_[9, 9, 9, regimes[3:]])
    states[3] = np.nan
    with pytest.raises(ValueError, match="`latents` must be finite; got 2 values"):
        fit_transitions(states)


def test_matching_is_optimal_one_to_one_and_beside_chance():
    rng = np.random.default_rng(0)
    for _ in range(20):
        true, found = np.exp(rng.normal(size=3)), np.exp(rng.normal(size=5))
        best = min(np.abs(np.log(true / found[list(pick)])).mean() for pick in itertools.permutations(range(5), 3))
        match = match_modes(true, found, num_draws=2, key=jr.key(0))
        np.testing.assert_allclose(match.cost, best)
        np.testing.assert_allclose(match.found, found[match.index])
    true = np.array([40.0, 6.0, 80.0, 2.5])
    found = np.array([np.nan, 2.6, 41.0, 5.8, np.inf, 76.0])
    match = match_modes(true, found, key=jr.key(0))
    assert match.index.tolist() == [2, 3, 5, 1] and match.error < 1.06 < match.null_error and match.p_value < 0.01
    assert str(match).startswith("4 true values off by a factor of 1.0") and "chance" in str(match)
    # What chance gives is not significant.
    p_values = [
        match_modes(true, 2.5 * 32 ** rng.uniform(size=4), null_range=(2.5, 80.0), num_draws=99, key=jr.key(n)).p_value
        for n in range(40)
    ]
    assert 0.3 < np.mean(p_values) < 0.7
    # Too few candidates: the rest cost as much as the range of true values, at least a factor of ten.
    short = match_modes(true, np.array([40.0, np.nan]), num_draws=2, key=jr.key(0))
    assert short.index.tolist() == [0, -1, -1, -1] and np.isnan(short.found[1:]).all()
    np.testing.assert_allclose(short.cost, 0.75 * np.log(80 / 2.5))
    # Groups are matched each on its own; differences for frequencies; given null draws.
    match = match_modes(np.array([[0.1, 0.3], [0.2, 0.2]]), np.array([[0.31, 0.1], [0.2, 0.25]]), metric="difference",
                        null=np.array([[[0.1, 0.3], [0.2, 0.2]], [[0.0, 0.0], [0.0, 0.0]]]))  # fmt: skip
    assert match.index.tolist() == [[1, 0], [0, 1]] and match.p_value == 2 / 3
    np.testing.assert_allclose((match.error, match.null_error), (0.06 / 4, 0.1))
    infinite = match_modes(np.array([10.0]), np.array([np.inf]), num_draws=2, key=jr.key(0), null_range=(1.0, 2.0))
    np.testing.assert_allclose(infinite.error, 100)


def test_bad_matchings_are_named():
    true, key = np.array([1.0, 2.0]), jr.key(0)
    with pytest.raises(ValueError, match="`true` must be finite, and positive"):
        match_modes(np.array([1.0, np.inf]), true, key=key)
    with pytest.raises(ValueError, match="got zero modes only"):
        match_modes(true, np.array([np.nan]), key=key)
    with pytest.raises(ValueError, match="`found` must be positive"):
        match_modes(true, np.array([0.0]), key=key)
    with pytest.raises(ValueError, match="needs a `key`"):
        match_modes(true, true)
    with pytest.raises(ValueError, match="`null_range` must be an interval"):
        match_modes(true, true, null_range=(0.0, 1.0), key=key)


def smooth_noise(rng, num_steps, width, phi=0.98):
    noise = rng.normal(size=(num_steps, width))
    for t in range(1, num_steps):
        noise[t] = phi * noise[t - 1] + np.sqrt(1 - phi**2) * noise[t]
    return noise


def test_alignment_counts_only_what_holds_on_other_data():
    rng = np.random.default_rng(0)
    truth, noise = smooth_noise(rng, 1500, 2), smooth_noise(rng, 1500, 8)
    mixed = np.c_[truth, noise[:, :3]] @ rng.normal(size=(5, 5)) + 1
    found = align(mixed, truth)
    np.testing.assert_allclose(found.correlations, 1, atol=1e-6)
    np.testing.assert_allclose(found.r2, 1, atol=1e-6)
    np.testing.assert_allclose(found.predicted, truth, atol=1e-6)
    nothing = align(noise, truth)
    assert nothing.in_sample[0] > 0.4 and nothing.correlations.mean() < 0.25 and nothing.r2.mean() < 0.1
    assert "held-out CCA" in str(nothing) and "in sample" in str(nothing)
    # Against the textbook's eigenvalue problem, with a direction of no variance left out.
    x, y = mixed[:, :3] + 0.3 * noise[:, 3:6], truth - 0.5 * noise[:, 6:]
    joint = np.cov(np.c_[x, y].T)
    sxx, sxy, syy = joint[:3, :3], joint[:3, 3:], joint[3:, 3:]
    squares = np.linalg.eigvals(np.linalg.solve(sxx, sxy) @ np.linalg.solve(syy, sxy.T)).real
    expected = np.sqrt(np.sort(squares)[::-1][:2])
    np.testing.assert_allclose(canonical_correlations(np.c_[x, x[:, :1] + 2], y), expected, atol=1e-9)
    with pytest.raises(ValueError, match="`truth` has dimensions that never change"):
        align(mixed, np.c_[truth, np.ones(1500)])


def test_splits_keep_train_and_test_apart():
    folds = BlockedSplit(num_folds=4, gap=7).folds(102)
    assert np.sum([fold.test for fold in folds], axis=0).tolist() == [1] * 102
    for fold in folds:
        assert (np.diff(np.flatnonzero(fold.test)) == 1).all()
        distance = np.abs(np.flatnonzero(fold.train)[:, None] - np.flatnonzero(fold.test)[None]).min()
        assert distance == 8 and (~fold.train & ~fold.test).sum() in (7, 14)
    trials = np.repeat([3, 1, 8, 5], 5)
    folds = TrialSplit(trials, num_folds=2).folds(20)
    assert set(trials[folds[0].test]) == {1, 5} and set(trials[folds[0].train]) == {3, 8}
    with pytest.raises(ValueError, match="`gap` of 30 steps needs blocks at least as long; got 102"):
        BlockedSplit(4, 30).folds(102)
    with pytest.raises(ValueError, match="`num_folds` must be at least 2"):
        BlockedSplit(1).folds(102)
    with pytest.raises(ValueError, match="the trial of each of 21 time steps; got 20"):
        TrialSplit(trials, 2).folds(21)
    with pytest.raises(ValueError, match="between 2 and the 4 trials; got 5"):
        TrialSplit(trials).folds(20)


def test_decoding_shows_its_controls_and_is_not_fooled_by_smooth_noise():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60) % 3, 25)
    fooled = smooth_noise(rng, 1500, 8, phi=0.99)
    # The published protocol: nearest neighbours on a random split of time points finds labels in noise.
    order = rng.permutation(1500)
    knn = KNeighborsClassifier(3).fit(fooled[order[:1125]], labels[order[:1125]])
    assert knn.score(fooled[order[1125:]], labels[order[1125:]]) > 0.8
    raw = rng.normal(size=(1500, 2)) + (labels == 0)[:, None]
    honest = decode(fooled, labels, raw, BlockedSplit(gap=50), num_noise=2, key=jr.key(0))
    assert honest.features.mean() < 0.45 and not honest.beats_controls and honest.chance == 1 / 3
    assert (np.abs(honest.noise.mean(1) - 1 / 3) < 0.12).all()
    good = decode(np.eye(3)[labels] + 0.3 * fooled[:, :3], labels, raw, num_noise=1, key=jr.key(1))
    assert good.features.mean() > 0.9 > 0.7 > good.raw_input.mean() > 0.4 and good.beats_controls
    assert good.features.shape == (5,) and good.noise.shape == (1, 5)
    assert all(name in str(good) for name in ("features", "raw input", "AR noise", "chance"))
    # White noise draws have the largest mean of three in a third of all cases.
    beats = [Decoding(a, b, c[None], 0.5) for a, b, c in rng.normal(0.5, 0.05, (200, 3, 5))]
    larger = [d.features.mean() > max(d.raw_input.mean(), d.noise.mean()) for d in beats]
    assert np.mean(larger) > 0.25 and np.mean([d.beats_controls for d in beats]) < 0.06


def test_bad_decodings_are_named():
    features, labels, key = np.random.default_rng(0).normal(size=(500, 2)), np.arange(500) // 250, jr.key(0)
    with pytest.raises(ValueError, match="`labels` must hold at least two classes"):
        decode(features, 0 * labels, features, key=key)
    with pytest.raises(ValueError, match=r"classes \[0\] do not occur in the training part of fold 0"):
        decode(features, labels, features, BlockedSplit(2), key=key)
    with pytest.raises(ValueError, match="`num_noise` must be at least 1"):
        decode(features, labels, features, num_noise=0, key=key)
    with pytest.raises(ValueError, match="`observations` must be finite"):
        decode(features, labels, features * np.inf, key=key)


def test_forecasts_stand_beside_persistence_and_a_linear_model():
    rng = np.random.default_rng(0)
    matrix = rotation(0.97, 0.2)
    recording = np.zeros((4, 400, 2))
    for t in range(1, 400):
        recording[:, t] = recording[:, t - 1] @ matrix.T + 0.1 * rng.normal(size=(4, 2))
    recording += 3
    train, test = recording[:3], recording[3:]
    windows = forecast_windows(test, 12, lags=2, stride=3, start=20)
    assert windows.past.shape[1:] == (2, 2) and windows.targets.shape[1:] == (12, 2) and windows.origins[0] == 20
    np.testing.assert_array_equal(windows.past[1], test[0, 22:24])
    np.testing.assert_array_equal(windows.targets[1], test[0, 24:36])
    powers = [np.linalg.matrix_power(matrix, k) for k in range(1, 13)]
    best = 3 + np.stack([(windows.past[:, -1] - 3) @ p.T for p in powers], axis=1)
    found = compare_forecasts(best, windows, train)
    np.testing.assert_allclose(found.linear, found.model, atol=0.03)
    assert found.model[0] > 0.9 and found.persistence[10] < 0 < found.model[10]
    mean = train.mean((0, 1))
    missed, spread = windows.targets[:, 4] - windows.past[:, -1], windows.targets[:, 4] - mean
    expected = 1 - (missed**2).sum() / (spread**2).sum()
    np.testing.assert_allclose(found.persistence[4], expected)
    assert all(name in str(found) for name in ("model", "persistence", "linear"))
    assert np.unique(forecast_windows(train, 5).trials).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="`forecasts` must have the shape of the targets"):
        compare_forecasts(best[:, :3], windows, train)
    with pytest.raises(ValueError, match="too few for 1 lags, a start at 0 and a horizon of 400"):
        forecast_windows(train, 400)
    with pytest.raises(ValueError, match="must be at least 1; got 0, 1 and 1"):
        forecast_windows(train, 0)
    with pytest.raises(ValueError, match="`train` has 2 time steps, too few to fit 2 lags"):
        compare_forecasts(best, windows, train[:, :2])
    with pytest.raises(ValueError, match=r"shape \(time, channels\) or \(trials, time, channels\); got \(1, 1, 3, 1\)"):
        forecast_windows(np.zeros((1, 1, 3, 1)), 1)
    flat = forecast_windows(np.ones((20, 2)), 3)
    with pytest.raises(ValueError, match="`windows` must hold targets that differ from the mean"):
        compare_forecasts(flat.targets, flat, np.ones((30, 2)))


def test_consistency_across_seeds():
    rng = np.random.default_rng(0)
    first = smooth_noise(rng, 600, 3, phi=0.8)
    turned = 2 * first @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 1
    sheared = first @ np.array([[1, 2, 0], [0, 1, 3], [0, 0, 0.2]])
    other = smooth_noise(rng, 600, 3, phi=0.8)
    times = [
        np.array([10.0, 2.0, np.nan]),
        np.array([2.0, 10.0, 5.0]),
        np.array([20.0, 2.0, 1.0]),
        np.array([1.0, 1.0, 1.0]),
    ]
    found = consistency([first, turned, sheared, other], timescales=times)
    np.testing.assert_allclose(found.correlations[:3, :3], 1, atol=1e-6)
    np.testing.assert_allclose(found.similarity[0, 1], 1, atol=1e-6)
    assert found.similarity[0, 2] < 0.9 and (found.correlations[3, :3] < 0.4).all() and found.similarity[0, 3] < 0.2
    assert found.timescales is not None
    np.testing.assert_allclose(found.timescales[1, 0], 1.0)
    np.testing.assert_allclose(found.timescales[2, 0], np.sqrt(2))
    assert str(found).startswith("6 pairs of runs") and "Procrustes" in str(found)
    dead = np.concatenate([first[:, :2], np.ones((600, 1))], axis=1)  # one latent never changes
    np.testing.assert_allclose(consistency([first, dead]).correlations[0, 1], 1, atol=1e-6)
    with pytest.raises(ValueError, match="`latents` of a run never change"):
        consistency([first, np.ones((600, 3))])
    with pytest.raises(ValueError, match="`timescales` must hold at least one finite value"):
        consistency([first, turned], timescales=[times[0], np.full(3, np.inf)])
    with pytest.raises(ValueError, match="at least two runs; got 1"):
        consistency([first])
    with pytest.raises(ValueError, match="`latents` must have one shape"):
        consistency([first, other[:-1]])
    with pytest.raises(ValueError, match="one entry for each of 2 runs; got 4"):
        consistency([first, other], timescales=times)


def test_mixture_usage():
    weights = np.zeros((2, 10, 4))
    weights[0, :, 0], weights[1, :8, 1], weights[1, :8, 2] = 5.0, 0.1, -0.1
    usage = mixture_usage(weights)
    np.testing.assert_allclose(usage.share, [10 / 18, 4 / 18, 4 / 18, 0])
    np.testing.assert_allclose(usage.dominance.sum(), 1)
    np.testing.assert_allclose(usage.dominance[0], 10 / 18)
    np.testing.assert_allclose(usage.effective_per_step, (10 + 8 * 2) / 18)
    np.testing.assert_allclose(usage.silent, 0.1)
    even = mixture_usage(np.ones((3, 4)))
    np.testing.assert_allclose((even.effective_number, even.entropy, even.effective_per_step), (4, np.log(4), 4))
    assert str(even).startswith("4.0 of 4 components")
    with pytest.raises(ValueError, match="`weights` must not all be zero"):
        mixture_usage(0 * weights)
