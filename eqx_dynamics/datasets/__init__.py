"""Recordings to study dynamics on: generators with known truth, and real data."""

from ._switching import (
    DECAYS as DECAYS,
    FREQUENCIES as FREQUENCIES,
    SwitchingLinearSystem as SwitchingLinearSystem,
    SwitchingSample as SwitchingSample,
    linear_system as linear_system,
)
from ._windows import stack_windows as stack_windows
