"""Recordings that ship with the package or come from files, and generators against their own equations."""

import pickle

import equinox as eqx
import h5py
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_dynamics.datasets import (
    GAITS,
    GaitOscillators,
    Recording,
    RosslerPair,
    TwoScaleLorenz96,
    basic_motions,
    calms21,
    delay_embed,
    integrate,
    japanese_vowels,
    read_arrays,
    read_ts,
)


def test_shipped_recordings_have_the_published_sizes():
    train, test = basic_motions()
    for part in (train, test):
        assert part.observations.shape == (40, 100, 6) and part.mask.all() and part.time_step == 0.1
        np.testing.assert_array_equal(np.bincount(part.labels), [10] * 4)
    assert train.label_names == ("Standing", "Running", "Walking", "Badminton")
    np.testing.assert_allclose(train.observations[0, :4, 0], [0.079106, 0.079106, -0.903497, 1.116125])
    train, test = japanese_vowels()
    assert train.observations.shape == (270, 29, 12) and test.observations.shape == (370, 29, 12)
    assert train.lengths.min() == 7 and train.lengths.max() == 26 and test.lengths.max() == 29
    np.testing.assert_array_equal(np.bincount(test.labels), [31, 35, 88, 44, 29, 24, 40, 50, 29])
    np.testing.assert_allclose(train.observations[0, :2, 1], [-0.207383, -0.193249])
    assert train.lengths[0] == 20 and (train.observations[0, 20:] == 0).all()


HEADER = "#words\n@problemName T\n@timeStamps false\n@classLabel true a b\n@data\n"


def test_the_ts_reader(tmp_path):
    path = tmp_path / "toy.ts"
    path.write_text(HEADER + "1,2,3:4,5,6:b\n\n7,?:NaN,10:a\n")
    toy = read_ts(path, time_step=0.5)
    assert toy.labels.tolist() == [1, 0] and toy.label_names == ("a", "b")
    np.testing.assert_array_equal(toy.observations[0], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(toy.observations[1], [[7, np.nan], [np.nan, 10], [0, 0]])
    np.testing.assert_array_equal(toy.is_observed[1], [[True, False], [False, True], [False, False]])
    path.write_text("@classLabel false\n@data\n1,2\n")
    assert read_ts(path).labels.tolist() == [-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@problemName T\n1,2", "no line `@data`"),
        (HEADER, "holds no trials"),
        (HEADER + "1,2:3,4:c", "toy.ts`, line 6: class 'c' is not one of"),
        (HEADER + "1,2:3,4:a\n1,2:3:a", r"line 7: channels must agree in number and length; got \[2, 1\]"),
        (HEADER + "1,2:3,4:a\n1,2:a", "line 7: channels must agree"),
        (HEADER + "1,x:3,4:a", "line 6: could not convert string to float: 'x'"),
        ("@timeStamps true\n@data\n(0,1)", "time stamps, which are not supported"),
    ],
)
def test_bad_ts_files_are_named(tmp_path, text, message):
    path = tmp_path / "toy.ts"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_ts(path)


