"""The spiking examples on real recordings keep what they claim; the quick ones in full, the rest in small."""

import pathlib
import runpy
import warnings
from typing import Any

import jax
import matplotlib
import pytest


matplotlib.use("Agg")
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def _run(name: str, output: pathlib.Path, monkeypatch: pytest.MonkeyPatch, **small: Any) -> dict[str, float]:
    """As a user runs it: default promotion rules, the folder of examples on the path."""
    monkeypatch.syspath_prepend(EXAMPLES)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = runpy.run_path(str(EXAMPLES / f"{name}.py"))
        return script["main"](script["Config"](output=output, **small))


@pytest.mark.slow
def test_balanced_network_is_at_its_mean_field_rate(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the neurons with twice the weights; the script compares its rate and CV with theory itself."""
    small = {"num_neurons": 2500, "weight": 0.4, "warm_up": 100.0, "duration": 1000.0}
    got = _run("balanced_network", tmp_path, monkeypatch, **small)
    assert 11 < got["rate (Hz)"] < 16 and (tmp_path / "balanced_network.png").exists()


def test_every_spiking_example_is_short_and_says_what_it_expects() -> None:
    names = ("digits_spiking", "digits_convolution", "japanese_vowels", "basic_motions_spiking", "balanced_network")
    for name in (*names, "cue_accumulation"):
        text = (EXAMPLES / f"{name}.py").read_text()
        assert text.startswith('"""') and all(
            word in text for word in ("Expected:", "Run time:", "Reference:", "assert ")
        )
        assert len(text.splitlines()) < 200, name
