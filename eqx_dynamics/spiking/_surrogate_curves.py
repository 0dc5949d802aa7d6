r"""The named surrogate curves, one class a formula; $x$ = membrane minus threshold.

Which library uses which curve, and where a library's curve differs from its own documentation, is in
`docs/spiking.md`; every class is tested against the curves those libraries produce.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._parameter import concrete
from ._surrogate import AbstractSurrogate


Number = Float[Array, ""] | float
Curve = Float[Array, "*shape"]


def _normal(x: Array, sigma: Number) -> Array:
    return jnp.exp(-(x**2) / (2 * sigma**2)) / (jnp.sqrt(2 * jnp.pi) * sigma)


class FastSigmoid(AbstractSurrogate):
    r"""$g' = 1 / (1 + k |x|)^2$ (Zenke & Ganguli, Neural Computation 2018, eq. 5: SuperSpike).

    snnTorch `fast_sigmoid`, spyx `superspike`, jaxpike `FastSigmoid` (k = 25), braintools `InvSquareGrad` (k = 100).
    Norse 1.1's `super` ignores its `alpha` and is always k = 1.
    """

    slope: Number = 25.0

    def derivative(self, x: Curve) -> Curve:
        return 1 / (1 + self.slope * jnp.abs(x)) ** 2


class AbsReciprocal(AbstractSurrogate):
    r"""$g' = 1 / (1 / a + |x|)$: braintools `NonzeroSignLog`; snnax's `superspike(b)` is this with a = b, over b."""

    slope: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return 1 / (1 / self.slope + jnp.abs(x))


class Sigmoid(AbstractSurrogate):
    r"""$g' = a\, \sigma(a x) (1 - \sigma(a x))$. snnTorch's is NaN for x < -3.5 at a = 25."""

    slope: Number = 4.0

    def derivative(self, x: Curve) -> Curve:
        s = jax.nn.sigmoid(self.slope * x)
        return self.slope * s * (1 - s)


class SoftSign(AbstractSurrogate):
    r"""$g' = \frac{a}{2} (1 + |a x|)^{-2}$."""

    slope: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return self.slope / 2 / (1 + jnp.abs(self.slope * x)) ** 2


class ATan(AbstractSurrogate):
    r"""$g' = \frac{a}{2} / (1 + (\frac{\pi}{2} a x)^2)$ (Fang et al., ICCV 2021). snnTorch's default, a = 2.

    spyx's `arctan(k)` is $1 / (\pi (1 + (k \pi x)^2))$: `Scaled(ATan(2 * k), 1 / (k * pi))`.
    """

    slope: Number = 2.0

    def derivative(self, x: Curve) -> Curve:
        return self.slope / 2 / (1 + (jnp.pi / 2 * self.slope * x) ** 2)


class Erf(AbstractSurrogate):
    r"""$g' = \frac{a}{\sqrt\pi} e^{-(a x)^2}$. Norse's `heavi_erfc(k)` is `Scaled(Erf(k), 2 / k)`."""

    slope: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return self.slope / jnp.sqrt(jnp.pi) * jnp.exp(-((self.slope * x) ** 2))


class Tanh(AbstractSurrogate):
    r"""$g' = 1 - \tanh^2(k x)$. Norse `tanh`; spyx `tanh` writes the same curve as $4 / (e^{-kx} + e^{kx})^2$."""

    slope: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return 1 - jnp.tanh(self.slope * x) ** 2


class Circle(AbstractSurrogate):
    r"""$g' = a^3 / (a^2 + x^2)^{3/2}$: Norse `circ`."""

    radius: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return (1 + (x / self.radius) ** 2) ** -1.5


class PiecewiseQuadratic(AbstractSurrogate):
    r"""$g' = \max(0, a - a^2 |x|)$, the triangle of area 1. BrainState 2024's $-(a x)^2 + a$ was a mistake."""

    slope: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return jax.nn.relu(self.slope - self.slope**2 * jnp.abs(x))


class Triangle(AbstractSurrogate):
    r"""$g' = \max(0, a (w - |x|))$ (Bellec et al., NeurIPS 2018). braintools `ReluGrad` (BrainState's default).

    Norse `triangle(a)` is width 1; spyx `triangular` is height 2, width 0.5. snnTorch's `triangular` is no triangle but
    a sign (+threshold below, -threshold above) and is not offered.
    """

    height: Number = 0.3
    width: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return self.height * jax.nn.relu(self.width - jnp.abs(x))


class PiecewiseExp(AbstractSurrogate):
    r"""$g' = \frac{a}{2} e^{-a |x|}$ (Laplace density)."""

    slope: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return self.slope / 2 * jnp.exp(-self.slope * jnp.abs(x))


class Slayer(AbstractSurrogate):
    r"""$g' = e^{-a |x|}$ (Shrestha & Orchard, NeurIPS 2018)."""

    slope: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return jnp.exp(-self.slope * jnp.abs(x))


class SpikeRateEscape(AbstractSurrogate):
    r"""$g' = k\, e^{-\beta |x - 1|}$: snnTorch `spike_rate_escape`, whose curve peaks one unit above threshold."""

    beta: Number = 1.0
    slope: Number = 25.0

    def derivative(self, x: Curve) -> Curve:
        return self.slope * jnp.exp(-self.beta * jnp.abs(x - 1))


