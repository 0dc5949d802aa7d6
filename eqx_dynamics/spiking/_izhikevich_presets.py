"""The twenty firing patterns of Izhikevich (2004), figure 1, with the parameters published beside it."""

from typing import NamedTuple


class IzhikevichPreset(NamedTuple):
    """Constants of one pattern, the state it starts from, and the input current that shows it.

    `input` is a constant current unless `stimulus` says otherwise; it starts after the rest of `onset` ms.
    """

    a: float
    b: float
    c: float  # mV
    d: float  # mV/ms
    initial_membrane: float  # mV
    initial_recovery: float  # mV/ms
    input: float  # mV/ms
    stimulus: str = "step"
    linear: float = 5.0  # 1/ms
    constant: float = 140.0  # mV/ms
    recovery_offset: float = 0.0  # mV


def _preset(a: float, b: float, c: float, d: float, v: float, current: float, **rest) -> IzhikevichPreset:
    return IzhikevichPreset(a, b, c, d, v, b * v, current, **rest)


IZHIKEVICH_PRESETS = {
    "tonic_spiking": _preset(0.02, 0.2, -65.0, 6.0, -70.0, 14.0),
    "phasic_spiking": _preset(0.02, 0.25, -65.0, 6.0, -64.0, 0.5),
    "tonic_bursting": _preset(0.02, 0.2, -50.0, 2.0, -70.0, 15.0),
    "phasic_bursting": _preset(0.02, 0.25, -55.0, 0.05, -64.0, 0.6),
    "mixed_mode": _preset(0.02, 0.2, -55.0, 4.0, -70.0, 10.0),
    "spike_frequency_adaptation": _preset(0.01, 0.2, -65.0, 8.0, -70.0, 30.0),
    "class_1_excitable": _preset(0.02, -0.1, -55.0, 6.0, -60.0, 20.0, stimulus="ramp", linear=4.1, constant=108.0),
    "class_2_excitable": _preset(0.2, 0.26, -65.0, 0.0, -64.0, 4.0, stimulus="ramp"),
    "spike_latency": _preset(0.02, 0.2, -65.0, 6.0, -70.0, 7.04, stimulus="pulse"),
    "subthreshold_oscillation": _preset(0.05, 0.26, -60.0, 0.0, -62.0, 2.0, stimulus="pulse"),
    "resonator": _preset(0.1, 0.26, -60.0, -1.0, -62.0, 0.65, stimulus="pulse pairs"),
    "integrator": _preset(0.02, -0.1, -55.0, 6.0, -60.0, 9.0, stimulus="pulse pairs", linear=4.1, constant=108.0),
    "rebound_spike": _preset(0.03, 0.25, -60.0, 4.0, -64.0, -15.0, stimulus="pulse"),
    "rebound_burst": _preset(0.03, 0.25, -52.0, 0.0, -64.0, -15.0, stimulus="pulse"),
    "threshold_variability": _preset(0.03, 0.25, -60.0, 4.0, -64.0, 1.0, stimulus="pulse pairs"),
    "bistability": _preset(0.1, 0.26, -60.0, 0.0, -61.0, 0.24, stimulus="pulse pairs"),
    "depolarizing_afterpotential": _preset(1.0, 0.2, -60.0, -21.0, -70.0, 20.0, stimulus="pulse"),
    "accommodation": _preset(0.02, 1.0, -55.0, 4.0, -65.0, 4.0, stimulus="ramp", recovery_offset=-65.0)._replace(
        initial_recovery=-16.0
    ),
    "inhibition_induced_spiking": _preset(-0.02, -1.0, -60.0, 8.0, -63.8, 75.0),
    "inhibition_induced_bursting": _preset(-0.026, -1.0, -45.0, -2.0, -63.8, 75.0),
}
"""Pattern name to constants. Accommodation follows the published program, $\\dot u = a (b (v + 65) - u)$."""
