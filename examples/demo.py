"""The three demonstrations in turn: a graph network, a spiking network and TiDHy learn from data, with pictures.

    make demo

Each is a script of its own (`molecules.py`, `digits_spiking.py`, `timescales.py`) that asserts what it claims. This
driver runs their `main` with default settings, and writes `demo_output/summary.md`, a table of results and pictures.
Run time: under four minutes on two cores.
"""

import dataclasses
import importlib
import os
import pathlib
import sys
import time
import traceback

import tyro


@dataclasses.dataclass(frozen=True)
class Config:
    """Where the pictures and the summary go."""

    output: pathlib.Path = pathlib.Path("demo_output")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one script came to."""

    name: str
    question: str
    results: dict[str, float] | None  # None: it failed
    seconds: float
    pictures: tuple[pathlib.Path, ...]

    def learned(self) -> str:
        """The results in a few words."""
        if self.results is None:
            return "failed, see the traceback above"
        return ", ".join(f"{name} {value:.3g}" for name, value in self.results.items())


SCRIPTS = ("molecules", "digits_spiking", "timescales")


def run(name: str, output: pathlib.Path) -> Outcome:
    """One script's `main`, with everything it writes going to `output`."""
    script = importlib.import_module(name)
    first_line = (script.__doc__ or name).strip().splitlines()[0]
    question = first_line[: first_line.find("?") + 1] or first_line
    print(f"\n== {name}.py: {question}", flush=True)
    written, start = _written(output), time.perf_counter()
    try:
        results = script.main(script.Config(output=output))
    except Exception:
        traceback.print_exc()
        results = None
    pictures = tuple(path for path, when in _written(output).items() if written.get(path) != when)
    return Outcome(name, question, results, time.perf_counter() - start, pictures)


def _written(output: pathlib.Path) -> dict[pathlib.Path, int]:
    """The pictures that are there, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in sorted(output.glob("*.png"))}


def summary(outcomes: list[Outcome]) -> str:
    """The table of `summary.md`."""
    rows = [
        "# What the demonstrations learned",
        "",
        "| script | question | result | seconds | pictures |",
        "|---|---|---|---|---|",
    ]
    for o in outcomes:
        pictures = " ".join(f"[{p.name}]({p.name})" for p in o.pictures)
        rows.append(f"| `examples/{o.name}.py` | {o.question} | {o.learned()} | {o.seconds:.0f} | {pictures} |")
    return "\n".join(rows) + "\n"


def main(config: Config) -> None:
    config.output.mkdir(parents=True, exist_ok=True)
    outcomes = [run(name, config.output) for name in SCRIPTS]
    path = config.output / "summary.md"
    path.write_text(summary(outcomes))
    print(f"\n== in {sum(o.seconds for o in outcomes):.0f} s")
    for o in outcomes:
        print(f"{o.question} {o.learned()}; {', '.join(map(str, o.pictures)) or 'no pictures'}")
    print(f"summary: {path}")
    if any(o.results is None for o in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    main(tyro.cli(Config))
