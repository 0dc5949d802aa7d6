"""Callbacks: what they show, write and decide, and that none of them holds the device up."""

import csv
import io
import json
import re
import sys

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from eqx_dynamics.training import (
    AbstractMeter,
    CSVFile,
    EarlyStopping,
    JSONLines,
    KeepBest,
    Logger,
    ProgressBar,
    TensorBoard,
    WandB,
    _callbacks,
    _progress,
    fit,
    make_step,
    plot_history,
)
from training_support import batches, close, data, make_model, with_metrics


STEP = make_step(with_metrics, optax.adam(1e-2))


def start():
    return STEP.init(make_model(), key=jr.key(0))


class Terminal(io.StringIO):
    def isatty(self):
        return True


class CountingMeter(AbstractMeter):
    calls: list = eqx.field(static=True)

    def open(self, total, stream):
        self.calls.append(("open", total))

    def advance(self, bar, num_steps, text):
        self.calls.append((num_steps, text))

    def close(self, bar):
        self.calls.append(("close",))


@pytest.fixture
def reads(monkeypatch):
    """How often metrics came from the device."""
    counted, original = [], _callbacks.to_host
    monkeypatch.setattr(_callbacks, "to_host", lambda tree: (counted.append(1), original(tree))[1])
    return counted


def test_progress_in_a_terminal():
    stream = Terminal()
    fit(start(), STEP, data(), epochs=4, callbacks=[ProgressBar(["rmse"], interval=0.0, stream=stream)])
    shown = stream.getvalue()
    assert "24/24" in shown and "rmse=0." in shown and "step/s" in shown and "loss" not in shown


def test_progress_of_an_iterable_of_unknown_length():
    stream = Terminal()
    fit(start(), STEP, batches(), epochs=2, callbacks=[ProgressBar(interval=0.0, stream=stream)])
    assert "12step" in stream.getvalue() and "loss=" in stream.getvalue()


def test_progress_is_silent_when_nobody_watches(reads):
    stream = io.StringIO()
    fit(start(), STEP, data(), epochs=4, callbacks=[ProgressBar(interval=0.0, stream=stream)])
    assert stream.getvalue() == "" and not reads


def test_progress_looks_at_the_device_only_when_it_redraws(reads):
    meter = CountingMeter([])
    bar = ProgressBar(meter=meter, interval=1000.0, stream=Terminal())
    fit(start(), STEP, data(), epochs=4, steps_per_dispatch=2, callbacks=[bar])
    assert len(reads) == 1 and [call[0] for call in meter.calls] == ["open", 24, "close"]
    meter.calls.clear()
    bar = ProgressBar(meter=meter, interval=0.0, stream=Terminal())
    fit(start(), STEP, data(), epochs=4, steps_per_dispatch=2, callbacks=[bar])
    assert len(reads) == 1 + 12 and sum(call[0] for call in meter.calls[1:-1]) == 24


def test_progress_keeps_the_last_evaluation():
    meter = CountingMeter([])
    bar = ProgressBar(["norm"], meter=meter, interval=0.0, stream=Terminal())
    evaluate = lambda model: {"norm": jnp.sum(model.layers[0].weight ** 2)}  # noqa: E731
    fit(start(), STEP, data(), epochs=2, steps_per_dispatch=3, callbacks=[bar], evaluate=evaluate)
    texts = [text for _, text in meter.calls[1:-1]]
    assert texts[0] == "" and texts[1] == texts[2] != texts[3] and texts[3].startswith("norm=")


def test_progress_in_a_notebook(monkeypatch):
    class ZMQInteractiveShell: ...

    class IPython:
        get_ipython = staticmethod(ZMQInteractiveShell)

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    assert _progress.in_notebook()
    meter = CountingMeter([])
    fit(start(), STEP, data(), epochs=1, callbacks=[ProgressBar(meter=meter, stream=io.StringIO())])
    assert meter.calls[0] == ("open", 6)


def test_rich_progress():
    pytest.importorskip("rich")
    from eqx_dynamics.training import RichMeter

    stream = Terminal()
    fit(start(), STEP, data(), epochs=2, callbacks=[ProgressBar(interval=0.0, meter=RichMeter(), stream=stream)])
    assert re.search(r"12 steps, [1-9][\d.e+]* step/s .*loss=", stream.getvalue())


def test_callbacks_share_one_read(reads, tmp_path):
    callbacks = [Logger(JSONLines(tmp_path / "a")), KeepBest("loss"), EarlyStopping("loss", 100)]
    fit(start(), STEP, data(), epochs=4, callbacks=callbacks)
    assert len(reads) == 4
    reads.clear()
    fit(start(), STEP, data(), epochs=9, callbacks=[Logger(JSONLines(tmp_path / "b"), every=4)])
    assert len(reads) == 3  # epochs 4, 8 and the last


def test_a_run_without_callbacks_never_waits_for_metrics(reads):
    fit(start(), STEP, data(), epochs=3)
    assert not reads


def evaluate_norm(model):
    return {"norm": jnp.sum(model.layers[0].weight ** 2)}


def test_csv(tmp_path):
    path = tmp_path / "log.csv"
    state, history = fit(start(), STEP, data(), epochs=3, callbacks=[Logger(CSVFile(path))], evaluate=evaluate_norm)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["step"] for row in rows] == ["6", "12", "18"] and list(rows[0]) == [
        "step",
        "entry",
        "loss",
        "rmse",
        "norm",
    ]
    for name in history:
        np.testing.assert_allclose([float(row[name]) for row in rows], history[name], rtol=1e-6)
    fit(state, STEP, data(), epochs=1, callbacks=[Logger(CSVFile(path, append=True))], evaluate=evaluate_norm)
    assert [row["step"] for row in csv.DictReader(path.read_text().splitlines())] == ["6", "12", "18", "24"]
    with pytest.raises(ValueError, match=r"has the columns \['step', 'entry', 'loss', 'rmse', 'norm'\], this run"):
        fit(state, STEP, data(), epochs=1, callbacks=[Logger(CSVFile(path, append=True))])


