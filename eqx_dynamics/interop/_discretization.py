"""How the continuous equations of a graph become steps, which NIR leaves open."""

import equinox as eqx

from ..spiking import AbstractDecay, AbstractReset, AbstractSurrogate, EulerDecay, ExactDecay, FastSigmoid
from ..spiking._parameter import require, require_step
from ..spiking._reset import SubtractReset, ValueReset
from ..spiking._surrogate_curves import ATan
from ..spiking._units import Step, in_ms


class Discretization(eqx.Module):
    r"""What a graph of differential equations does not say: the step, the scheme, and what a reset does to a gradient.

    NIR has $\tau \dot v = (v_{leak} - v) + R I$ with times in seconds, spikes where $v > \theta$ and then
    $v = v_{reset}$. Libraries differ in what they make of it, so it is said here: `Discretization(dt=0.1)` is NIR's own
    meaning, `like_snntorch` and `like_norse` give the spikes of the network that those libraries wrote.
    """

    dt: float = eqx.field(converter=in_ms)
    reset: AbstractReset = ValueReset()
    decay: AbstractDecay = ExactDecay()
    surrogate: AbstractSurrogate = FastSigmoid(tie=">")
    time_unit: float = 1000.0  # ms
    per_step: bool = eqx.field(static=True, default=False)

    def __init__(
        self,
        dt: Step,
        *,
        reset: AbstractReset = ValueReset(),
        decay: AbstractDecay = ExactDecay(),
        surrogate: AbstractSurrogate = FastSigmoid(tie=">"),
        time_unit: float | int = 1000.0,
        per_step: bool = False,
    ):
        """**Arguments:**

        - `dt`: length of a step, ms.
        - `reset`: what a spike does to the membrane, and when; its level is replaced by each node's `v_reset`.
        - `decay`: `ExactDecay` or `EulerDecay`, for membranes and synapses.
        - `surrogate`: the derivative of a spike and the rule for ties; NIR's is ">".
        - `time_unit`: ms in one unit of the graph's time constants and delays; NIR's unit is the second.
        - `per_step`: inputs of integrators and synapses are jumps, added once a step, not rates to integrate over `dt`.

        **Raises:** `ValueError` for a `dt` or `time_unit` that is not positive.
        """
        self.dt, self.reset, self.decay, self.surrogate = in_ms(dt), reset, decay, surrogate
        self.time_unit, self.per_step = float(time_unit), per_step

    def __check_init__(self):
        require_step(self.dt)
        require(self.time_unit, "time_unit", above=0.0)

    @classmethod
    def like_snntorch(
        cls, reset: AbstractReset = SubtractReset(timing="after_decay"), *, surrogate: AbstractSurrogate = ATan(2.0)
    ) -> "Discretization":
        """snnTorch 1.0's graphs: it writes Euler steps of 0.1 ms, and no reset mechanism, its default is to subtract.

        **Arguments:** `reset`: `ValueReset(timing="before_decay")` for a network with `reset_mechanism="zero"`;
        `surrogate`: its rule for ties is set to snnTorch's.
        """
        return cls(0.1, reset=reset, decay=EulerDecay(), surrogate=_strict(surrogate))

    @classmethod
    def like_norse(
        cls,
        dt: Step = 1.0,
        *,
        reset: AbstractReset = ValueReset(detach=False),
        surrogate: AbstractSurrogate = FastSigmoid(1.0),
    ) -> "Discretization":
        """Norse 1.1's graphs: Euler steps, inputs as jumps, and times that it writes multiplied by its dt in seconds.

        It does not write `v_reset`, so that every level is read as NIR's default, 0; put others in with `eqx.tree_at`.

        **Arguments:** `dt`: Norse's, ms; `reset`: Norse's default takes the membrane to a value; `surrogate`: its rule
        for ties is set to Norse's.
        """
        step = in_ms(dt)
        return cls(
            step,
            reset=reset,
            decay=EulerDecay(),
            surrogate=_strict(surrogate),
            time_unit=1e6 / step,
            per_step=True,
        )


def _strict(surrogate: AbstractSurrogate) -> AbstractSurrogate:
    from ..spiking._surrogate import with_tie

    return with_tie(surrogate, ">")
