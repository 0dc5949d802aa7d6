"""Pictures of dynamics: what is drawn, and that axes say what they show."""

import numpy as np
import pytest

from eqx_dynamics import plot
from eqx_dynamics.analysis import ForecastComparison, match_modes


RNG = np.random.default_rng(0)
WAVE = np.sin(np.arange(200)[:, None] * np.array([0.1, 0.3, 0.05])) + 0.1 * RNG.normal(size=(200, 3))


def labels(ax):
    return ax.get_xlabel(), ax.get_ylabel()


def test_latents_beside_the_truth():
    ax = plot.plot_latents(WAVE, truth=WAVE + 1, names=("a", "b", "c"), time_step=0.1, unit="s")
    assert labels(ax) == ("time (s)", "latent (in standard deviations, offset)") and len(ax.lines) == 6
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["true", "inferred"]
    np.testing.assert_allclose(ax.lines[3].get_xdata()[-1], 19.9)
    # Scaled as the truth is, so a shift between them shows.
    shift = ax.lines[0].get_ydata() - ax.lines[3].get_ydata()
    np.testing.assert_allclose(shift, 1 / WAVE[:, 0].std())
    with pytest.raises(ValueError, match="one name for each of 3"):
        plot.plot_latents(WAVE, names=("a",))


def test_reconstructions_say_how_good_they_are():
    observed = WAVE.copy()
    observed[5, 0] = np.nan
    ax = plot.plot_reconstruction(observed, np.c_[WAVE[:, :2], np.full(200, WAVE[:, 2].mean())])
    assert len(ax.lines) == 6 and labels(ax)[0] == "time (steps)"
    assert [t.get_text()[-4:] for t in ax.get_yticklabels()] == ["1.00", "1.00", "0.00"]
    flat = plot.plot_reconstruction(np.ones((20, 1)), np.ones((20, 1)))
    assert flat.get_yticklabels()[0].get_text().endswith(" nan") and np.abs(flat.lines[1].get_ydata()).max() < 1


def test_mixture_weights_as_a_map():
    ax = plot.plot_mixture(np.abs(WAVE), time_step=0.5, unit="ms")
    (image,) = ax.images
    assert image.get_extent() == [0, 100, 0.5, 3.5] and image.get_clim()[0] == 0
    assert labels(ax) == ("time (ms)", "component") and image.colorbar.ax.get_ylabel() == "mixture weight"
    low, high = plot.plot_mixture(WAVE).images[0].get_clim()
    assert low == -high


def test_regimes_as_bars():
    regimes = np.array([[0, 1], [0, 1], [1, 1], [-1, 0]])
    ax = plot.plot_regimes(regimes, names=("true", "decoded"), regime_names=("slow", "fast"), time_step=2, unit="s")
    spans = [sorted(np.ptp(path.vertices[:, 0]) for path in c.get_paths())
             for c in ax.collections]  # fmt: skip
    assert spans == [[4], [2], [2], [6]] and labels(ax) == ("time (s)", "regimes")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["slow", "fast"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["true", "decoded"]


def test_spectra_in_the_unit_circle():
    values = 0.9 * np.exp(1j * RNG.normal(size=(5, 4)))
    ax = plot.plot_spectrum(values, true=values[0])
    found, true = ax.collections
    assert len(found.get_offsets()) == 20 and len(true.get_offsets()) == 4 and ax.get_aspect() == 1
    assert labels(ax) == ("real part", "imaginary part")
    np.testing.assert_allclose(np.hypot(*ax.lines[0].get_data()), 1)


def test_timescales_as_a_histogram():
    ax = plot.plot_timescales(np.array([1.0, 2.0, 2.1, 50.0, np.nan, np.inf, np.inf]), true=np.array([2.0, 40.0]))
    assert sum(bar.get_height() for bar in ax.patches) == 4 and ax.get_xscale() == "log"
    assert labels(ax) == ("timescale (steps)", "modes") and len(ax.collections[0].get_paths()) == 2
    assert ax.get_title("right") == "left out: 1 zero modes, 2 undamped"
    with pytest.raises(ValueError, match="at least one finite value; got 2 others"):
        plot.plot_timescales(np.array([np.nan, np.inf]))


def test_matchings_and_forecasts():
    match = match_modes(np.array([1.0, 10.0, 5.0]), np.array([9.0, 1.1]), null=np.ones((4, 2)))
    ax = plot.plot_matching(match, unit="s")
    assert labels(ax) == ("true (s)", "recovered (s)") and len(ax.lines) == 2 and ax.get_yscale() == "log"
    assert "chance" in ax.get_title("right") and "p = " in ax.get_title("right")
    curves = ForecastComparison(np.linspace(1, 0.5, 10), np.linspace(1, -2, 10), np.linspace(1, 0.2, 10))
    ax = plot.plot_forecast(curves, time_step=0.1, unit="s")
    assert labels(ax) == ("forecast horizon (s)", "$R^2$") and ax.get_ylim()[0] == -0.5 and len(ax.lines) == 4
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["model", "linear", "persistence"]
