"""Our presets for the spiking reference cases: which cell, with which parameters, stands for each library's."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array


def build(
    name: str, entry: dict[str, Any], arrays: dict[str, np.ndarray]
) -> Callable[[dict[str, Any]], dict[str, Array]] | None:
    """How a case of the manifest is computed here, or None if nothing here corresponds (the case is then skipped).

    **Returns:** a function from the arrays named `p_*` (keys without `p_`; among them the input `x`, time-major) to
    arrays under the file's own keys. Cases with `p_*` must return `spk` and every `s_*`; the runner differentiates
    $\\sum A\\,\\mathrm{spk} + \\sum C\\,s$ and compares outputs and every `g_*`. Of other cases it compares what is
    returned.
    """
    return None
