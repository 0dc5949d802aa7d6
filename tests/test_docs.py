"""The README and the pages say what runs: blocks that begin with an import are executed, links lead somewhere."""

import pathlib
import re

import pytest


ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(block.group(1), id=f"{page.relative_to(ROOT)}:{page.read_text()[: block.start()].count(chr(10)) + 1}")
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
