"""A neuron whose postsynaptic potential is a difference of exponentials."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._decay import Factor
from ._neuron import AbstractSpikingCell, Input, as_size, check_input, out_dtype, zeros
from ._parameter import ParameterLike, concrete, require, require_fits, require_step, resolve
from ._surrogate import AbstractSurrogate, check_deterministic, spike
from ._surrogate_curves import ATan
from ._units import Constant, Step, in_ms, plain


class AlphaState(eqx.Module):
    """State of `AlphaCell`."""

    excitation: Float[Array, "..."]
    inhibition: Float[Array, "..."]
    membrane: Float[Array, "..."]


class AlphaCell(AbstractSpikingCell[AlphaState]):
    r"""The spike-response neuron as snnTorch's `Alpha` defines it, reset in the step after a spike.

    $e' = \alpha e + x$, $i' = \beta i - x$, $m' = \kappa (e' + i')$ with $\kappa = 1 + \frac{\ln\alpha}{\ln\beta -
    \ln\alpha}$ and $\alpha = e^{-\Delta t/\tau_{slow}} > \beta = e^{-\Delta t/\tau_{fast}}$; with $r$ the (detached)
    spikes of the step before, $v = m' + r\, i$, $e \leftarrow e' - r\theta$, $i \leftarrow (1 - r)\, i'$; spike where
    $v \ge \theta$. A reset to zero empties $e$, $i$ and $v$ instead, input of the step included. The kernel is a
    difference of exponentials, not a true alpha function, and the soft reset mixes the two filters: both are
    snnTorch's. For an alpha-function current put an alpha synapse before a `LIFCell`.

    ??? cite "Reference"
        snnTorch 1.0 `Alpha`; Gerstner & Kistler, Spiking Neuron Models, 2002, section 4.2.
    """

    tau_slow: ParameterLike  # ms
    tau_fast: ParameterLike  # ms
    threshold: ParameterLike  # mV
    surrogate: AbstractSurrogate
    dt: float  # ms
    reset_mechanism: Literal["subtract", "zero", "none"] = eqx.field(static=True)
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, ...],
        tau_slow: Constant = 10.0,
        tau_fast: Constant = 5.0,
        *,
        threshold: Constant = 1.0,
        reset_mechanism: Literal["subtract", "zero", "none"] = "subtract",
        surrogate: AbstractSurrogate = ATan(2.0, tie=">"),
        dt: Step = 1.0,
    ):
        """**Arguments:** `size`: neurons; `tau_slow` > `tau_fast`: time constants, ms; `threshold`;
        `reset_mechanism`: snnTorch's; `dt`: ms.

        **Raises:** `ValueError` for constants that are not positive, `tau_slow` not above `tau_fast`, or a surrogate
        that draws.
        """
        self.size = as_size(size)
        self.tau_slow, self.tau_fast = plain(tau_slow, "ms"), plain(tau_fast, "ms")
        self.threshold = plain(threshold, "mV")
        self.surrogate, self.dt, self.reset_mechanism = surrogate, in_ms(dt), reset_mechanism

    def __check_init__(self):
        require_step(self.dt)
        check_deterministic(self.surrogate, "AlphaCell")
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
        membrane = scale * (excitation + inhibition)
        if self.reset_mechanism == "subtract":
            membrane = membrane + fired * state.inhibition
            excitation, inhibition = excitation - fired * threshold, (1 - fired) * inhibition
        elif self.reset_mechanism == "zero":
            excitation, inhibition, membrane = ((1 - fired) * part for part in (excitation, inhibition, membrane))
        spikes = spike(self.surrogate, membrane - threshold)
        return out_dtype(x, spikes), AlphaState(excitation, inhibition, membrane)

    def _keep(self, tau: Factor) -> Factor:
        return jnp.exp(-self.dt / tau)
