"""Which of our surrogates draws which curve of the five libraries."""

import inspect
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import eqx_dynamics.spiking as sp


def curves(library: str, entry: dict[str, Any], keys: Iterable[str]) -> dict[str, sp.AbstractSurrogate]:
    """Our surrogates for those keys of a file of curves that name one, with the constants that the manifest writes."""
    tie = ">=" if library in ("spikingjelly", "braintools") else ">"
    built = {key: _build(library, key, entry.get("equation")) for key in keys}
    return {key: sp.with_tie(surrogate, tie) for key, surrogate in built.items() if surrogate is not None}


def surrogate_of(words: str, library: str) -> sp.AbstractSurrogate | None:
    """The surrogate that a manifest describes, with its rule for ties; None if it is one that we do not draw.

    Readouts have none: any will do.
    """
    if words.strip() in ("none", "-"):
        return sp.FastSigmoid()
    name = re.match(r"\s*([A-Za-z_0-9]+)", words)
    make = _of(library).get(name.group(1).lower()) if name else None
    if make is None:
        return None
    return sp.with_tie(_call(make, words.split(")")[0]), ">=" if "H(x>=0)" in words else ">")


def _of(library: str) -> dict[str, Callable[..., sp.AbstractSurrogate]]:
    return _NAMED.get({"brainpy": "braintools", "brainstate": "braintools"}.get(library, library), {})


def _call(make: Callable[..., sp.AbstractSurrogate], words: str) -> sp.AbstractSurrogate:
    """`make` with those constants among the words, `name=number`, that it knows; a single one goes by any name."""
    constants = re.findall(r"([A-Za-z_]+)\s*=\s*(-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)", words)
    known = list(inspect.signature(make).parameters)
    if len(constants) == len(known) == 1:
        return make(float(constants[0][1]))
    return make(**{name: float(value) for name, value in constants if name in known})


def _below(width: float) -> float:
    """The next smaller float32: SpikingJelly's leaky curve is flat where its width begins."""
    return float(np.nextafter(np.float32(width), np.float32(0)))


def _build(library: str, key: str, equations: Any) -> sp.AbstractSurrogate | None:
    """A curve from its key, which may end in a constant (`triangle_0.3`), and the constants written for it."""
    stem, _, suffix = key.rpartition("_")
    if suffix.replace(".", "", 1).isdigit():
        make, written = _of(library).get(stem.lower()), f"constant={suffix}"
    else:
        make, written = _of(library).get(key.lower()), equations.get(key, "") if isinstance(equations, dict) else ""
    if isinstance(written, dict):
        written = ", ".join(f"{name}={value}" for name, value in written.items())
    elif library != "braintools" and not suffix.replace(".", "", 1).isdigit():
        written = ""  # A formula, with the library's own constants.
    return None if make is None else _call(make, written)


