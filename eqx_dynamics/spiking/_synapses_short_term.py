"""Short-term plasticity: what a synapse releases depends on its last spikes."""

from typing import Literal, TypeAlias

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._cell import AbstractCell
from ._decay import AbstractDecay, ExactDecay
from ._neuron import Input, as_size, check_input, out_dtype, zeros
from ._parameter import ParameterLike, require, resolve
from ._synapses import check_constants
from ._synapses_kinetic import binary
from ._units import Constant, Step, in_ms, plain


Jumps: TypeAlias = Literal["after_decay", "before_decay", "brainstate"]


class STPState(eqx.Module):
    """State of `STPSynapse`."""

    utilization: Float[Array, "..."]
    resources: Float[Array, "..."]


class STPSynapse(AbstractCell[STPState]):
    r"""Tsodyks and Markram's synapse: facilitation $u$ and depression $x$, releasing $u\,x$ at a spike.

    Between spikes $\dot u = -u / \tau_f$ and $\dot x = (1 - x) / \tau_d$; at a spike $u \leftarrow u + U (1 - u)$,
    then $u\,x$ is released and taken from $x$.

    ??? cite "Reference"
        Tsodyks, Pawelzik and Markram, Neural networks with dynamic synapses, Neural Computation 10, 1998, eqs. 2.1-2.4.
    """

    increment: ParameterLike
    tau_facilitation: ParameterLike  # ms
    tau_recovery: ParameterLike  # ms
    decay: AbstractDecay
    dt: float  # ms
    jumps: Jumps = eqx.field(static=True)
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, ...],
        *,
        increment: ParameterLike = 0.15,
        tau_facilitation: Constant = 1500.0,
        tau_recovery: Constant = 200.0,
        decay: AbstractDecay = ExactDecay(),
        jumps: Jumps = "after_decay",
        dt: Step = 1.0,
    ):
        r"""**Arguments:**

        - `size`: number of synapses, or their shape.
        - `increment`: $U$, in $(0, 1]$, also the utilization to start from.
        - `tau_facilitation`, `tau_recovery`: $\tau_f, \tau_d$, ms.
        - `decay`: `ExactDecay` or `EulerDecay`.
        - `jumps`: from which values a spike's jumps start: "after_decay" (exact for spikes at the end of a step),
          "before_decay" (Norse), or "brainstate", which releases from the recovered resources but takes it from those
          before, so that a little is made of nothing.
        - `dt`: length of a step, ms.

        **Raises:** `ValueError` for constants that are not positive, above 1 (`increment`) or do not fit `size`, or a
        `dt` beyond the Euler bound.
        """
        self.size, self.increment = as_size(size), increment
        self.tau_facilitation, self.tau_recovery = plain(tau_facilitation, "ms"), plain(tau_recovery, "ms")
        self.decay, self.jumps, self.dt = decay, jumps, in_ms(dt)

    def __check_init__(self):
        taus = {"tau_facilitation": self.tau_facilitation, "tau_recovery": self.tau_recovery}
        check_constants(self.size, self.dt, increment=self.increment, **taus)
        require(self.increment, "increment", up_to=1.0, unit="")
        for name, tau in taus.items():
            self.decay.check(self.dt, tau, name)

    @classmethod
    def like_brainstate(cls, size: int | tuple[int, ...], *, dt: Step = 1.0) -> "STPSynapse":
        """brainpy.state's `STP` with its constants."""
        return cls(size, jumps="brainstate", dt=dt)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> STPState:
        """Rested: $u = U$, $x = 1$, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        return STPState(empty + resolve(self.increment, empty), empty + 1)

    @jax.named_scope("eqx_dynamics.STPSynapse")
    def __call__(
        self, x: Input, state: STPState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], STPState]:
        """One step: spikes (0 or 1) `(*batch, *size)` to what is released. A run-time error for other values."""
        spikes = binary("STPSynapse", check_input("STPSynapse", x, self.size, state.resources))
        u, resources = state.utilization, state.resources
        u_decayed = u * self.decay.factor(self.dt, resolve(self.tau_facilitation, u))
        recovered = 1 + (resources - 1) * self.decay.factor(self.dt, resolve(self.tau_recovery, u))
        u_base, x_base = (u_decayed, recovered) if self.jumps == "after_decay" else (u, resources)
        u_new = u_decayed + resolve(self.increment, u) * (1 - u_base) * spikes
        out = u_new * (resources if self.jumps == "before_decay" else recovered) * spikes
        return out_dtype(x, out), STPState(u_new, recovered - u_new * x_base * spikes)


class STDState(eqx.Module):
    """State of `STDSynapse`."""

    resources: Float[Array, "..."]


class STDSynapse(AbstractCell[STDState]):
    r"""Short-term depression alone: $\dot x = (1 - x) / \tau$; a spike releases $x$ and takes $U x$ away.

    ??? cite "Reference"
        Abbott, Varela, Sen and Nelson, Synaptic depression and cortical gain control, Science 275, 1997.
    """

    increment: ParameterLike
    tau: ParameterLike  # ms
    decay: AbstractDecay
    dt: float  # ms
    jumps: Jumps = eqx.field(static=True)
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, ...],
        *,
        increment: ParameterLike = 0.07,
        tau: Constant = 200.0,
        decay: AbstractDecay = ExactDecay(),
        jumps: Jumps = "after_decay",
        dt: Step = 1.0,
    ):
        """**Arguments:** as for `STPSynapse`; `increment`: the fraction $U$ that a spike uses up; `tau`: ms.

        **Raises:** `ValueError` as there.
        """
        self.size, self.increment, self.tau = as_size(size), increment, plain(tau, "ms")
        self.decay, self.jumps, self.dt = decay, jumps, in_ms(dt)

    def __check_init__(self):
        check_constants(self.size, self.dt, increment=self.increment, tau=self.tau)
        require(self.increment, "increment", up_to=1.0, unit="")
        self.decay.check(self.dt, self.tau, "tau")

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> STDState:
        """Rested: $x = 1$, with `shape` as leading (batch) axes."""
        return STDState(zeros(shape, self.size) + 1)

    @jax.named_scope("eqx_dynamics.STDSynapse")
    def __call__(
        self, x: Input, state: STDState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], STDState]:
        """One step: spikes (0 or 1) `(*batch, *size)` to what is released. A run-time error for other values."""
        spikes = binary("STDSynapse", check_input("STDSynapse", x, self.size, state.resources))
        before = state.resources
        recovered = 1 + (before - 1) * self.decay.factor(self.dt, resolve(self.tau, before))
        out = (before if self.jumps == "before_decay" else recovered) * spikes
        base = recovered if self.jumps == "after_decay" else before
        return out_dtype(x, out), STDState(recovered - resolve(self.increment, before) * base * spikes)
