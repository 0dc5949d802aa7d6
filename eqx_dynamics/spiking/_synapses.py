"""Linear synapses: spikes in, a conductance out that rises and decays with fixed time constants."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._cell import AbstractCell
from ._neuron import Input, as_size, check_input, out_dtype, zeros
from ._parameter import ParameterLike, concrete, require, require_fits, require_step, resolve
from ._units import Constant, Step, in_ms, plain


class ExponentialState(eqx.Module):
    """State of `ExponentialSynapse`."""

    conductance: Float[Array, "..."]


class ExponentialSynapse(AbstractCell[ExponentialState]):
    r"""A jump at each spike, then exponential decay: $g \leftarrow e^{-\Delta t / \tau} g + x$."""

    tau: ParameterLike  # ms
    dt: float  # ms
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, size: int | tuple[int, ...], tau: Constant = 8.0, *, dt: Step = 1.0):
        """**Arguments:**

        - `size`: number of synapses, or their shape.
        - `tau`: time constant of the decay, ms; one value or one per synapse.
        - `dt`: length of a step, ms.

        **Raises:** `ValueError` for a `tau` or `dt` that is not positive, or a `tau` that does not fit `size`.
        """
        self.size, self.tau, self.dt = as_size(size), plain(tau, "ms"), in_ms(dt)

    def __check_init__(self):
        check_constants(self.size, self.dt, tau=self.tau)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> ExponentialState:
        """Closed, with `shape` as leading (batch) axes."""
        return ExponentialState(zeros(shape, self.size))

    @jax.named_scope("eqx_dynamics.ExponentialSynapse")
    def __call__(
        self, x: Input, state: ExponentialState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], ExponentialState]:
        """One step: spikes or their weighted sum `(*batch, *size)` to the conductance, that spike included."""
        jump = check_input("ExponentialSynapse", x, self.size, state.conductance)
        conductance = kept(self.dt, self.tau, jump) * state.conductance + jump
        return out_dtype(x, conductance), ExponentialState(conductance)


class DualExponentialState(eqx.Module):
    """State of `DualExponentialSynapse`."""

    rise: Float[Array, "..."]
    decay: Float[Array, "..."]


class DualExponentialSynapse(AbstractCell[DualExponentialState]):
    r"""A difference of exponentials: $g = A\,(d - r)$ with $d \leftarrow e^{-\Delta t/\tau_d} d + x$, $r$ likewise.

    $A = \frac{\tau_d}{\tau_d - \tau_r} \left(\frac{\tau_r}{\tau_d}\right)^{\tau_r / (\tau_r - \tau_d)}$ makes 1 the
    peak of the response to one spike, in continuous time.
    """

    tau_rise: ParameterLike  # ms
    tau_decay: ParameterLike  # ms
    dt: float  # ms
    normalize: bool = eqx.field(static=True)
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, ...],
        tau_rise: Constant = 1.0,
        tau_decay: Constant = 10.0,
        *,
        normalize: bool = True,
        dt: Step = 1.0,
    ):
        """**Arguments:** as for `ExponentialSynapse`; `normalize`: whether the peak is 1 (or $A = 1$).

        **Raises:** `ValueError` as there, or unless `tau_decay` is above `tau_rise`.
        """
        self.size, self.tau_rise, self.tau_decay = as_size(size), plain(tau_rise, "ms"), plain(tau_decay, "ms")
        self.normalize, self.dt = normalize, in_ms(dt)

    def __check_init__(self):
        check_constants(self.size, self.dt, tau_rise=self.tau_rise, tau_decay=self.tau_decay)
        rise, decay = concrete(self.tau_rise), concrete(self.tau_decay)
        if rise is not None and decay is not None and (decay <= rise).any():
            raise ValueError(
                f"`tau_decay` must be above `tau_rise`; got {float(decay.min()):g} and {float(rise.max()):g} ms. Use "
                "`AlphaSynapse` for equal ones."
            )

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> DualExponentialState:
        """Closed, with `shape` as leading (batch) axes."""
        return DualExponentialState(zeros(shape, self.size), zeros(shape, self.size))

    @jax.named_scope("eqx_dynamics.DualExponentialSynapse")
    def __call__(
        self, x: Input, state: DualExponentialState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], DualExponentialState]:
        """One step: spikes or their weighted sum `(*batch, *size)` to the conductance."""
        jump = check_input("DualExponentialSynapse", x, self.size, state.rise)
        rise = kept(self.dt, self.tau_rise, jump) * state.rise + jump
        decay = kept(self.dt, self.tau_decay, jump) * state.decay + jump
        conductance = (decay - rise) * self._amplitude(jump)
        return out_dtype(x, conductance), DualExponentialState(rise, decay)

    def _amplitude(self, like: Array) -> Array | float:
        if not self.normalize:
            return 1.0
        rise = jnp.asarray(resolve(self.tau_rise, like), like.dtype)
        decay = jnp.asarray(resolve(self.tau_decay, like), like.dtype)
        rise, decay = jnp.broadcast_arrays(*_same_rank(rise, decay, like.ndim))
        return decay / (decay - rise) * jnp.exp(rise / (rise - decay) * jnp.log(rise / decay))


class AlphaSynapseState(eqx.Module):
    """State of `AlphaSynapse`."""

    conductance: Float[Array, "..."]
    drive: Float[Array, "..."]


class AlphaSynapse(AbstractCell[AlphaSynapseState]):
    r"""An alpha function: $\tau \dot g = -g + h$, $\tau \dot h = -h + \tau \sum \delta(t - t_s)$.

    Solved exactly, the response to a spike is $\frac{t}{\tau} e^{-t/\tau}$, with its peak $1/e$ after $\tau$ ms.
    """

    tau: ParameterLike  # ms
    exact: bool = eqx.field(static=True)
    dt: float  # ms
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, size: int | tuple[int, ...], tau: Constant = 8.0, *, exact: bool = True, dt: Step = 1.0):
        r"""**Arguments:** as for `ExponentialSynapse`; `exact`: False holds $h$ during a step (exponential Euler, as
        brainpy.state does), which errs by about $\Delta t / 2 \tau$.

        **Raises:** `ValueError` as there.
        """
        self.size, self.tau, self.exact, self.dt = as_size(size), plain(tau, "ms"), exact, in_ms(dt)

    def __check_init__(self):
        check_constants(self.size, self.dt, tau=self.tau)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> AlphaSynapseState:
        """Closed, with `shape` as leading (batch) axes."""
        return AlphaSynapseState(zeros(shape, self.size), zeros(shape, self.size))

    @jax.named_scope("eqx_dynamics.AlphaSynapse")
    def __call__(
        self, x: Input, state: AlphaSynapseState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "..."], AlphaSynapseState]:
        """One step: spikes or their weighted sum `(*batch, *size)` to the conductance; a spike shows one step later."""
        jump = check_input("AlphaSynapse", x, self.size, state.drive)
        beta = kept(self.dt, self.tau, jump)
        gain = beta * (self.dt / resolve(self.tau, jump)) if self.exact else 1 - beta
        conductance = beta * state.conductance + gain * state.drive
        return out_dtype(x, conductance), AlphaSynapseState(conductance, beta * state.drive + jump)


def kept(dt: float, tau: ParameterLike, like: Array) -> Array:
    r"""$e^{-\Delta t / \tau}$ in the dtype of `like`."""
    return jnp.exp(-dt / jnp.asarray(resolve(tau, like), like.dtype))


def check_constants(size: tuple[int, ...], dt: float, **constants: ParameterLike) -> None:
    """Raise a `ValueError` unless the step and the constants (ms or per ms) are positive and fit `size`."""
    require_step(dt)
    for name, constant in constants.items():
        unit = "ms" if name.startswith("tau") or name == "duration" else ""
        require(constant, name, above=0.0, unit=unit, remedy="Learn it as `Positive(...)` to keep it so.")
        require_fits(constant, name, size)


def _same_rank(a: Array, b: Array, ndim: int) -> tuple[Array, Array]:
    return a.reshape((1,) * (ndim - a.ndim) + a.shape), b.reshape((1,) * (ndim - b.ndim) + b.shape)
