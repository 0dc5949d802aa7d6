"""Pictures on matplotlib axes (extra `plot`)."""
from ._spikes import plot_membrane as plot_membrane, plot_raster as plot_raster
from ._spikes_animation import animate_activity as animate_activity
from ._spikes_summary import (
    plot_activity as plot_activity,
    plot_rates as plot_rates,
    plot_weight_distribution as plot_weight_distribution,
    plot_weights as plot_weights,
)
