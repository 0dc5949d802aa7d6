"""The README and the pages say what runs: blocks that begin with an import are executed, links lead somewhere."""

import inspect
import pathlib
import re
import types

import pytest

import eqx_dynamics
import eqx_graph
import eqx_graph.interop
from eqx_dynamics import interop, plot, spiking, training, transform
from eqx_graph import data, nn, ops


ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TRAINS = {"graphs.md", "cells.md", "tidhy.md"}  # pages whose blocks take seconds
BLOCKS = [
    pytest.param(
        block.group(1),
        id=f"{page.relative_to(ROOT)}:{page.read_text()[: block.start()].count(chr(10)) + 1}",
        marks=[pytest.mark.slow] if page.name in TRAINS else [],
    )
    for page in PAGES
    for block in BLOCK.finditer(page.read_text())
    if block.group(1).startswith(("import ", "from "))  # others are fragments
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block: str) -> None:
    namespace: dict[str, object] = {"__name__": "__page__"}
    exec(compile(block, "<page>", "exec"), namespace)
    if "history" in namespace:
        losses = namespace["history"]["loss"]  # pyright: ignore[reportIndexIssue]
        assert losses[-1] < 0.8 * losses[0], "a network on a page must learn"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: pathlib.Path) -> None:
    """Paths in backticks and relative links."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    named = re.findall(r"`((?:docs|examples|tests|benchmarks|eqx_graph|eqx_dynamics)/[\w/.-]+)`", text)
    named += [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if "//" not in link]
    missing = [name for name in named if not (ROOT / name).exists() and not (page.parent / name).exists()]
    assert not missing, missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sections_that_links_name_exist(page: pathlib.Path) -> None:
    for name, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
        headings = re.findall(r"^#+ (.+)$", (page.parent / name if name else page).read_text(), re.MULTILINE)
        assert section in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], f"{name}#{section}"


def test_what_the_migration_page_names_here_is_here() -> None:
    """In its right columns: names of classes, and functions called by name."""
    rooms = (eqx_dynamics, interop, plot, spiking, training, transform, eqx_graph, eqx_graph.interop, data, nn, ops)
    page = (ROOT / "docs" / "migrating.md").read_text()
    missing = []
    for row in re.findall(r"^\| .*\|$", page, re.MULTILINE):
        for code in re.findall(r"`([^`]+)`", row.rstrip("| ").rpartition(" | ")[2]):
            for name in re.findall(r"(?<![\w.\"=])([A-Z]\w+|\w+_\w+(?=\())(?:\.(\w+))?", code):
                owner = next((getattr(room, name[0]) for room in rooms if hasattr(room, name[0])), None)
                if owner is None or (name[1] and not hasattr(owner, name[1])):
                    missing.append(code)
    assert not missing, missing


RESULTS = {
    *("AttentionWeights", "DynamicBatches", "PaddingReport", "edge_softmax"),
    *("Plan", "Stop", "Health", "CheckpointError", "TrainStep", "Compiled", "Exported", "Filter", "Table"),
}


@pytest.mark.parametrize("room", [nn, nn.aggr, ops, data, training, transform], ids=lambda room: room.__name__)
def test_every_public_name_is_on_a_page(room: types.ModuleType) -> None:
    """Interfaces, and results that nobody makes by hand, need not be named."""
    text = " ".join(page.read_text() for page in PAGES)
    names = [name for name, value in vars(room).items() if name[0] != "_" and not inspect.ismodule(value)]
    interface = re.compile(r"(Abstract\w+|\w+Like|\w+Messages|as_\w+)$")
    missing = [n for n in names if not re.search(rf"\b{n.removeprefix('segment_')}\b", text)]
    missing = [n for n in missing if n not in RESULTS and not interface.match(n)]
    assert not missing, f"{room.__name__}: {missing}"


def test_every_layer_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "layers.md").read_text(), re.MULTILINE)
    assert {name for name in vars(nn) if name.endswith("Conv") or name == "APPNP"} == set(rows)