def test_recordings_standardize_pad_and_cut_windows():
    rng = np.random.default_rng(0)
    trials = [5 + 3 * rng.normal(size=(n, 2)) for n in (10, 7, 3)]
    trials[0][4, 1] = np.nan
    recording = Recording.from_trials(trials, np.array([2, 0, 1]), label_names=("x", "y", "z"), time_step=0.1)
    assert recording.observations.dtype == np.float64 and recording.lengths.tolist() == [10, 7, 3]
    scaled = recording.standardize()
    values = np.concatenate([scaled.observations[n, : len(trial)] for n, trial in enumerate(trials)])
    np.testing.assert_allclose(np.nanmean(values, 0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(values, 0), 1)
    assert (scaled.observations[~scaled.mask] == 0).all() and np.isnan(scaled.observations[0, 4, 1])
    windows = recording.windows(4, stride=3)
    np.testing.assert_array_equal(windows.observations[:3], [trials[0][s : s + 4] for s in (0, 3, 6)])
    np.testing.assert_array_equal(windows.observations[3:], [trials[1][s : s + 4] for s in (0, 3)])
    assert windows.labels.tolist() == [2, 2, 2, 0, 0] and windows.mask.all()
    padded = recording.select(np.array([1, 2])).pad(12)
    assert padded.mask.sum() == 10 and padded.observations.shape == (2, 12, 2)
    per_step = Recording.from_trials(trials, [np.arange(n) for n in (10, 7, 3)]).pad(11)
    assert per_step.labels[2].tolist() == [0, 1, 2] + 8 * [-1]
    cut = per_step.windows(4, stride=3).labels
    assert cut[4].tolist() == [3, 4, 5, 6]


def test_bad_recordings_are_named():
    good = np.random.default_rng(0).normal(size=(2, 5, 3))
    with pytest.raises(ValueError, match=r"`trials` must be arrays of shape \(time, channels\)"):
        Recording.from_trials([])
    with pytest.raises(ValueError, match="trial 1 has infinite values"):
        Recording.from_trials([good[0], np.full((2, 3), np.inf)])
    with pytest.raises(ValueError, match="`time_step` must be positive"):
        Recording.from_trials(good, time_step=0.0)
    with pytest.raises(ValueError, match="one entry for each of 2 trials; got 3"):
        Recording.from_trials(good, np.arange(3))
    with pytest.raises(ValueError, match="one entry for every time step"):
        Recording.from_trials(good, [np.arange(5), np.arange(4)])
    good[..., 1] = 7
    with pytest.raises(ValueError, match=r"zero variance: \[1\]"):
        Recording.from_trials(good).standardize()
    # In float32 the deviation of a constant from its rounded mean is not zero; a channel may also miss altogether.
    tenths, absent = np.full((3, 333, 2), 0.1, np.float32), np.full((3, 333, 2), np.nan, np.float32)
    for unusable in (tenths, absent):
        with pytest.raises(ValueError, match=r"zero variance: \[0, 1\]"):
            Recording.from_trials(unusable).standardize()
    with pytest.raises(ValueError, match="longest trial's 5 time steps; got 6"):
        Recording.from_trials(good).windows(6)
    with pytest.raises(ValueError, match="at least the 5 time steps there are; got 4"):
        Recording.from_trials(good).pad(4)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_arrays_from_files(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(3, 6, 2)), "z": rng.integers(0, 4, (3, 6)), "n": np.array([6, 2, 5])}
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    recording = read_arrays(path, observations="x", labels="z", lengths="n", time_step=0.1)
    assert recording.lengths.tolist() == [6, 2, 5] and recording.time_step == 0.1
    np.testing.assert_array_equal(recording.observations[2, :5], arrays["x"][2, :5])
    np.testing.assert_array_equal(recording.labels[1], [*arrays["z"][1, :2], -1, -1, -1, -1])
    with pytest.raises(ValueError, match=r"no array 'observations'; it has \['n', 'x', 'z'\]"):
        read_arrays(path)
    with pytest.raises(ValueError, match=r"'n' must be numbers of shape \(trials, time, channels\)"):
        read_arrays(path, observations="n")
    with pytest.raises(ValueError, match="'z' must hold 3 lengths from 1 to 6"):
        read_arrays(path, observations="x", lengths="z")
    with pytest.raises(ValueError, match="'x' must be whole numbers from 0; got float64"):
        read_arrays(path, observations="x", labels="x")
    path.write_text("not what it says")
    with pytest.raises(ValueError, match=rf"`mine{suffix}` (is not an .npz file|cannot be read as .h5)"):
        read_arrays(path)
    (tmp_path / "bad.ts.gz").write_text(HEADER)
    with pytest.raises(ValueError, match=r"`bad.ts.gz` is no text, or not what its suffix says"):
        read_ts(tmp_path / "bad.ts.gz")
    with pytest.raises(ValueError, match=r"must end in .npz, .h5 or .hdf5; got 'mine.csv'"):
        read_arrays(tmp_path / "mine.csv")


