"""Spike-timing-dependent plasticity as cells: spikes in, weights out, weights and traces in the state."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._cell import AbstractCell
from ._decay import AbstractDecay, AbstractInputGain, ConstantGain, EulerDecay, ExactDecay, LeakGain
from ._neuron import zeros
from ._parameter import ParameterLike, concrete, require, require_step, resolve
from ._units import Constant, Step, in_ms, plain


Spikes = Float[Array, "..."]


class AbstractBounds(eqx.Module):
    """How the size of a weight's change depends on the weight, and where weights end."""

    lower: eqx.AbstractVar[float]
    upper: eqx.AbstractVar[float]

    @abc.abstractmethod
    def potentiation(self, weight: Float[Array, "post pre"]) -> Float[Array, "post pre"]:
        """The factor of an increase."""

    @abc.abstractmethod
    def depression(self, weight: Float[Array, "post pre"]) -> Float[Array, "post pre"]:
        """The factor of a decrease."""


class HardBounds(AbstractBounds):
    """Additive plasticity: changes do not depend on the weight, which is clipped."""

    lower: float = 0.0
    upper: float = 1.0

    def potentiation(self, weight: Float[Array, "post pre"]) -> Float[Array, "post pre"]:
        return jnp.ones_like(weight)

    def depression(self, weight: Float[Array, "post pre"]) -> Float[Array, "post pre"]:
        return jnp.ones_like(weight)


class SoftBounds(AbstractBounds):
    r"""Multiplicative plasticity: $(w_{max} - w)^\mu$ up, $(w - w_{min})^\mu$ down; clipped as well.

    ??? cite "Reference"
        Gütig, Aharonov, Rotter and Sompolinsky, J. Neurosci. 23, 2003, eq. 2; $\mu = 1$ is van Rossum, Bi and
        Turrigiano's, 2000.
    """

    lower: float = 0.0
    upper: float = 1.0
    exponent: float = 1.0

    def potentiation(self, weight: Float[Array, "post pre"]) -> Float[Array, "post pre"]:
        return _power(self.upper - weight, self.exponent)

    def depression(self, weight: Float[Array, "post pre"]) -> Float[Array, "post pre"]:
        return _power(weight - self.lower, self.exponent)


class PairSTDPState(eqx.Module):
    """State of `PairSTDP`."""

    weight: Float[Array, "post pre"]
    trace_pre: Float[Array, "..."]
    trace_post: Float[Array, "..."]


