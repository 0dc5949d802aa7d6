"""Pictures of spiking networks say what the arrays say."""

import pathlib
import sys

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from PIL import Image

from eqx_dynamics.plot import (
    animate_activity,
    plot_activity,
    plot_membrane,
    plot_raster,
    plot_rates,
    plot_weight_distribution,
    plot_weights,
)


matplotlib.use("Agg")
SPIKES = np.zeros((6, 3), np.float32)
SPIKES[[0, 2, 5, 5], [1, 0, 1, 2]] = 1


def test_a_raster_marks_every_spike_where_and_when() -> None:
    ax = plot_raster(jnp.asarray(SPIKES), dt=0.5, neuron="pixel")
    marks = next(c for c in ax.collections if isinstance(c, PathCollection)).get_offsets()
    assert sorted(map(tuple, np.asarray(marks).tolist())) == [(0.0, 1.0), (1.0, 0.0), (2.5, 1.0), (2.5, 2.0)]
    assert ax.get_xlabel() == "time (ms)" and ax.get_ylabel() == "pixel"
    assert ax.get_title(loc="right") == "4 spikes"
    assert plot_raster(SPIKES > 0, ax=ax) is ax


def test_membranes_have_levels_and_bars_for_spikes() -> None:
    membrane = np.linspace(-70, -50, 18).reshape(6, 3)
    ax = plot_membrane(membrane, spikes=SPIKES, threshold=-45.0, reset=-65, dt=2.0, labels=("a", "b", "c"))
    lines = {str(line.get_label()): line for line in ax.lines}
    np.testing.assert_allclose(lines["b"].get_xdata(), np.arange(6) * 2.0)
    np.testing.assert_allclose(lines["b"].get_ydata(), membrane[:, 1])
    assert lines["threshold"].get_ydata()[0] == -45 and lines["reset"].get_ydata()[0] == -65
    bars = [c.get_segments() for c in ax.collections if isinstance(c, LineCollection)]
    assert [len(b) for b in bars] == [1, 2, 1] and bars[1][1][0][0] == 10.0
    assert ax.get_ylabel() == "membrane (mV)"
    moving = plot_membrane(membrane, threshold=membrane + 1, unit="1")
    np.testing.assert_allclose(moving.lines[1].get_ydata(), membrane[:, 0] + 1)
    assert "threshold" in [text.get_text() for text in moving.get_legend().get_texts()]
    assert moving.get_xlim() == plot_raster(SPIKES).get_xlim() == plot_activity(SPIKES).get_xlim()


def test_rates_are_in_hertz() -> None:
    spikes = np.stack([SPIKES, 0 * SPIKES], axis=1)  # (time, batch, neurons)
    ax = plot_rates({"one": spikes, "two": SPIKES}, dt=1.0, bins=4)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["one: mean 111 Hz", "two: mean 222 Hz"]
    assert ax.patches[1].get_xy()[:, 0].max() == pytest.approx(1000 / 3, rel=1e-4)
    counts = np.arange(1, 4)[None] <= np.arange(3)[:, None] + 1  # 3, 2 and 1 spikes in 3 steps
    heights = plot_rates(counts, bins=3).patches[0].get_xy()[:, 1]
    assert heights.max() == 1  # Each falls into a bin of its own.
    ax = plot_activity(spikes, dt=2.0)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 500 * spikes.mean((1, 2)), rtol=1e-6)
    smooth = plot_activity(SPIKES, window=3).lines[0].get_ydata()
    np.testing.assert_allclose(smooth[1], 1000 * SPIKES[:3].mean(), rtol=1e-6)
    np.testing.assert_allclose(smooth[0], 1000 * SPIKES[:2].mean(), rtol=1e-6)


def test_weights_are_summarised() -> None:
    weight = np.array([[1.0, -2.0], [0.0, 3.0], [0.0, -2.0]])
    ax = plot_weights(weight)
    assert ax.images[0].get_clim() == (-3.0, 3.0)
    assert ax.get_title(loc="right") == "mean 0, std 1.7, 33% zero"
    assert plot_weights(np.zeros((2, 3, 3, 3))).images[0].get_array().shape == (2, 27)
    ax = plot_weight_distribution({"layer": weight, "other": np.ones(3)})
    assert len(ax.patches) == 2 and ax.get_xlabel() == "weight"


def test_an_animation_is_saved_frame_by_frame(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "spikes.gif"
    animate_activity(np.eye(6)[:4], label="spikes", dt=0.5).save(path, writer="pillow", dpi=40)
    with Image.open(path) as picture:
        assert picture.n_frames == 4  # pyright: ignore[reportAttributeAccessIssue]
    figure = Figure()
    sheet = animate_activity(np.zeros((2, 2, 3)), ax=figure.subplots())
    sheet.save(tmp_path / "sheet.gif", writer="pillow", dpi=20)


def test_what_cannot_be_drawn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"`spikes` must have the axes \(time, neurons\); got shape \(6, 1, 3\)"):
        plot_raster(SPIKES[:, None])
    with pytest.raises(ValueError, match=r"`threshold` must have the shape \(6, 3\)"):
        plot_membrane(SPIKES, threshold=SPIKES[0])
    with pytest.raises(ValueError, match="`labels` must hold one name for each of the 3"):
        plot_membrane(SPIKES, labels=("a",))
    with pytest.raises(ValueError, match=r"`spikes` of all must have the axes \(time, ..., neurons\)"):
        plot_rates(SPIKES[0])
    with pytest.raises(ValueError, match="at least one layer"):
        plot_activity({})
    with pytest.raises(ValueError, match="`weight` must have the axes"):
        plot_weights(SPIKES[0])
    with pytest.raises(ValueError, match="`weights` must hold at least one array"):
        plot_weight_distribution({})
    with pytest.raises(ValueError, match="`shape` must hold the 3 neurons; got"):
        animate_activity(SPIKES, shape=(2, 2))
    with pytest.raises(ValueError, match=r"`values` must be \(time, neurons\)"):
        animate_activity(SPIKES[0])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"`plot_raster` needs .*eqx-graph-dynamics\[plot\]"):
        plot_raster(SPIKES)