def test_calms21_keeps_labels_with_their_poses(tmp_path):
    rng = np.random.default_rng(0)
    vocabulary = {"attack": 0, "other": 1}
    sequences = {
        f"task1/train/mouse{n}": {
            "keypoints": rng.normal(size=(length, 2, 2, 7)),
            "scores": np.ones((length, 2, 7)),
            "annotations": rng.integers(0, 2, length),
            "metadata": {"vocab": vocabulary, "fps": 30.0},
        }
        for n, length in enumerate((9, 4))
    }
    path = tmp_path / "calms21_task1_train.npy"
    np.save(path, np.array({"annotator-id_0": sequences}), allow_pickle=True)
    mice = calms21(path)
    assert mice.observations.shape == (2, 9, 28) and mice.lengths.tolist() == [9, 4]
    assert mice.label_names == ("attack", "other")
    short = sequences["task1/train/mouse1"]
    np.testing.assert_allclose(mice.observations[1, :4].reshape(4, 2, 2, 7), short["keypoints"], rtol=1e-6)
    np.testing.assert_array_equal(mice.labels[1], [*short["annotations"], -1, -1, -1, -1, -1])


class Harmful:
    def __reduce__(self):
        return (print, ("code from the file ran",))


def test_bad_calms21_files_are_named(tmp_path, capsys):
    path = tmp_path / "file.npy"
    with pytest.raises(ValueError, match=r"asks for (builtins|__builtin__).print"):
        np.save(path, np.array({"a": Harmful()}, object), allow_pickle=True)
        calms21(path)
    assert capsys.readouterr().out == ""
    np.save(path, np.zeros(3))
    with pytest.raises(ValueError, match="must hold one dictionary; got an array of float64"):
        calms21(path)
    np.save(path, np.array({"a": {"b": {"keypoints": np.zeros((3, 2, 2, 6))}}}), allow_pickle=True)
    with pytest.raises(ValueError, match=r"sequence 0: keypoints must be \(frames, 2, 2, 7\)"):
        calms21(path)
    np.save(path, np.array({"a": 3}), allow_pickle=True)
    with pytest.raises(ValueError, match="not CalMS21"):
        calms21(path)
    path.write_bytes(pickle.dumps({}))
    with pytest.raises(ValueError, match=r"not an .npy file"):
        calms21(path)


def test_delay_embedding():
    recording = np.arange(10).reshape(5, 2)
    np.testing.assert_array_equal(delay_embed(recording, 3)[0], [0, 1, 2, 3, 4, 5])
    assert delay_embed(recording[None], 3).shape == (1, 3, 6)
    with pytest.raises(ValueError, match="`lags` must be between 1 and the recording's 5 time steps"):
        delay_embed(recording, 6)


def test_the_integrator_is_of_fourth_order_and_reports_divergence():
    def error(substeps):
        end = integrate(lambda s: jnp.stack([s[1], -s[0]]), jnp.array([1.0, 0.0]), 4, 0.5, substeps=substeps)[-1]
        return float(jnp.abs(end - jnp.array([jnp.cos(2.0), -jnp.sin(2.0)])).max())

    assert 12 < error(1) / error(2) < 20
    with pytest.raises(eqx.EquinoxRuntimeError, match="choose a smaller `time_step`"):
        integrate(lambda s: s**3, jnp.array(10.0), 50, 1.0)


def slopes(states, time_step):
    """Central differences."""
    return (states[2:] - states[:-2]) / (2 * time_step)


def test_rossler_systems_obey_their_equations_and_differ_in_pace():
    system = RosslerPair(0.5, time_step=0.02, substeps=1, key=jr.key(0))
    sample = system.sample(3000, key=jr.key(1))
    slow, fast = np.asarray(sample.timescales)[:, 0]
    assert 5.5 < fast < 6.3 and 1.85 < slow / fast < 2.15
    states = np.asarray(sample.states, np.float64)
    found = slopes(states, 0.02)
    (xs, ys, zs), (x, y, z) = states[1:-1, 0].T, states[1:-1, 1].T
    expected = 0.5 * np.stack([-ys - zs, xs + 0.15 * ys, 0.2 + zs * (xs - 9)], -1)
    np.testing.assert_allclose(found[:, 0], expected, atol=0.02 * np.abs(expected).max())
    c = np.clip(9 + 0.1 * xs, 7, 11)
    expected = np.stack([-y - z, x + 0.15 * y, 0.2 + z * (x - c)], -1)
    np.testing.assert_allclose(found[:, 1], expected, atol=0.02 * np.abs(expected).max())
    # Channels are the three observed signals, standardised and mixed, up to noise of 0.1.
    observations = np.asarray(sample.observations)
    assert observations.shape == (3000, 16) and np.linalg.matrix_rank(np.asarray(system.mixture.projection)) == 3
    inputs = np.c_[states.reshape(3000, 6)[:, 2:5], np.ones(3000)]
    left = observations - inputs @ np.linalg.lstsq(inputs, observations, rcond=None)[0]
    np.testing.assert_allclose(left.std(), 0.1, rtol=0.05)


