"""Files: models, runs, damaged ones, and runs of another model."""

import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from eqx_dynamics.training import (
    Checkpoint,
    CheckpointError,
    DynamicLossScale,
    Precision,
    StopOnNaN,
    WeightAverage,
    fit,
    load_config,
    load_model,
    load_safetensors,
    make_step,
    save_model,
    save_safetensors,
)
from eqx_dynamics.training._checkpoint import _set_position
from training_support import batches, close, data, make_model, squared_error, with_metrics


pytest.importorskip("orbax.checkpoint")


class Everything(eqx.Module):
    """One leaf of every kind a file has to keep."""

    linear: eqx.nn.Linear
    key: jax.Array
    keys: jax.Array
    half: jax.Array
    flags: jax.Array
    empty: jax.Array
    scale: jax.Array
    rate: float
    depth: int
    function: object

    def __init__(self, seed, rate=0.5, depth=3):
        self.linear = eqx.nn.Linear(3, 2, key=jr.key(seed))
        self.key, self.keys = jr.key(seed, impl="rbg"), jr.split(jr.key(seed), 3)
        self.half = jr.normal(jr.key(seed), (5,), jnp.bfloat16)
        self.flags, self.empty = jnp.arange(3) > seed, jnp.zeros((0, 2))
        self.scale = jnp.float32(seed)
        self.rate, self.depth, self.function = rate, depth, jax.nn.relu


