"""Model parallelism: the first layers on one device, the last on another.

The original wraps layers in `jax.default_device`, which does not move arrays that are already somewhere: everything
stays on the first device (and `layer1` to `layer4` are undefined). Placement follows the data: put each stage's
parameters on its device and send the activations over; computations run where their inputs are.
"""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from eqx_graph import EdgeIndex
from eqx_graph.datasets import mutag
from eqx_graph.nn.conv import GCNConv


Stage = tuple[GCNConv, ...]


@eqx.filter_jit
def run_stage(stage: Stage, x: Array, edges: EdgeIndex) -> Array:
    for layer in stage:
        x = jax.nn.tanh(layer(x, edges))
    return x


def main() -> None:
    with contextlib.suppress(RuntimeError):  # devices can be chosen only before the first use of JAX
        jax.config.update("jax_num_cpu_devices", 2)
    devices = [jax.devices()[d % jax.device_count()] for d in range(2)]
    graph = mutag()[0]
    assert isinstance(graph.edge_index, np.ndarray)
    edges = EdgeIndex.from_array(graph.edge_index, num_senders=graph.num_nodes, num_receivers=graph.num_nodes)
    layers = [GCNConv(i, 8, key=k) for i, k in zip((7, 8, 8, 8), jr.split(jr.key(0), 4), strict=True)]
    stages = [tuple(layers[:2]), tuple(layers[2:])]

    placed = [eqx.filter_shard(stage, device) for stage, device in zip(stages, devices, strict=True)]
    edges_on = [eqx.filter_shard(edges, device) for device in devices]

    def forward(placed: list[Stage], x: Array) -> Array:
        for stage, stage_edges, device in zip(placed, edges_on, devices, strict=True):
            x = run_stage(stage, jax.device_put(x, device), stage_edges)
        return x

    x = jnp.asarray(graph.x)
    out = forward(placed, x)
    assert out.devices() == {devices[1]}  # the last stage ran on the second device
    np.testing.assert_allclose(out, run_stage((*stages[0], *stages[1]), x, edges), rtol=1e-5, atol=1e-6)

    grads = eqx.filter_grad(lambda placed: jnp.sum(forward(placed, x) ** 2))(placed)
    for stage, device in zip(grads, devices, strict=True):  # gradients stay with their stage
        assert {d for leaf in jax.tree.leaves(stage) for d in leaf.devices()} == {device}

    with jax.default_device(devices[1]):  # the original's way: the input is committed, so nothing moves
        stayed = run_stage(placed[0], jax.device_put(x, devices[0]), edges_on[0])
    assert stayed.devices() == {devices[0]}
    print(f"stages on {devices[0]} and {devices[1]}, gradients with them")


if __name__ == "__main__":
    main()
