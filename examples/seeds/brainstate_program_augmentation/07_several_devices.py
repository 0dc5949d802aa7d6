"""The second section 3: several devices. `pmap` is vmap in the original's words; here it is vmap, placed.

The original only names `pmap`. JAX keeps it in maintenance, as a layer over `jit` with shardings, so use those: the
batch axis of each state is split over a mesh of devices, parameters are on each, and the program stays the vmapped one.
"""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from eqx_dynamics.spiking import LIFCell, LIFState
from eqx_dynamics.transform import init_states, state_shardings


def main() -> None:
    with contextlib.suppress(RuntimeError):  # Fake devices can only be asked for before the first use of JAX.
        jax.config.update("jax_num_cpu_devices", 4)
    num_devices = jax.device_count()
    mesh = jax.make_mesh((num_devices,), ("batch",), axis_types=(AxisType.Auto,))

    net = LIFCell.like_brainstate(3)
    both = (net, init_states(net, jr.split(jr.key(0), 8)))
    currents = 100 * jr.normal(jr.key(1), (8, 3))

    @eqx.filter_jit
    def batch_run(both: tuple[LIFCell, LIFState], currents: jax.Array) -> tuple[jax.Array, LIFState]:
        return eqx.filter_vmap(both[0])(currents, both[1])

    on_one, _ = batch_run(both, currents)
    placed = eqx.filter_shard(both, state_shardings(both, {LIFState: 0, ...: None}, mesh))
    split_currents = jax.device_put(currents, NamedSharding(mesh, PartitionSpec("batch")))
    spikes, states = batch_run(placed, split_currents)
    assert jnp.array_equal(spikes, on_one)
    assert states.membrane.sharding == split_currents.sharding  # The state stays where it is, step after step.
    assert len(states.membrane.sharding.device_set) == num_devices

    by_pmap = jax.pmap(jax.vmap(lambda state, x: net(x, state)[0]))
    stacked = jax.tree.map(lambda leaf: leaf.reshape(num_devices, -1, *leaf.shape[1:]), (both[1], currents))
    assert jnp.array_equal(by_pmap(*stacked).reshape(8, 3), on_one)
    print(f"{num_devices} devices give the spikes of one: {int(spikes.sum())} of {spikes.size}")


if __name__ == "__main__":
    main()
