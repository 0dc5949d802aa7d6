"""Recordings to study dynamics on: generators with known truth, and real data."""

from ._recording import Recording as Recording
from ._switching import (
    DECAYS as DECAYS,
    FREQUENCIES as FREQUENCIES,
    SwitchingLinearSystem as SwitchingLinearSystem,
    SwitchingSample as SwitchingSample,
    linear_system as linear_system,
)
from ._ts import basic_motions as basic_motions, japanese_vowels as japanese_vowels, read_ts as read_ts
from ._windows import stack_windows as stack_windows
