"""A neuron whose postsynaptic potential is a difference of exponentials."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._cell import AbstractCell
from ._decay import Factor
from ._neuron import Input, as_size, check_input, out_dtype, zeros
from ._parameter import ParameterLike, concrete, require, require_fits, resolve
from ._surrogate import AbstractSurrogate, spike
from ._surrogate_curves import ATan
from ._units import Constant, Step, in_ms, plain


class AlphaState(eqx.Module):
    """State of `AlphaCell`."""

    excitation: Float[Array, "..."]
    inhibition: Float[Array, "..."]
    membrane: Float[Array, "..."]


class AlphaCell(AbstractCell[AlphaState]):
    r"""The spike-response neuron as snnTorch's `Alpha` defines it, with a soft reset of the next step.

    $e' = \alpha e + x$, $i' = \beta i - x$, $m' = \kappa (e' + i')$ with $\kappa = 1 + \frac{\ln\alpha}{\ln\beta -
    \ln\alpha}$ and $\alpha = e^{-\Delta t/\tau_{slow}} > \beta = e^{-\Delta t/\tau_{fast}}$; with $r$ the (detached)
    spikes of the step before, $v = m' + r\, i$, $e \leftarrow e' - r\theta$, $i \leftarrow (1 - r)\, i'$; spike where
    $v \ge \theta$. The kernel is a difference of exponentials, not a true alpha function, and the reset mixes the two
    filters: both are snnTorch's. For an alpha-function current put an alpha synapse before a `LIFCell`.

    ??? cite "Reference"
        snnTorch 1.0 `Alpha`; Gerstner & Kistler, Spiking Neuron Models, 2002, section 4.2.
    """

    tau_slow: ParameterLike  # ms
    tau_fast: ParameterLike  # ms
    threshold: ParameterLike  # mV
    surrogate: AbstractSurrogate
    dt: float  # ms
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, ...],
        tau_slow: Constant = 10.0,
        tau_fast: Constant = 5.0,
        *,
        threshold: Constant = 1.0,
        surrogate: AbstractSurrogate = ATan(2.0, tie=">"),
        dt: Step = 1.0,
    ):
        """**Arguments:** `size`: neurons; `tau_slow` > `tau_fast`: time constants, ms; `threshold`; `dt`: ms.

        **Raises:** `ValueError` for constants that are not positive, or `tau_slow` not above `tau_fast`.
        """
        self.size = as_size(size)
        self.tau_slow, self.tau_fast = plain(tau_slow, "ms"), plain(tau_fast, "ms")
        self.threshold = plain(threshold, "mV")
        self.surrogate, self.dt = surrogate, in_ms(dt)

    def __check_init__(self):
        require(self.dt, "dt", above=0.0)
        for name in ("tau_slow", "tau_fast", "threshold"):
            require(getattr(self, name), name, above=0.0)
            require_fits(getattr(self, name), name, self.size)
        slow, fast = concrete(self.tau_slow), concrete(self.tau_fast)
        if slow is not None and fast is not None and (slow <= fast).any():
            raise ValueError(
                f"`tau_slow` must be above `tau_fast`; got {float(slow.min()):g} and {float(fast.max()):g} ms."
            )

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> AlphaState:
        """All zero, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        return AlphaState(empty, empty, empty)

    @jax.named_scope("eqx_dynamics.AlphaCell")
    def __call__(
        self, x: Input, state: AlphaState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], AlphaState]:
        """One step: input `(*batch, *size)` to spikes of the same shape, 0. or 1., and the new state."""
        drive = check_input("AlphaCell", x, self.size, state.membrane)
        tau_slow, tau_fast = resolve(self.tau_slow, drive), resolve(self.tau_fast, drive)
        threshold = resolve(self.threshold, drive)
        fired = jax.lax.stop_gradient(spike(self.surrogate, state.membrane - threshold))
        excitation = self._keep(tau_slow) * state.excitation + drive
        inhibition = self._keep(tau_fast) * state.inhibition - drive
        scale = 1 + (1 / tau_slow) / (1 / tau_fast - 1 / tau_slow)
        membrane = scale * (excitation + inhibition) + fired * state.inhibition
        spikes = spike(self.surrogate, membrane - threshold, key=key)
        return out_dtype(x, spikes), AlphaState(excitation - fired * threshold, (1 - fired) * inhibition, membrane)

    def _keep(self, tau: Factor) -> Factor:
        return jnp.exp(-self.dt / tau)