def test_two_scale_lorenz_96_obeys_its_equations():
    system = TwoScaleLorenz96(4, 1, speed=5.0, time_step=1e-3, substeps=1, key=jr.key(0))
    sample = system.sample(300, key=jr.key(1))
    states = np.asarray(sample.states, np.float64)
    x, y = states[1:-1, 0].T, states[1:-1, 1].T
    at = [(k % 4) for k in range(-2, 6)]
    dx = [x[at[k + 1]] * (x[at[k + 3]] - x[at[k]]) - x[k] + 10 - 0.5 * y[k] for k in range(4)]
    dy = [50 * y[at[k + 3]] * (y[at[k + 1]] - y[at[k + 4]]) - 5 * y[k] + 0.5 * x[k] for k in range(4)]
    expected = np.stack([np.stack(dx, -1), np.stack(dy, -1)], 1)
    np.testing.assert_allclose(slopes(states, 1e-3), expected, atol=0.01 * np.abs(expected).max())


def test_gaits_keep_their_rhythm_and_lags():
    sample = GaitOscillators(noise=0.0).sample(3000, key=jr.key(3))
    states = np.asarray(sample.states)[:, 0]
    phases = np.unwrap(np.arctan2(states[:, 4:], states[:, :4]), axis=0) / (2 * np.pi)
    regimes = np.asarray(sample.regimes)[:, 0]
    # Compare where one gait has lasted two seconds.
    settled = np.array([t >= 120 and (regimes[t - 120 : t + 2] == regimes[t]).all() for t in range(2998)])
    assert set(regimes[:2998][settled]) == {0, 1, 2}
    for gait, (lags, frequency) in enumerate(zip(GAITS.values(), (1.0, 2.0, 3.5), strict=True)):
        steps = np.flatnonzero(settled & (regimes[:2998] == gait))
        found = (phases[steps] - phases[steps][:, :1] - np.array(lags) + 0.5) % 1 - 0.5
        np.testing.assert_allclose(found.mean(0), 0, atol=0.02)
        assert np.abs(found).max() < 0.1
        np.testing.assert_allclose(((phases[steps + 1] - phases[steps]) * 60).mean(), frequency, atol=0.1)
        np.testing.assert_allclose(np.hypot(states[steps, 0], states[steps, 4]), (0.5, 0.8, 1.2)[gait], atol=0.02)
    np.testing.assert_allclose(sample.timescales, [[1.0, 0.5, 1 / 3.5]], rtol=1e-6)


def test_bad_generators_are_named():
    with pytest.raises(ValueError, match="`slowness` must lie in"):
        RosslerPair(0.0, key=jr.key(0))
    with pytest.raises(ValueError, match="`observed` must be indices from 0 to 5"):
        RosslerPair(observed=(6,), key=jr.key(0))
    with pytest.raises(ValueError, match="`num_channels` must be at least 1 and `noise` not negative; got 0"):
        TwoScaleLorenz96(num_channels=0, key=jr.key(0))
    with pytest.raises(ValueError, match="`num_slow` must be at least 4"):
        TwoScaleLorenz96(3, key=jr.key(0))
    with pytest.raises(ValueError, match="`speed`, `amplitude`, `time_step`"):
        TwoScaleLorenz96(speed=0.0, key=jr.key(0))
    with pytest.raises(ValueError, match="`bout` > `time_step`"):
        GaitOscillators(bout=0.0)
    with pytest.raises(ValueError, match=r"too long for 3.5 strides per second"):
        GaitOscillators(time_step=0.1)
    with pytest.raises(ValueError, match="`num_steps` must be at least 1; got 0"):
        GaitOscillators().sample(0, key=jr.key(0))
