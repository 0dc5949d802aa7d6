"""Section 3, blocks 8-12: which states are batched. A linear layer into LIF neurons, five of them in a batch.

The original tags states as they appear (`catch_new_states('new')`), then names the tag in `StateAxes`. Here new state
is what `init_state` returns, so a batch of it needs no tag; where parameters and states do live in one tree,
`state_axes` says which of its leaves are batched. The printed membranes follow from the closed form, which is checked.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from eqx_dynamics import AbstractCell
from eqx_dynamics.spiking import LIFCell, LIFState
from eqx_dynamics.transform import init_states, state_axes


class LIFNet(AbstractCell[LIFState]):
    i2r: eqx.nn.Linear
    lif: LIFCell

    def __init__(self, nin: int, nout: int, *, key: PRNGKeyArray):
        self.i2r = eqx.nn.Linear(nin, nout, key=key)
        self.lif = LIFCell.like_brainstate(nout, dt=0.1)  # tau 5 ms, threshold 1 mV, 1 Ohm: current in mA.

    def init_state(self, shape: tuple[int, ...] = (), *, key: PRNGKeyArray | None = None) -> LIFState:
        return self.lif.init_state(shape, key=key)

    def __call__(
        self, x: Float[Array, " nin"], state: LIFState, *, key: PRNGKeyArray | None = None
    ) -> tuple[Array, LIFState]:
        return self.lif(self.i2r(x), state)


def main() -> None:
    net = LIFNet(2, 3, key=jr.key(0))
    states = init_states(net, jr.split(jr.key(1), 5))
    print(states.membrane, "mV")
    assert jnp.array_equal(states.membrane, jnp.zeros((5, 3)))  # As printed.

    xs = (jr.uniform(jr.key(2), (5, 2)) < 0.5).astype(jnp.float32)
    spikes, after = eqx.filter_vmap(net)(xs, states)  # The parameters are closed over, so shared.
    current = eqx.filter_vmap(net.i2r)(xs)
    closed_form = (1 - jnp.exp(-0.1 / 5)) * current
    assert jnp.allclose(after.membrane, closed_form, atol=1e-7)
    assert not spikes.any()

    # The same with parameters and states in one argument, as the original has them.
    both = (net, states)
    axes = state_axes(both, {LIFState: 0, ...: None})
    _, again = eqx.filter_vmap(lambda both, x: both[0](x, both[1]), in_axes=(axes, 0))(both, xs)
    assert jnp.array_equal(again.membrane, after.membrane)

    # The membranes printed by the original, from the currents that give them.
    printed = jnp.array([[0.0107702, 0.03013004, 0.05423805], [0.01397169, 0.0071168, 0.04299236]])
    currents = jnp.array([[0.54391307, 1.5216172, 2.739112], [0.705593, 0.35940906, 2.1711847]])
    _, one_step = net.lif(currents, net.init_state((2,)))
    assert jnp.allclose(one_step.membrane, printed, atol=1e-7)


if __name__ == "__main__":
    main()
