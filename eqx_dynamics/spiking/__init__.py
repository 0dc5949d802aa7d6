"""Neurons, surrogates, wiring, encoders, losses and learning rules for spiking networks, all with visible state."""

# Surrogates
# Parts of a neuron
from ._adaptation import (
    AbstractAdaptation as AbstractAdaptation,
    CurrentAdaptation as CurrentAdaptation,
    ThresholdAdaptation as ThresholdAdaptation,
)
from ._decay import (
    AbstractDecay as AbstractDecay,
    AbstractInputGain as AbstractInputGain,
    ConstantGain as ConstantGain,
    EulerDecay as EulerDecay,
    ExactDecay as ExactDecay,
    LeakGain as LeakGain,
    RateGain as RateGain,
)
from ._leak import SynapticCurrent as SynapticCurrent

# Neurons
from ._li import LICell as LICell, LIState as LIState
from ._lif import LIFCell as LIFCell, LIFState as LIFState
from ._neuron import AbstractNeuron as AbstractNeuron
from ._parameter import (
    AbstractParameter as AbstractParameter,
    Bounded as Bounded,
    Frozen as Frozen,
    Positive as Positive,
    tau_from_beta as tau_from_beta,
)
from ._refractory import Refractory as Refractory
from ._reset import (
    AbstractReset as AbstractReset,
    NoReset as NoReset,
    SubtractReset as SubtractReset,
    ValueReset as ValueReset,
)
from ._surrogate import (
    AbstractStochasticSurrogate as AbstractStochasticSurrogate,
    AbstractSurrogate as AbstractSurrogate,
    DerivativeOf as DerivativeOf,
    Scaled as Scaled,
    Stochastic as Stochastic,
    StraightThrough as StraightThrough,
    Stretched as Stretched,
    spike as spike,
    with_tie as with_tie,
)
from ._surrogate_curves import (
    S2NN as S2NN,
    AbsReciprocal as AbsReciprocal,
    ATan as ATan,
    Boxcar as Boxcar,
    Circle as Circle,
    Erf as Erf,
    FastSigmoid as FastSigmoid,
    Gaussian as Gaussian,
    LeakyRelu as LeakyRelu,
    LogTailedRelu as LogTailedRelu,
    MultiGaussian as MultiGaussian,
    PiecewiseExp as PiecewiseExp,
    PiecewiseLeakyRelu as PiecewiseLeakyRelu,
    PiecewiseQuadratic as PiecewiseQuadratic,
    QPseudoSpike as QPseudoSpike,
    Sigmoid as Sigmoid,
    Slayer as Slayer,
    SoftSign as SoftSign,
    SparseFastSigmoid as SparseFastSigmoid,
    SpikeRateEscape as SpikeRateEscape,
    SquarewaveFourier as SquarewaveFourier,
    Tanh as Tanh,
    Triangle as Triangle,
)


LIF = LIFCell
LI = LICell
