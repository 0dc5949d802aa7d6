"""Solvers for the latents of one time step, behind one interface."""

from ._base import (
    AbstractIterativeSolver as AbstractIterativeSolver,
    AbstractLatentSolver as AbstractLatentSolver,
    Iterate as Iterate,
)
from ._gauss_newton import ReducedGaussNewton as ReducedGaussNewton
from ._implicit import Implicit as Implicit
from ._inner_gradnorm import InnerGradNorm as InnerGradNorm
from ._proximal import ProximalGradient as ProximalGradient
from ._saturation import (
    HardTanh as HardTanh,
    ScaledSoftsign as ScaledSoftsign,
    ScaledTanh as ScaledTanh,
    ShiftedSigmoid as ShiftedSigmoid,
)
from ._sgd import Coupling as Coupling, SgdNesterov as SgdNesterov
from ._start import (
    AbstractStart as AbstractStart,
    AdamWStart as AdamWStart,
    JointStart as JointStart,
    ZeroStart as ZeroStart,
)
from ._unrolled import Unrolled as Unrolled
