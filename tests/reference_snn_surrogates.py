"""Which of our surrogates draws which curve of the five libraries."""

import math
import re
from collections.abc import Callable

import eqx_dynamics.spiking as sp


CURVES: dict[str, dict[str, sp.AbstractSurrogate]] = {
    "surr_snntorch": {
        "atan": sp.ATan(2.0, tie=">"),
        "fast_sigmoid": sp.FastSigmoid(25.0, tie=">"),
        "straight_through": sp.StraightThrough(tie=">"),
        "spike_rate_escape": sp.SpikeRateEscape(1.0, 25.0, tie=">"),
        "SFS": sp.SparseFastSigmoid(25.0, 1.0, tie=">"),
        "SFS_B0": sp.SparseFastSigmoid(25.0, 0.0, tie=">"),
    },
    "surr_norse": {
        "super_100": sp.FastSigmoid(1.0, tie=">"),
        "super_1": sp.FastSigmoid(1.0, tie=">"),
        "triangle_0.3": sp.Triangle(0.3, 1.0, tie=">"),
        "tanh_1": sp.Tanh(1.0, tie=">"),
        "tanh_5": sp.Tanh(5.0, tie=">"),
        "circ_1": sp.Circle(1.0, tie=">"),
        "circ_0.5": sp.Circle(0.5, tie=">"),
        "heavi_erfc_1": sp.Scaled(sp.Erf(1.0), 2.0, tie=">"),
        "heavi_erfc_3": sp.Scaled(sp.Erf(3.0), 2 / 3, tie=">"),
    },
    "surr_spikingjelly": {
        "ATan": sp.ATan(2.0),
        "Sigmoid": sp.Sigmoid(4.0),
        "SoftSign": sp.SoftSign(2.0),
        "PiecewiseQuadratic": sp.PiecewiseQuadratic(1.0),
        "PiecewiseExp": sp.PiecewiseExp(1.0),
        "Erf": sp.Erf(2.0),
        "LeakyKReLU": sp.LeakyRelu(0.0, 1.0),
        "NonzeroSignLogAbs": sp.AbsReciprocal(1.0),
        "PiecewiseLeakyReLU": sp.PiecewiseLeakyRelu(0.01, 1 - 1e-6),  # leaks at |x| = w itself
        "QPseudoSpike": sp.QPseudoSpike(2.0),
        "S2NN": sp.S2NN(4.0, 1.0),
        "SquarewaveFourierSeries": sp.SquarewaveFourier(8.0, 1),  # n = 2 there sums one term
        "LogTailedReLU": sp.LogTailedRelu(0.0),
        "Rect": sp.Boxcar(0.5, 1.0),
        "SuperSpike": sp.FastSigmoid(1.0),
    },
    "surr_spyx": {
        "superspike": sp.FastSigmoid(25.0, tie=">"),
        "arctan": sp.Scaled(sp.ATan(4.0), 1 / (2 * math.pi), tie=">"),
        "tanh": sp.Tanh(1.0, tie=">"),
        "boxcar": sp.Boxcar(1.0, 0.5, tie=">"),
        "triangular": sp.Triangle(2.0, 0.5, tie=">"),
        "custom_ste": sp.StraightThrough(tie=">"),
        "custom_default": sp.DerivativeOf(lambda x: x**2 / 2, tie=">"),
    },
    "surr_braintools": {
        "Sigmoid": sp.Sigmoid(4.0),
        "SoftSign": sp.SoftSign(1.0),
        "Arctan": sp.ATan(1.0),
        "ERF": sp.Erf(1.0),
        "PiecewiseQuadratic": sp.PiecewiseQuadratic(1.0),
        "PiecewiseExp": sp.PiecewiseExp(1.0),
        "PiecewiseLeakyRelu": sp.PiecewiseLeakyRelu(0.01, 1.0),
        "LeakyRelu": sp.LeakyRelu(0.1, 1.0),
        "LogTailedRelu": sp.LogTailedRelu(0.0),
        "ReluGrad": sp.Triangle(0.3, 1.0),
        "GaussianGrad": sp.Gaussian(0.5, 0.5),
        "MultiGaussianGrad": sp.MultiGaussian(0.15, 6.0, 0.5, 0.5),
        "InvSquareGrad": sp.FastSigmoid(100.0),
        "SlayerGrad": sp.Slayer(1.0),
        "NonzeroSignLog": sp.AbsReciprocal(1.0),
        "SquarewaveFourierSeries": sp.SquarewaveFourier(8.0, 2),
        "S2NN": sp.S2NN(4.0, 1.0),
        "QPseudoSpike": sp.QPseudoSpike(2.0, shift=1.0),
    },
}


def surrogate_of(words: str) -> sp.AbstractSurrogate | None:
    """The surrogate that a manifest describes, with its rule for ties; None if it is one that we do not draw.

    Readouts have none: any will do.
    """
    if words.strip() in ("none", "-"):
        return sp.FastSigmoid()
    tie = ">=" if "H(x>=0)" in words else ">"
    name = re.match(r"\s*([A-Za-z_]+)", words)
    constants = [float(value) for value in re.findall(r"=\s*(\d+\.?\d*|\.\d+)", words.split(")")[0])]
    make = _NAMED.get(name.group(1).lower()) if name else None
    if make is None:
        return None
    ignored = "IGNORED" in words  # Norse's slope
    return sp.with_tie(make() if ignored or not constants else make(*constants), tie)


_NAMED: dict[str, Callable[..., sp.AbstractSurrogate]] = {
    "atan": lambda alpha=2.0: sp.ATan(alpha),
    "fast_sigmoid": lambda slope=25.0: sp.FastSigmoid(slope),
    "sigmoid": lambda slope=4.0: sp.Sigmoid(slope),
    "ste": lambda: sp.StraightThrough(),
    "straight_through": lambda: sp.StraightThrough(),
    "spike_rate_escape": lambda beta=1.0, slope=25.0: sp.SpikeRateEscape(beta, slope),
    "superspike": lambda k=1.0: sp.FastSigmoid(k),
    "fastsigmoid": lambda slope=25.0: sp.FastSigmoid(slope),
    "relugrad": lambda alpha=0.3, width=1.0: sp.Triangle(alpha, width),
    "softsign": lambda alpha=2.0: sp.SoftSign(alpha),
    "piecewisequadratic": lambda alpha=1.0: sp.PiecewiseQuadratic(alpha),
    "erf": lambda alpha=2.0: sp.Erf(alpha),
}
