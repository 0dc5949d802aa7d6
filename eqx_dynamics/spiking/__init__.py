"""Neurons, surrogates, wiring, encoders, losses and learning rules for spiking networks, all with visible state."""

# Surrogates
# Parts of a neuron
from ._adaptation import (
    AbstractAdaptation as AbstractAdaptation,
    CurrentAdaptation as CurrentAdaptation,
    ThresholdAdaptation as ThresholdAdaptation,
)

# Networks that fire from the start
from ._calibrate import calibrate as calibrate

# Connections
from ._connections import Dale as Dale, DenseConnection as DenseConnection, Masked as Masked
from ._decay import (
    AbstractDecay as AbstractDecay,
    AbstractInputGain as AbstractInputGain,
    ConstantGain as ConstantGain,
    EulerDecay as EulerDecay,
    ExactDecay as ExactDecay,
    LeakGain as LeakGain,
    RateGain as RateGain,
)

# Encoders, decoders and losses
from ._decoders import (
    accuracy as accuracy,
    exponential_trace as exponential_trace,
    first_spike_time as first_spike_time,
    max_membrane as max_membrane,
    spike_count as spike_count,
    spike_rate as spike_rate,
)
from ._diagnose import Diagnosis as Diagnosis, LayerReport as LayerReport, diagnose as diagnose
from ._encoders import (
    constant_current_encode as constant_current_encode,
    delta_encode as delta_encode,
    first_spikes as first_spikes,
    latency_encode as latency_encode,
    phase_decode as phase_decode,
    phase_encode as phase_encode,
    poisson_encode as poisson_encode,
    population_encode as population_encode,
    rank_order_encode as rank_order_encode,
    rate_encode as rate_encode,
)

# Learning online
from ._eprop import EProp as EProp, eprop as eprop
from ._estimate import forward_gradient as forward_gradient, with_gradient as with_gradient
from ._feedback import (
    AbstractFeedback as AbstractFeedback,
    AdaptiveFeedback as AdaptiveFeedback,
    RandomFeedback as RandomFeedback,
    SymmetricFeedback as SymmetricFeedback,
)
from ._initialize import (
    fluctuation_rate as fluctuation_rate,
    fluctuation_std as fluctuation_std,
    initialize as initialize,
)
from ._integrate import (
    AbstractIntegrator as AbstractIntegrator,
    ExponentialEuler as ExponentialEuler,
    ForwardEuler as ForwardEuler,
    RungeKutta4 as RungeKutta4,
)
from ._izhikevich_presets import IZHIKEVICH_PRESETS as IZHIKEVICH_PRESETS, IzhikevichPreset as IzhikevichPreset
from ._leak import SynapticCurrent as SynapticCurrent

# Neurons
from ._li import LICell as LICell, LIState as LIState
from ._lif import LIFCell as LIFCell, LIFState as LIFState, integrate_and_fire as integrate_and_fire
from ._losses import (
    ce_count as ce_count,
    ce_first_spike as ce_first_spike,
    ce_max_membrane as ce_max_membrane,
    ce_rate as ce_rate,
    cross_entropy as cross_entropy,
    mse_count as mse_count,
    mse_first_spike as mse_first_spike,
    mse_membrane as mse_membrane,
    mse_rate as mse_rate,
    van_rossum as van_rossum,
    van_rossum_distance as van_rossum_distance,
)

# Regularisers and metrics
from ._metrics import interval_cv as interval_cv, synchrony as synchrony, synops as synops
from ._neuron import AbstractNeuron as AbstractNeuron, AbstractSpikingCell as AbstractSpikingCell
from ._neurons_alpha import AlphaCell as AlphaCell, AlphaState as AlphaState
from ._neurons_coba import CobaLIFCell as CobaLIFCell, CobaLIFState as CobaLIFState
from ._neurons_conductance import (
    FitzHughNagumoCell as FitzHughNagumoCell,
    FitzHughNagumoState as FitzHughNagumoState,
    HodgkinHuxleyCell as HodgkinHuxleyCell,
    HodgkinHuxleyState as HodgkinHuxleyState,
    MorrisLecarCell as MorrisLecarCell,
    MorrisLecarState as MorrisLecarState,
)
from ._neurons_exponential import AdExCell as AdExCell, AdExState as AdExState, ExpIFCell as ExpIFCell
from ._neurons_gif import GIFCell as GIFCell, GIFState as GIFState
from ._neurons_quadratic import (
    IzhikevichCell as IzhikevichCell,
    IzhikevichState as IzhikevichState,
    MembraneOnlyState as MembraneOnlyState,
    QIFCell as QIFCell,
)
from ._neurons_resonate import ResonateAndFireCell as ResonateAndFireCell, ResonateState as ResonateState
from ._ode_neuron import AbstractODENeuron as AbstractODENeuron, AbstractSpikingODE as AbstractSpikingODE
from ._ottt import ottt as ottt
from ._parameter import (
    AbstractParameter as AbstractParameter,
    Bounded as Bounded,
    Frozen as Frozen,
    Positive as Positive,
    tau_from_beta as tau_from_beta,
)

# Plasticity
from ._plasticity import (
    AbstractBounds as AbstractBounds,
    HardBounds as HardBounds,
    PairSTDP as PairSTDP,
    PairSTDPState as PairSTDPState,
    RewardSTDP as RewardSTDP,
    RewardSTDPState as RewardSTDPState,
    SoftBounds as SoftBounds,
)
from ._recurrent import OneToOne as OneToOne, Recurrent as Recurrent, RecurrentState as RecurrentState
from ._refractory import Refractory as Refractory
from ._regularizers import (
    activity_penalty as activity_penalty,
    rate_penalty as rate_penalty,
    silence_penalty as silence_penalty,
    sparsity_penalty as sparsity_penalty,
)
from ._reset import (
    AbstractReset as AbstractReset,
    NoReset as NoReset,
    SubtractReset as SubtractReset,
    ValueReset as ValueReset,
)
from ._sparse import SparseConnection as SparseConnection
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

# Synapses
from ._synapses import (
    AlphaSynapse as AlphaSynapse,
    AlphaSynapseState as AlphaSynapseState,
    DualExponentialState as DualExponentialState,
    DualExponentialSynapse as DualExponentialSynapse,
    ExponentialState as ExponentialState,
    ExponentialSynapse as ExponentialSynapse,
)
from ._synapses_kinetic import (
    AbstractSynapticOutput as AbstractSynapticOutput,
    KineticState as KineticState,
    KineticSynapse as KineticSynapse,
    MagnesiumBlock as MagnesiumBlock,
    NMDAState as NMDAState,
    NMDASynapse as NMDASynapse,
    ReversalOutput as ReversalOutput,
)
from ._synapses_short_term import (
    STDState as STDState,
    STDSynapse as STDSynapse,
    STPState as STPState,
    STPSynapse as STPSynapse,
)

# Units
from ._units import magnitude as magnitude, with_units as with_units, without_units as without_units

# Wiring
from ._wiring import Delay as Delay, DelayState as DelayState, Parallel as Parallel, Residual as Residual


LIF = LIFCell
LI = LICell