class PairSTDP(AbstractCell[PairSTDPState]):
    r"""Pair-based STDP, every spike with every other: $\Delta w_{ij} = A_+ s_i r_j - A_- q_i s_j$.

    $r$ and $q$ are the spikes of the sending neurons $j$ and the receiving neurons $i$, filtered by exponentials of
    $\tau_+$ and $\tau_-$: a pair whose receiver fires $\delta$ ms later adds $A_+ e^{-\delta/\tau_+}$, one whose sender
    fires later takes $A_- e^{-\delta/\tau_-}$, and simultaneous spikes do both. Batches are summed.

    ??? cite "Reference"
        Song, Miller and Abbott, Nature Neuroscience 3, 2000; with traces: Morrison, Diesmann and Gerstner, Biological
        Cybernetics 98, 2008, section 4.1.
    """

    weight: Float[Array, "post pre"]
    rate_plus: ParameterLike
    rate_minus: ParameterLike
    tau_plus: ParameterLike  # ms
    tau_minus: ParameterLike  # ms
    bounds: AbstractBounds
    decay: AbstractDecay
    trace_gain: AbstractInputGain
    dt: float  # ms

    def __init__(
        self,
        weight: Float[Array, "post pre"],
        *,
        rate_plus: ParameterLike = 1e-3,
        rate_minus: ParameterLike = 1e-3,
        tau_plus: Constant = 20.0,
        tau_minus: Constant = 20.0,
        bounds: AbstractBounds = HardBounds(),
        decay: AbstractDecay = ExactDecay(),
        trace_gain: AbstractInputGain = ConstantGain(),
        dt: Step = 1.0,
    ):
        """**Arguments:**

        - `weight`: to start from, `(post, pre)` as in `eqx.nn.Linear`; what is outside the bounds is clipped in the
          first step.
        - `rate_plus`, `rate_minus`: $A_+, A_-$, one number each, not negative; in the weight's unit for `HardBounds`.
        - `tau_plus`, `tau_minus`: time constants of the traces of senders and receivers, ms.
        - `bounds`: `HardBounds` (additive) or `SoftBounds` (multiplicative).
        - `decay`, `trace_gain`: how traces decay, and by how much a spike raises one.
        - `dt`: length of a step, ms.

        **Raises:** `ValueError` for time constants or `dt` that are not positive, negative rates, bounds that do not
        span a range, or a `dt` beyond the Euler bound.
        """
        taus = {"tau_plus": plain(tau_plus, "ms"), "tau_minus": plain(tau_minus, "ms")}
        check_rule(bounds, decay, in_ms(dt), rate_plus, rate_minus, taus)
        self.weight = weight
        self.rate_plus, self.rate_minus = rate_plus, rate_minus
        self.tau_plus, self.tau_minus = taus["tau_plus"], taus["tau_minus"]
        self.bounds, self.decay, self.trace_gain, self.dt = bounds, decay, trace_gain, in_ms(dt)

    @classmethod
    def like_norse(
        cls,
        weight: Float[Array, "post pre"],
        *,
        rate_plus: ParameterLike = 1e-3,
        rate_minus: ParameterLike = 1e-3,
        multiplicative: bool = False,
        dt: Step = 1.0,
    ) -> "PairSTDP":
        r"""Norse's `stdp_step_linear`: Euler traces of 50 ms that a spike raises by $\Delta t / \tau$."""
        return cls(
            weight,
            rate_plus=rate_plus,
            rate_minus=rate_minus,
            tau_plus=50.0,
            tau_minus=50.0,
            bounds=SoftBounds() if multiplicative else HardBounds(),
            decay=EulerDecay(),
            trace_gain=LeakGain(),
            dt=dt,
        )

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> PairSTDPState:
        """The initial weight, and empty traces with `shape` as leading (batch) axes."""
        post, pre = self.weight.shape
        return PairSTDPState(self.weight, zeros(shape, (pre,)), zeros(shape, (post,)))

    @jax.named_scope("eqx_dynamics.PairSTDP")
    def __call__(
        self, x: tuple[Spikes, Spikes], state: PairSTDPState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "post pre"], PairSTDPState]:
        """One step: `(pre, post)` spikes `(*batch, pre)` and `(*batch, post)` to the weight after them."""
        pre, post, traces = self._traces(x, state.trace_pre, state.trace_post)
        weight = moved(self.bounds, state.weight, change(self.bounds, state.weight, *self._pairs(pre, post, *traces)))
        return weight, PairSTDPState(weight, *traces)

    def _traces(
        self, x: tuple[Array, Array], trace_pre: Array, trace_post: Array
    ) -> tuple[Array, Array, tuple[Array, Array]]:
        pre, post = _fitting("pre", x[0], trace_pre), _fitting("post", x[1], trace_post)
        pre_trace = self._trace(trace_pre, pre, self.tau_plus)
        return pre, post, (pre_trace, self._trace(trace_post, post, self.tau_minus))

    def _trace(self, trace: Array, spikes: Array, tau: ParameterLike) -> Array:
        tau_ms = resolve(tau, trace)
        beta = self.decay.factor(self.dt, tau_ms)
        return beta * trace + self.trace_gain.factor(self.dt, tau_ms, beta, trace) * spikes

    def _pairs(self, pre: Array, post: Array, trace_pre: Array, trace_post: Array) -> tuple[Array, Array]:
        """What potentiates and what depresses, `(*batch, post, pre)`."""
        plus = resolve(self.rate_plus, pre[..., None]) * (post[..., :, None] * trace_pre[..., None, :])
        return plus, resolve(self.rate_minus, pre[..., None]) * (trace_post[..., :, None] * pre[..., None, :])


class RewardSTDPState(eqx.Module):
    """State of `RewardSTDP`."""

    pair: PairSTDPState
    eligibility: Float[Array, "..."]


