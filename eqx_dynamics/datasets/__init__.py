"""Recordings to study dynamics on: generators with known truth, and real data."""

from ._arrays import read_arrays as read_arrays
from ._calms21 import calms21 as calms21
from ._gait import GAITS as GAITS, GaitOscillators as GaitOscillators
from ._integrate import integrate as integrate
from ._lorenz96 import TwoScaleLorenz96 as TwoScaleLorenz96
from ._recording import Recording as Recording
from ._rossler import RosslerPair as RosslerPair
from ._sample import AbstractSystem as AbstractSystem, Mixture as Mixture, Sample as Sample
from ._switching import (
    DECAYS as DECAYS,
    FREQUENCIES as FREQUENCIES,
    SwitchingLinearSystem as SwitchingLinearSystem,
    linear_system as linear_system,
)
from ._ts import basic_motions as basic_motions, japanese_vowels as japanese_vowels, read_ts as read_ts
from ._windows import delay_embed as delay_embed, stack_windows as stack_windows
