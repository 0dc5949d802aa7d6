"""Training as a scan of a step cell: states, steps, data, callbacks, checkpoints."""

from ._average import WeightAverage as WeightAverage
from ._callbacks import AbstractCallback as AbstractCallback, Plan as Plan, Report as Report, Stop as Stop
from ._checkpoint import Checkpoint as Checkpoint
from ._data import ArrayData as ArrayData
from ._evaluate import Evaluate as Evaluate, OverData as OverData
from ._fit import fit as fit
from ._health import (
    AbstractNanPolicy as AbstractNanPolicy,
    Health as Health,
    NonFiniteError as NonFiniteError,
    RaiseOnNaN as RaiseOnNaN,
    SkipOnNaN as SkipOnNaN,
    StopOnNaN as StopOnNaN,
)
from ._leaves import CheckpointError as CheckpointError
from ._loggers import (
    AbstractSink as AbstractSink,
    CSVFile as CSVFile,
    JSONLines as JSONLines,
    Logger as Logger,
    TensorBoard as TensorBoard,
    WandB as WandB,
)
from ._memory import keep_freed_memory as keep_freed_memory
from ._optimizers import leaf_mask as leaf_mask, make_schedule as make_schedule, optimizer_groups as optimizer_groups
from ._plot import plot_history as plot_history
from ._precision import DynamicLossScale as DynamicLossScale, Precision as Precision
from ._progress import (
    AbstractMeter as AbstractMeter,
    ProgressBar as ProgressBar,
    RichMeter as RichMeter,
    TqdmMeter as TqdmMeter,
)
from ._save import (
    load_config as load_config,
    load_model as load_model,
    load_safetensors as load_safetensors,
    save_model as save_model,
    save_safetensors as save_safetensors,
)
from ._state import TrainState as TrainState
from ._step import TrainStep as TrainStep, make_step as make_step
from ._tracking import EarlyStopping as EarlyStopping, KeepBest as KeepBest
