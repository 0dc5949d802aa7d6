"""Pictures on matplotlib axes (extra `plot`)."""

from ..training import plot_history as plot_history
from ._dynamics import (
    plot_latents as plot_latents,
    plot_mixture as plot_mixture,
    plot_reconstruction as plot_reconstruction,
    plot_regimes as plot_regimes,
)
from ._spikes import plot_membrane as plot_membrane, plot_raster as plot_raster
from ._spikes_animation import animate_activity as animate_activity
from ._spikes_summary import (
    plot_activity as plot_activity,
    plot_rates as plot_rates,
    plot_weight_distribution as plot_weight_distribution,
    plot_weights as plot_weights,
)
from ._timescales import (
    plot_forecast as plot_forecast,
    plot_matching as plot_matching,
    plot_spectrum as plot_spectrum,
    plot_timescales as plot_timescales,
)
