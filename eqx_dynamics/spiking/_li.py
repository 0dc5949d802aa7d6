"""The leaky integrator: a membrane that never fires, read out as it is."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from .._chunks import AbstractMembraneCell, step_by_step
from .._scan import AbstractScannable
from ._decay import AbstractDecay, AbstractInputGain, ExactDecay, LeakGain
from ._leak import SynapticCurrent, check_leak, leak, through_synapse
from ._neuron import Input, as_size, check_input, out_dtype, zeros
from ._parallel import in_parallel, leaky_membranes
from ._parameter import ParameterLike, resolve
from ._units import Constant, Step, in_ms, plain


class LIState(eqx.Module):
    """State of `LICell`."""

    membrane: Float[Array, "..."] = eqx.field(metadata={"unit": "mV"})
    current: Float[Array, "..."] | None = eqx.field(default=None, metadata={"unit": "mA"})


class LICell(AbstractMembraneCell[LIState], AbstractScannable[LIState]):
    r"""Leaky integrator readout: $v \leftarrow v_{rest} + \beta (v - v_{rest}) + g I$, put out as it is."""

    tau_mem: ParameterLike  # ms
    rest: ParameterLike  # mV
    decay: AbstractDecay
    input_gain: AbstractInputGain
    synapse: SynapticCurrent | None
    dt: float  # ms
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        size: int | tuple[int, ...],
        tau_mem: Constant = 20.0,
        *,
        rest: Constant = 0.0,
        decay: AbstractDecay = ExactDecay(),
        input_gain: AbstractInputGain = LeakGain(),
        synapse: SynapticCurrent | None = None,
        dt: Step = 1.0,
    ):
        """**Arguments:** as for `LIFCell`; `tau_mem` and `dt` in ms.

        **Raises:** `ValueError` for a time constant or `dt` that is not positive, a `dt` beyond the Euler bound, or
        constants that do not fit `size`.
        """
        self.size = as_size(size)
        self.tau_mem, self.rest = plain(tau_mem, "ms"), plain(rest, "mV")
        self.decay, self.input_gain, self.synapse = decay, input_gain, synapse
        self.dt = in_ms(dt)

    def __check_init__(self):
        check_leak(self)

    @property
    def keeps_membranes(self) -> bool:
        """True: a leak is linear, its gradient needs no values at all."""
        return True

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> LIState:
        """The membrane at rest, with `shape` as leading (batch) axes."""
        empty = zeros(shape, self.size)
        return LIState(empty + resolve(self.rest, empty), None if self.synapse is None else empty)

    @jax.named_scope("eqx_dynamics.LICell")
    def __call__(
        self,
        x: Input,
        state: LIState,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "..."], LIState]:
        """One step: input current `(*batch, *size)` to the membrane of the same shape, mV."""
        inputs = check_input("LICell", x, self.size, state.membrane)
        drive, current = through_synapse(inputs, state.current, self.synapse, self.decay, self.dt)
        membrane = leak(self, drive, state.membrane)
        return out_dtype(x, membrane), LIState(membrane, current)

    def scan_over(
        self,
        xs: Input,
        state: LIState,
        *,
        key: Key[Array, "..."] | None,
        unroll: int,
        reverse: bool,
    ) -> tuple[Float[Array, "..."], LIState]:
        """All steps: an associative scan on accelerators, the loop on CPU."""
        if not in_parallel():
            return step_by_step(self, xs, state, key=key, unroll=unroll, reverse=reverse)
        check_input("LICell", xs[0], self.size, state.membrane)
        membranes, current = leaky_membranes(
            self, xs.astype(state.membrane.dtype), state.membrane, state.current, reverse=reverse
        )
        return out_dtype(xs, membranes), LIState(membranes[0 if reverse else -1], current)