class RewardSTDP(AbstractCell[RewardSTDPState]):
    r"""Reward-modulated STDP: pairs make a synapse eligible, reward changes it: $\dot w = R\, e$.

    $e \leftarrow e^{-\Delta t / \tau_e} e + \Delta w_{STDP}$ remembers what `PairSTDP` would have done, for each sample
    of a batch on its own; $w \leftarrow w + R\, e$, with the batch summed and the weight clipped.

    ??? cite "Reference"
        Izhikevich, Solving the distal reward problem, Cerebral Cortex 17, 2007, eqs. 2-3 (with the concentration of
        dopamine as the reward that is put in).
    """

    pair: PairSTDP
    tau_eligibility: ParameterLike  # ms

    def __init__(self, pair: PairSTDP, tau_eligibility: Constant = 1000.0):
        """**Arguments:** `pair`: the rule that makes synapses eligible; `tau_eligibility`: how long they are, ms.

        **Raises:** `ValueError` if `tau_eligibility` is not positive.
        """
        self.pair, self.tau_eligibility = pair, plain(tau_eligibility, "ms")
        require(self.tau_eligibility, "tau_eligibility", above=0.0)

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> RewardSTDPState:
        """The initial weight, and empty traces and eligibility with `shape` as leading (batch) axes."""
        return RewardSTDPState(self.pair.init_state(shape), zeros(shape, self.pair.weight.shape))

    @jax.named_scope("eqx_dynamics.RewardSTDP")
    def __call__(
        self, x: tuple[Spikes, Spikes, Float[Array, "..."]], state: RewardSTDPState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "post pre"], RewardSTDPState]:
        """One step: `(pre, post, reward)`, the reward of shape `(*batch)`, to the weight after them."""
        old, rule = state.pair, self.pair
        reward = jnp.asarray(x[2], state.eligibility.dtype)
        if reward.shape != state.eligibility.shape[:-2]:
            batch = state.eligibility.shape[:-2]
            raise ValueError(f"`reward` must be one number a sample, shape {batch}; got {reward.shape}.")
        pre, post, traces = rule._traces((x[0], x[1]), old.trace_pre, old.trace_post)
        kept = jnp.exp(-rule.dt / jnp.asarray(resolve(self.tau_eligibility, reward), reward.dtype))
        pairs = change(rule.bounds, old.weight, *rule._pairs(pre, post, *traces))
        eligibility = kept * state.eligibility + pairs
        weight = moved(rule.bounds, old.weight, reward[..., None, None] * eligibility)
        return weight, RewardSTDPState(PairSTDPState(weight, *traces), eligibility)


def change(bounds: AbstractBounds, weight: Array, plus: Array, minus: Array) -> Array:
    """An increase and a decrease `(*batch, post, pre)`, each scaled by what the weight allows."""
    up, down = (jnp.broadcast_to(w, plus.shape) for w in (bounds.potentiation(weight), bounds.depression(weight)))
    return up * plus - down * minus


def moved(bounds: AbstractBounds, weight: Array, changes: Array) -> Array:
    """The weight after the changes `(*batch, post, pre)` of all samples."""
    return jnp.clip(weight + jnp.sum(changes.reshape(-1, *weight.shape), axis=0), bounds.lower, bounds.upper)


def check_rule(
    bounds: AbstractBounds,
    decay: AbstractDecay,
    dt: float | int,
    rate_plus: ParameterLike,
    rate_minus: ParameterLike,
    taus: dict[str, ParameterLike],
) -> None:
    """Raise a `ValueError` for constants of a rule that make no sense."""
    require_step(dt)
    for name, tau in taus.items():
        require(tau, name, above=0.0)
        decay.check(float(dt), tau, name)
    for name, rate in (("rate_plus", rate_plus), ("rate_minus", rate_minus)):
        values = concrete(rate)
        if values is not None and not (values >= 0).all():
            raise ValueError(f"`{name}` must not be negative; got {float(values.min()):g}. The rule has its sign.")
    if not bounds.lower < bounds.upper:
        raise ValueError(f"`bounds` must have `lower` below `upper`; got {bounds.lower:g} and {bounds.upper:g}.")


def _fitting(name: str, spikes: Array, trace: Array) -> Array:
    if spikes.shape != trace.shape:
        raise ValueError(
            f"`{name}` spikes must have the shape {trace.shape} of their traces; got {spikes.shape}. Use "
            "`init_state(batch)` for this batch; weights are (post, pre)."
        )
    return spikes.astype(trace.dtype)


def _power(base: Array, exponent: float) -> Array:
    """Zero where the base is not positive, with a gradient there."""
    if exponent == 1:
        return jnp.maximum(base, 0.0)
    inside = base > 0
    return jnp.where(inside, jnp.where(inside, base, 1.0) ** exponent, 0.0)
