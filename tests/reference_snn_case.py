"""A spiking reference case as its manifest describes it."""

import re
from typing import Any, NamedTuple

import numpy as np

import eqx_dynamics.spiking as sp


NUMBER = r"(-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)"


class Case(NamedTuple):
    """What a manifest says of a case in words, and its arrays."""

    name: str
    equation: str
    params: dict[str, Any]
    surrogate: sp.AbstractSurrogate
    arrays: dict[str, np.ndarray]

    @property
    def size(self) -> int:
        return self.arrays["p_W"].shape[0]

    def written(self, name: str) -> float | None:
        """A constant of this name, such as `th=.9` or `'th': 0.9`."""
        if isinstance(self.params.get(name), float | int):
            return float(self.params[name])
        found = re.search(rf"(?<![A-Za-z_]){name}'?\s*[=:]\s*{NUMBER}", self.equation)
        return float(found.group(1)) if found else None

    def number(self, name: str, default: float) -> float:
        written = self.written(name)
        return default if written is None else written

    def constants(self, **names: str) -> dict[str, float]:
        """Those of the constants that are written; `names` are ours to theirs."""
        found = {ours: self.written(theirs) for ours, theirs in names.items()}
        return {ours: value for ours, value in found.items() if value is not None}

    def match(self, pattern: str, default: float) -> float:
        """The number at the mark `#` of a pattern that the equation has."""
        found = re.search(pattern.replace("#", NUMBER), self.equation)
        return float(found.group(1)) if found else default