_NAMED: dict[str, dict[str, Callable[..., sp.AbstractSurrogate]]] = {
    "snntorch": {
        "atan": lambda alpha=2.0: sp.ATan(alpha),
        "fast_sigmoid": lambda slope=25.0: sp.FastSigmoid(slope),
        "sigmoid": lambda slope=25.0: sp.Sigmoid(slope),
        "ste": lambda: sp.StraightThrough(),
        "straight_through": lambda: sp.StraightThrough(),
        "spike_rate_escape": lambda beta=1.0, slope=25.0: sp.SpikeRateEscape(beta, slope),
        "sfs": lambda slope=25.0, B=1.0: sp.SparseFastSigmoid(slope, B),
        "sfs_b0": lambda slope=25.0: sp.SparseFastSigmoid(slope, 0.0),
    },
    "norse": {  # `super` ignores its slope.
        "super": lambda alpha=100.0: sp.FastSigmoid(1.0),
        "superspike": lambda alpha=100.0: sp.FastSigmoid(1.0),
        "triangle": lambda alpha=0.3: sp.Triangle(alpha, 1.0),
        "tanh": lambda k=1.0: sp.Tanh(k),
        "circ": lambda a=1.0: sp.Circle(a),
        "heavi_erfc": lambda k=1.0: sp.Scaled(sp.Erf(k), 2 / k),
    },
    "spikingjelly": {  # Its leaky curve leaks at |x| = w itself, its series of n terms has n - 1.
        "atan": lambda alpha=2.0: sp.ATan(alpha),
        "sigmoid": lambda alpha=4.0: sp.Sigmoid(alpha),
        "softsign": lambda alpha=2.0: sp.SoftSign(alpha),
        "piecewisequadratic": lambda alpha=1.0: sp.PiecewiseQuadratic(alpha),
        "piecewiseexp": lambda alpha=1.0: sp.PiecewiseExp(alpha),
        "erf": lambda alpha=2.0: sp.Erf(alpha),
        "leakykrelu": lambda leak=0.0, k=1.0: sp.LeakyRelu(leak, k),
        "nonzerosignlogabs": lambda alpha=1.0: sp.AbsReciprocal(alpha),
        "piecewiseleakyrelu": lambda w=1.0, c=0.01: sp.PiecewiseLeakyRelu(c, _below(w)),
        "qpseudospike": lambda alpha=2.0: sp.QPseudoSpike(alpha),
        "s2nn": lambda alpha=4.0, beta=1.0: sp.S2NN(alpha, beta),
        "squarewavefourierseries": lambda n=2.0, T_period=8.0: sp.SquarewaveFourier(T_period, round(n) - 1),
        "logtailedrelu": lambda alpha=0.0: sp.LogTailedRelu(alpha),
        "rect": lambda alpha=1.0: sp.Boxcar(0.5 / alpha, alpha),
        "superspike": lambda alpha=1.0: sp.Scaled(sp.FastSigmoid(1.0), alpha),
    },
    "spyx": {
        "superspike": lambda k=25.0: sp.FastSigmoid(k),
        "arctan": lambda k=2.0: sp.Scaled(sp.ATan(2 * k), 1 / (k * math.pi)),
        "tanh": lambda k=1.0: sp.Tanh(k),
        "boxcar": lambda width=2.0, height=0.5: sp.Boxcar(width / 2, height),
        "triangular": lambda k=2.0: sp.Triangle(k, 1 / k),
        "custom_ste": lambda: sp.StraightThrough(),
        "custom_default": lambda: sp.DerivativeOf(lambda x: x**2 / 2),
    },
    "braintools": {
        "sigmoid": lambda alpha=4.0: sp.Sigmoid(alpha),
        "softsign": lambda alpha=1.0: sp.SoftSign(alpha),
        "arctan": lambda alpha=1.0: sp.ATan(alpha),
        "erf": lambda alpha=1.0: sp.Erf(alpha),
        "piecewisequadratic": lambda alpha=1.0: sp.PiecewiseQuadratic(alpha),
        "piecewiseexp": lambda alpha=1.0: sp.PiecewiseExp(alpha),
        "piecewiseleakyrelu": lambda c=0.01, w=1.0: sp.PiecewiseLeakyRelu(c, w),
        "leakyrelu": lambda alpha=0.1, beta=1.0: sp.LeakyRelu(alpha, beta),
        "logtailedrelu": lambda alpha=0.0: sp.LogTailedRelu(alpha),
        "relugrad": lambda alpha=0.3, width=1.0: sp.Triangle(alpha, width),
        "gaussiangrad": lambda sigma=0.5, alpha=0.5: sp.Gaussian(sigma, alpha),
        "multigaussiangrad": lambda h=0.15, s=6.0, sigma=0.5, scale=0.5: sp.MultiGaussian(h, s, sigma, scale),
        "invsquaregrad": lambda alpha=100.0: sp.FastSigmoid(alpha),
        "slayergrad": lambda alpha=1.0: sp.Slayer(alpha),
        "nonzerosignlog": lambda alpha=1.0: sp.AbsReciprocal(alpha),
        "squarewavefourierseries": lambda n=2.0, t_period=8.0: sp.SquarewaveFourier(t_period, round(n)),
        "s2nn": lambda alpha=4.0, beta=1.0: sp.S2NN(alpha, beta),
        "qpseudospike": lambda alpha=2.0: sp.QPseudoSpike(alpha, shift=1.0),
    },
    "jaxpike": {
        "fastsigmoid": lambda slope=25.0: sp.FastSigmoid(slope),
        "atan": lambda alpha=2.0: sp.ATan(alpha),
        "triangular": lambda width=1.0: sp.Triangle(1 / width**2, width),
        "boxcar": lambda width=1.0: sp.Boxcar(width / 2, 1 / width),
    },
}
