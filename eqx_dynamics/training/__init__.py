"""Training as a scan of a step cell: states, steps, data, callbacks."""

from ._callbacks import AbstractCallback as AbstractCallback, Plan as Plan, Report as Report, Stop as Stop
from ._data import ArrayData as ArrayData
from ._fit import fit as fit
from ._progress import ProgressBar as ProgressBar
from ._state import TrainState as TrainState
from ._step import TrainStep as TrainStep, make_step as make_step
