"""Every seed script runs, asserts what it claims, is indexed in docs/seeds.md, and stays within its time budget."""

import pathlib
import re
import runpy
import time
import warnings

import jax
import matplotlib
import pytest


matplotlib.use("Agg")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("light_compilation")]
ROOT = pathlib.Path(__file__).parents[1]
SEEDS = ROOT / "examples" / "seeds"
SCRIPTS = sorted(SEEDS.glob("*/[0-9][0-9]_*.py"))
BUDGET = 30.0  # seconds of the processor, which a busy machine does not change much; what no seed may exceed


@pytest.mark.parametrize("script", [pytest.param(s, id=f"{s.parent.name}/{s.stem}") for s in SCRIPTS])
def test_seed_runs(script: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user runs it: default promotion rules, its own main, a working directory it may write to."""
    text = script.read_text()
    assert "assert" in text and text.startswith('"""'), "a seed says what it shows and asserts it"
    assert len(text.splitlines()) < 200
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(script)])
    start = time.process_time()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        runpy.run_path(str(script), run_name="__main__")
    assert time.process_time() - start < BUDGET


def test_every_seed_is_indexed() -> None:
    """docs/seeds.md has one line for each script, and none for a script that is not there."""
    index = (ROOT / "docs" / "seeds.md").read_text()
    listed = re.findall(r"`([a-z_]+/\d\d_[a-z0-9_]+\.py)`", index)
    assert sorted(listed) == [f"{s.parent.name}/{s.name}" for s in SCRIPTS]