def test_json_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    _, history = fit(start(), STEP, batches(), steps=6, steps_per_dispatch=2, callbacks=[Logger(JSONLines(path))])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["entry"]) for row in rows] == [(2, 1), (4, 2), (6, 3)]
    np.testing.assert_allclose([row["loss"] for row in rows], history["loss"], rtol=1e-6)


def test_services_are_handed_scalars():
    class Writer:
        def __init__(self):
            self.rows, self.flushed = [], 0

        def add_scalar(self, name, value, step):
            self.rows.append((step, name, value))

        def log(self, row, *, step):
            self.rows.extend((step, *item) for item in row.items())

        def flush(self):
            self.flushed += 1

    board, run = Writer(), Writer()
    fit(start(), STEP, data(), epochs=2, callbacks=[Logger(TensorBoard(board)), Logger(WandB(run))])
    assert board.rows == run.rows and board.flushed == 1
    assert [row[:2] for row in board.rows[:3]] == [(6, "entry"), (6, "loss"), (6, "rmse")]
    assert all(isinstance(value, int | float) for _, _, value in board.rows)


class Scripted(eqx.Module):
    """A metric that follows a script over the epochs, by way of the number of steps."""

    values: tuple = eqx.field(static=True)

    def __call__(self, model, statistics):
        return {"score": jnp.asarray(self.values, jnp.float32)[statistics // 6 - 1]}


SCRIPTED = make_step(lambda m, b, k, count: (*with_metrics(m, b, k), count + 1), optax.adam(1e-2))


def scripted(values, *callbacks, epochs=8):
    state = SCRIPTED.init(make_model(), key=jr.key(0), statistics=jnp.int32(0))
    return fit(state, SCRIPTED, data(), epochs=epochs, evaluate=Scripted(values), callbacks=callbacks)


def test_early_stopping():
    values = (5.0, 4.0, 4.5, 3.9, 4.0, 4.0, 1.0, 0.0)
    state, history = scripted(values, EarlyStopping("score", 2))
    assert history["score"].tolist() == [np.float32(v) for v in values[:6]] and int(state.step) == 36
    _, history = scripted(values, EarlyStopping("score", 2, min_change=0.5))
    assert len(history["score"]) == 4
    _, history = scripted(values, EarlyStopping("score", 3, mode="max"))
    assert len(history["score"]) == 4


def test_keep_best_returns_the_best_state():
    values = (5.0, 4.0, 4.5, 3.9, 4.0, np.nan, 9.0, 4.0)
    best, _ = scripted(values, KeepBest("score"))
    assert int(best.step) == 24
    same, _ = scripted(values, epochs=4)
    assert close(best, same, rtol=0, atol=0)
    assert int(scripted(values, KeepBest("score", mode="max"))[0].step) == 42
    assert int(scripted(values, KeepBest("score"), EarlyStopping("score", 2))[0].step) == 24
    assert (
        int(scripted((np.nan, 2.0, 1.0, 3.0, 3.0), EarlyStopping("score", 2), KeepBest("score"), epochs=5)[0].step)
        == 18
    )


def test_trackers_refuse():
    for callback in (EarlyStopping("val", 2), KeepBest("val")):
        with pytest.raises(ValueError, match=r"`metric` must be one of those reported, \['loss', 'rmse'\]; got 'val'"):
            fit(start(), STEP, data(), epochs=2, callbacks=[callback])
    with pytest.raises(ValueError, match="`patience` must be positive"):
        EarlyStopping("loss", 0)
    with pytest.raises(ValueError, match="`every` must be at least 1; got 0"):
        Logger(JSONLines("x"), every=0)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"`ProgressBar` needs the package `tqdm`.*eqx-graph-dynamics\[train\]"):
        fit(start(), STEP, data(), epochs=1, callbacks=[ProgressBar(stream=Terminal())])


def test_plot(tmp_path):
    history = {"loss": np.geomspace(1, 0.1, 20), "rmse": np.ones(20), "val_loss": np.full(20, np.nan)}
    history["val_loss"][::5] = 0.5
    figure = plot_history(history, log=True)
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "rmse"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["loss", "val_loss"]
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_xdata(), [1, 6, 11, 16])
    assert figure.axes[0].get_xlabel() == "epoch" and figure.axes[0].get_yscale() == "log"
    figure.savefig(tmp_path / "curves.png")
    with pytest.raises(ValueError, match="`history` must hold at least one metric"):
        plot_history({})


def test_an_entry_of_several_dispatches_is_reported_as_a_whole(tmp_path):
    """Six steps an epoch in dispatches of four and two: what is logged and judged is what the history has."""
    logger, path = Logger(CSVFile(tmp_path / "log.csv")), tmp_path / "log.csv"
    best = KeepBest("loss")
    state, history = fit(start(), STEP, data(), epochs=3, steps_per_dispatch=4, callbacks=[logger, best])
    with path.open() as file:
        logged = [float(row["loss"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(logged, history["loss"], rtol=1e-5)
    assert int(state.step) == 6 * (1 + int(np.argmin(history["loss"])))


def test_metrics_of_training_and_evaluation_have_names_of_their_own():
    with pytest.raises(ValueError, match=r"may not both return metrics named \['rmse'\]"):
        fit(start(), STEP, data(), epochs=2, evaluate=lambda model: {"rmse": jnp.zeros(())})
