"""What a fitted model found, measured so that it cannot fool its user: one-to-one matching with a null distribution,
held-out blocks of time, and controls that come with every number."""

from ._alignment import Alignment as Alignment, align as align, canonical_correlations as canonical_correlations
from ._consistency import Consistency as Consistency, consistency as consistency
from ._decoding import Decoding as Decoding, decode as decode
from ._forecasts import (
    ForecastComparison as ForecastComparison,
    ForecastWindows as ForecastWindows,
    compare_forecasts as compare_forecasts,
    forecast_windows as forecast_windows,
)
from ._matching import Matching as Matching, match_modes as match_modes
from ._spectrum import Spectrum as Spectrum, fit_transitions as fit_transitions, spectrum as spectrum
from ._splits import (
    AbstractSplit as AbstractSplit,
    BlockedSplit as BlockedSplit,
    Fold as Fold,
    TrialSplit as TrialSplit,
)
from ._usage import MixtureUsage as MixtureUsage, mixture_usage as mixture_usage
