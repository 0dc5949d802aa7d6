"""Timescale demixing via hypernetworks: fast latents moved by mixed linear dynamics, slow latents that mix them."""

from ._decoders import (
    AbstractDecoder as AbstractDecoder,
    LinearDecoder as LinearDecoder,
    MLPDecoder as MLPDecoder,
)
from ._drivers import (
    Forecast as Forecast,
    forecast as forecast,
    infer as infer,
    infer_step as infer_step,
    inference_trace as inference_trace,
    reconstruct as reconstruct,
)
from ._gradnorm import (
    AbstractBalance as AbstractBalance,
    BalancedLoss as BalancedLoss,
    BalanceState as BalanceState,
    GradNorm as GradNorm,
    OriginalGradNorm as OriginalGradNorm,
)
from ._hypernetwork import Hypernetwork as Hypernetwork, signed as signed
from ._inference import (
    Inference as Inference,
    InferenceState as InferenceState,
    LatentInference as LatentInference,
    start_state as start_state,
    state_at as state_at,
)
from ._initialize import initialize as initialize
from ._likelihoods import (
    AbstractLikelihood as AbstractLikelihood,
    Bernoulli as Bernoulli,
    Gaussian as Gaussian,
    Poisson as Poisson,
)
from ._losses import (
    Inferred as Inferred,
    LossTerms as LossTerms,
    StatefulLoss as StatefulLoss,
    TiDHyLoss as TiDHyLoss,
    Windows as Windows,
    loss_terms as loss_terms,
    r_squared as r_squared,
)
from ._model import TiDHy as TiDHy
from ._original import (
    clip_like_torch as clip_like_torch,
    load_original as load_original,
    normalize as normalize,
)
from ._priors import (
    AbstractContextPrior as AbstractContextPrior,
    LearnedPrior as LearnedPrior,
    MeanReverting as MeanReverting,
    RandomWalk as RandomWalk,
)
from ._problem import Objective as Objective, StepProblem as StepProblem
from ._record import Record as Record, describe as describe, record as record
from ._regularizers import (
    AdaptiveWeightSparsity as AdaptiveWeightSparsity,
    BasisL1 as BasisL1,
    BasisSimilarity as BasisSimilarity,
    ComponentCount as ComponentCount,
    DecoderL1 as DecoderL1,
    DecoderOrthogonality as DecoderOrthogonality,
    HypernetworkL1 as HypernetworkL1,
    HypernetworkOrthogonality as HypernetworkOrthogonality,
    NuclearNorm as NuclearNorm,
    Regularizer as Regularizer,
    SelectiveWeights as SelectiveWeights,
    WeightL1 as WeightL1,
)
from ._transitions import (
    AbstractTransition as AbstractTransition,
    FullRankTransition as FullRankTransition,
    LowRankTransition as LowRankTransition,
)
from ._types import RESULTS as RESULTS, LatentState as LatentState, Solution as Solution
from .solvers import (
    AbstractIterativeSolver as AbstractIterativeSolver,
    AbstractLatentSolver as AbstractLatentSolver,
    AbstractStart as AbstractStart,
    AdamWStart as AdamWStart,
    Coupling as Coupling,
    HardTanh as HardTanh,
    Implicit as Implicit,
    InnerGradNorm as InnerGradNorm,
    Iterate as Iterate,
    JointStart as JointStart,
    ProximalGradient as ProximalGradient,
    ReducedGaussNewton as ReducedGaussNewton,
    ScaledSoftsign as ScaledSoftsign,
    ScaledTanh as ScaledTanh,
    SgdNesterov as SgdNesterov,
    ShiftedSigmoid as ShiftedSigmoid,
    Unrolled as Unrolled,
    ZeroStart as ZeroStart,
)
