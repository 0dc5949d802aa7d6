"""Cells, `(x, state) -> (y, state)`, and everything that scans them over time."""

import importlib.metadata

from jaxtyping import install_import_hook

from . import _typecheck as _typecheck


# Shapes and types are checked at every public call; JAXTYPING_DISABLE=1 turns it off. The hook stays installed so that
# rooms imported later are checked too.
install_import_hook("eqx_dynamics", "eqx_dynamics._typecheck.on_first_call")

from ._apply import PerSample as PerSample  # noqa: E402
from ._cell import AbstractCell as AbstractCell, Cell as Cell  # noqa: E402
from ._control import (  # noqa: E402
    RESULTS as RESULTS,
    Loop as Loop,
    StoppedScan as StoppedScan,
    bounded_while as bounded_while,
    scan_until as scan_until,
)
from ._recorded import Recorded as Recorded  # noqa: E402
from ._scan import AbstractScannable as AbstractScannable, scan as scan  # noqa: E402
from ._sequential import Sequential as Sequential  # noqa: E402
from ._summed import Summed as Summed, SummedState as SummedState  # noqa: E402


__version__ = importlib.metadata.version("eqx-graph-dynamics")