def test_a_model_comes_back_from_one_file(tmp_path):
    model = Everything(1, rate=0.125, depth=7)
    save_model(tmp_path / "model", model, config={"seed": 1})
    assert eqx.tree_equal(load_model(tmp_path / "model", Everything(0)), model, typematch=True)
    traced = load_model(tmp_path / "model", lambda config: Everything(config["seed"] + 5))
    assert eqx.tree_equal(traced, model, typematch=True)
    assert load_config(tmp_path / "model") == {"seed": 1}
    header = json.loads((tmp_path / "model").read_bytes().splitlines()[0])
    assert header["leaves"]["linear.weight"] == [[2, 3], "float32"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_damaged_or_other_file_is_refused(tmp_path):
    path = tmp_path / "model"
    save_model(path, make_model())
    whole = path.read_bytes()
    for content, message in (
        (whole[:-4], "is damaged: .* bytes of .*"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "is damaged"),
        (b"hello", "was not written by `save_model`"),
        (b"", "was not written by `save_model`"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load_model(path, make_model())
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"`layers.0.weight` as float32\[8, 3\]; the given .* float32\[9, 3\]"):
        load_model(path, make_model(width=9))
    with pytest.raises(CheckpointError, match=r"holds `layers.0.weight`, which the given structure has not|lacks"):
        load_model(path, eqx.nn.Linear(3, 1, key=jr.key(0)))
    save_model(path, Everything(0))
    with pytest.raises(CheckpointError, match=r"differ in the numbers \['rate'\]"):
        load_model(path, eqx.tree_at(lambda m: m.rate, Everything(0), jax.nn.relu))
    with pytest.raises(TypeError, match=r"`config` must be what JSON can hold; got object .*dataclasses.asdict"):
        save_model(path, make_model(), config=object())


def test_safetensors(tmp_path):
    model = Everything(1)
    save_safetensors(tmp_path / "m.safetensors", model, {"made": "here"})
    like = eqx.tree_at(lambda m: (m.linear, m.half), Everything(0), (Everything(2).linear, jnp.zeros(5, jnp.bfloat16)))
    assert eqx.tree_equal(load_safetensors(tmp_path / "m.safetensors", like), model, typematch=True)
    with pytest.raises(CheckpointError, match=r"lacks `layers.0.weight`"):
        load_safetensors(tmp_path / "m.safetensors", make_model())
    content = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(content[:-3])
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        load_safetensors(tmp_path / "m.safetensors", like)


STEP = make_step(with_metrics, optax.adam(1e-2), average=WeightAverage(), clip=1.0)


def start(step=STEP, **options):
    return step.init(make_model(**options), key=jr.key(0))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole, history = fit(start(), STEP, data(), epochs=6, steps_per_dispatch=4)
    checkpoint = Checkpoint(tmp_path / "run", config={"width": 8})
    assert checkpoint.restore(start()).step == 0  # nothing yet
    _, first = fit(start(), STEP, data(), epochs=2, steps_per_dispatch=4, callbacks=[checkpoint])
    state = checkpoint.restore(start())
    assert int(state.step) == 12 and checkpoint.read_config() == {"width": 8}
    state, second = fit(state, STEP, data(), epochs=4, steps_per_dispatch=4, callbacks=[checkpoint])
    assert close(whole, state, rtol=0, atol=0)
    np.testing.assert_array_equal(np.concatenate([first["loss"], second["loss"]]), history["loss"])


def test_all_kinds_of_state_come_back(tmp_path):
    precision = Precision(jnp.float16, loss_scale=DynamicLossScale(8.0, growth_interval=3))
    loss = lambda model, batch, key, seen: (squared_error(model, batch, key), {}, seen + 1)  # noqa: E731
    step = make_step(loss, optax.adam(1e-2), precision=precision, average=WeightAverage())
    state = step.init(make_model(), key=jr.key(3), statistics=jnp.int32(0))
    checkpoint = Checkpoint(tmp_path / "run")
    last, _ = fit(state, step, data(), epochs=2, callbacks=[checkpoint])
    back = checkpoint.restore(state)
    assert eqx.tree_equal(back, last, typematch=True) and int(back.statistics) == 12


def test_the_best_and_the_latest_are_kept(tmp_path):
    evaluate = lambda model: {"score": jnp.abs(model.layers[0].bias[0] * 1e3 % 7)}  # noqa: E731
    checkpoint = Checkpoint(tmp_path / "run", keep=2, metric="score", mode="max")
    _, history = fit(start(), STEP, data(), epochs=8, evaluate=evaluate, callbacks=[checkpoint])
    kept = saved_steps(tmp_path / "run")
    best = {6 * (n + 1) for n in np.argsort(history["score"])[-2:]}
    assert best <= set(kept) and {42, 48} <= set(kept) and set(kept) == best | {42, 48}


def saved_steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_epochs_of_an_iterable_are_saved_when_complete(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run", keep=9, save_iterator=False)
    fit(start(), STEP, batches(), epochs=2, steps_per_dispatch=3, callbacks=[checkpoint])  # ends with a full group
    assert saved_steps(tmp_path / "run") == [6, 12]


def test_the_last_good_state_is_saved_when_a_run_stops(tmp_path):
    step = make_step(with_metrics, optax.adam(1e-2), nan_policy=StopOnNaN())
    checkpoint = Checkpoint(tmp_path / "run", every=100, save_iterator=False)
    bad = (np.full((16, 3), np.nan, np.float32), np.zeros((16, 1), np.float32))
    last, _ = fit(start(step), step, [*batches()[:3], bad], steps=4, callbacks=[checkpoint])
    good, _ = fit(start(step), step, batches(), steps=3)
    back = checkpoint.restore(start(step))
    assert int(back.step) == 3 and bool(back.health.halted) and close(back.model, good.model, rtol=0, atol=0)
    assert close(back, last, rtol=0, atol=0)


def hurt(path: pathlib.Path, how: str) -> None:
    largest = max((f for f in path.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = largest.read_bytes()
    if how == "truncated":
        largest.write_bytes(content[: len(content) // 2])
    elif how == "zeroed":
        middle = len(content) // 2
        largest.write_bytes(content[:middle] + bytes(24) + content[middle + 24 :])
    elif how == "lost":
        largest.unlink()
    else:
        shutil.rmtree(path / "train")


@pytest.mark.parametrize("how", ["truncated", "zeroed", "lost", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, how):
    checkpoint = Checkpoint(tmp_path / "run", keep=3)
    whole, _ = fit(start(), STEP, data(), epochs=3)
    fit(start(), STEP, data(), epochs=2, callbacks=[checkpoint])
    hurt(tmp_path / "run" / "12", how)
    with pytest.warns(UserWarning, match=r"Checkpoint refused: `.*run/12` is damaged"):
        state = checkpoint.restore(start())
    assert int(state.step) == 6
    state, _ = fit(state, STEP, data(), epochs=2, callbacks=[checkpoint])
    assert close(whole, state, rtol=0, atol=0)
    assert int(checkpoint.restore(start()).step) == 18


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run")
    fit(start(), STEP, data(), epochs=1, callbacks=[checkpoint])
    with (
        pytest.warns(UserWarning, match="Checkpoint refused"),
        pytest.raises(CheckpointError, match=r"run/6` holds `model.layers.0.weight` as float32\[8, 3\]; the given"),
    ):
        checkpoint.restore(start(width=9))
    other = make_step(with_metrics, optax.sgd(1e-2))
    with (
        pytest.warns(UserWarning, match="Checkpoint refused"),
        pytest.raises(CheckpointError, match=r"No checkpoint in .* is usable: .*which the given structure has not"),
    ):
        checkpoint.restore(start(other))
    with pytest.raises(ValueError, match="holds checkpoints up to step 6, but this run starts at step 0"):
        fit(start(), STEP, data(), epochs=1, callbacks=[checkpoint])


class Counter:
    """A batch iterator that says where it is."""

    def __init__(self):
        self.position = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.position += 1
        return batches()[(self.position * 7) % 6]

    def get_state(self) -> Any:
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


class BytesCounter(Counter):
    def get_state(self) -> Any:
        return bytes([255, self.position])

    def set_state(self, state):
        assert state[0] == 255
        self.position = state[1]


@pytest.mark.parametrize("kind", [Counter, BytesCounter])
def test_the_iterator_resumes_where_the_model_does(tmp_path, kind):
    checkpoint = Checkpoint(tmp_path / "run")
    whole, _ = fit(start(), STEP, kind(), steps=12, steps_per_dispatch=4)
    fit(start(), STEP, kind(), steps=8, steps_per_dispatch=4, callbacks=[checkpoint])
    iterator = kind()
    state = checkpoint.restore(start(), iterator)
    assert iterator.position == 8
    state, _ = fit(state, STEP, iterator, steps=4, steps_per_dispatch=4)
    assert close(whole, state, rtol=0, atol=0)


def test_an_iterator_without_a_state_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a list_iterator, which has no `get_state`"):
        fit(start(), STEP, batches(), steps=4, callbacks=[Checkpoint(tmp_path / "a")])
    checkpoint = Checkpoint(tmp_path / "b", save_iterator=False)
    fit(start(), STEP, batches(), steps=4, callbacks=[checkpoint])
    assert int(checkpoint.restore(start()).step) == 4
    with pytest.raises(CheckpointError, match="holds no position of an iterator"):
        checkpoint.restore(start(), Counter())
    with pytest.raises(CheckpointError, match=r"positions of the iterators of 2 processes; this run has 1"):
        _set_position(Counter(), [{"state": {"position": 0}}] * 2, "run/6")


def test_bad_arguments_and_missing_packages(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`every` and `keep` must be at least 1; got 0 and 2"):
        Checkpoint(tmp_path, every=0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="`directory` must be a folder, or free for one; got the file"):
        Checkpoint(tmp_path / "file")
    with pytest.raises(ValueError, match=r"`metric` must be one of those reported, .*'loss'.*; got 'score'"):
        fit(start(), STEP, data(), epochs=1, callbacks=[Checkpoint(tmp_path / "run", metric="score")])
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        Checkpoint(tmp_path / "none").read_config()
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"`Checkpoint` needs .*`orbax`.*eqx-graph-dynamics\[train\]"):
        Checkpoint(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"`save_safetensors` needs .*eqx-graph-dynamics\[train\]"):
        save_safetensors(tmp_path / "x", make_model())


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_killed_at_any_moment_a_run_goes_on_bit_for_bit(tmp_path):
    """Kills with SIGKILL at random moments, of runs in memory, from Grain, and from Grain with workers."""
    script = pathlib.Path(__file__).with_name("kill_and_resume.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert sum(run["kills"] for run in summary.values()) >= 20
    assert all(run["identical"] and run["kills_before_first_checkpoint"] < run["kills"] for run in summary.values())