class SparseFastSigmoid(AbstractSurrogate):
    r"""$g' = H(x - B) / (1 + k |x|)^2$ (Perez-Nieves & Goodman, NeurIPS 2021): snnTorch `SFS`."""

    slope: Number = 25.0
    bound: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return jnp.where(x > self.bound, 1 / (1 + self.slope * jnp.abs(x)) ** 2, 0)


class Boxcar(AbstractSurrogate):
    r"""$g' = h$ where $|x| < w$, else 0. spyx `boxcar`: w = 1, h = 0.5; SpikingJelly `Rect(1)`: w = 0.5, h = 1."""

    width: Number = 1.0
    height: Number = 0.5

    def derivative(self, x: Curve) -> Curve:
        return jnp.where(jnp.abs(x) < self.width, self.height, 0 * x)


class PiecewiseLeakyRelu(AbstractSurrogate):
    r"""$g' = 1/(2w)$ for $|x| \le w$, else the leak $c$."""

    leak: Number = 0.01
    width: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return jnp.where(jnp.abs(x) > self.width, self.leak + 0 * x, 1 / (2 * self.width))


class LeakyRelu(AbstractSurrogate):
    r"""$g' = b$ for $x \ge 0$, else $a$. SpikingJelly `LeakyKReLU(leak=a, k=b)`.

    snnTorch's `LSO(slope)` was meant to be this with b = 1; it raises a TypeError there.
    """

    below: Number = 0.1
    above: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        return jnp.where(x < 0, self.below + 0 * x, self.above)


class LogTailedRelu(AbstractSurrogate):
    r"""$g' = a$ for $x \le 0$, $1$ for $0 < x \le 1$, $1/x$ above (Cai et al., CVPR 2017)."""

    leak: Number = 0.0

    def derivative(self, x: Curve) -> Curve:
        return jnp.where(x > 1, 1 / jnp.where(x > 1, x, 1), jnp.where(x > 0, 1.0, self.leak + 0 * x))


class Gaussian(AbstractSurrogate):
    r"""$g' = a\, N(x; 0, \sigma^2)$ (Yin et al. 2021). BrainState 2024 multiplied by $\sigma^2$ by mistake."""

    sigma: Number = 0.5
    height: Number = 0.5

    def derivative(self, x: Curve) -> Curve:
        return self.height * _normal(x, self.sigma)


class MultiGaussian(AbstractSurrogate):
    r"""$g' = c\,[(1 + h) N(x; 0, \sigma^2) - h N(x; \sigma, s^2\sigma^2) - h N(x; -\sigma, s^2\sigma^2)]$."""

    h: Number = 0.15
    s: Number = 6.0
    sigma: Number = 0.5
    scale: Number = 0.5

    def derivative(self, x: Curve) -> Curve:
        sides = _normal(x - self.sigma, self.s * self.sigma) + _normal(x + self.sigma, self.s * self.sigma)
        return self.scale * ((1 + self.h) * _normal(x, self.sigma) - self.h * sides)


class SquarewaveFourier(AbstractSurrogate):
    r"""$g' = \frac{4}{T} \sum_{i=1}^{n} \cos(2 \pi (2 i - 1) x / T)$: a square wave's Fourier series, derived."""

    period: Number = 8.0
    num_terms: int = eqx.field(static=True, default=2)

    def derivative(self, x: Curve) -> Curve:
        turns = x / self.period
        turns = turns - jnp.round(turns)  # Far from threshold a cosine of half precision would be that of infinity.
        waves = [jnp.cos(2 * jnp.pi * (2 * i - 1) * turns) for i in range(1, self.num_terms + 1)]
        return 4 / self.period * sum(waves[1:], waves[0])


class S2NN(AbstractSurrogate):
    r"""$g' = a\, \sigma(a x)(1 - \sigma(a x))$ below threshold, $b / (x + 1)$ above (Suetake et al. 2022)."""

    slope: Number = 4.0
    tail: Number = 1.0

    def derivative(self, x: Curve) -> Curve:
        s = jax.nn.sigmoid(self.slope * x)
        return jnp.where(x < 0, self.slope * s * (1 - s), self.tail / (jnp.maximum(x, 0) + 1))


class QPseudoSpike(AbstractSurrogate):
    r"""$g' = (1 + \frac{2 |x|}{q + c})^{-q}$ (Herranz-Celotti & Rouat 2022, with c = -1): q sets the tail.

    SpikingJelly has the paper's $c = -1$, braintools $c = 1$.
    """

    order: Number = 2.0
    shift: Number = -1.0

    def __check_init__(self):
        order, shift = concrete(self.order), concrete(self.shift)
        if order is not None and shift is not None and not (order + shift > 0).all():
            raise ValueError(f"`order` must be above {-float(shift.min()):g}; got {float(order.min()):g}.")

    def derivative(self, x: Curve) -> Curve:
        return (1 + 2 / (self.order + self.shift) * jnp.abs(x)) ** -self.order
