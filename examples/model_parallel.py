"""A model too large for one device: its blocks lie on four devices, and micro-batches flow through them as in a pipe.

Data:     a smooth function of eight numbers, 4,096 samples, generated here.
Expected: the same losses as on one device (largest difference below 1e-5), a final loss under a tenth of the first, and
          a quarter of the blocks' weights and optimizer state on each device.
Run time: about 15 s on two cores. The four devices are fake ones, made by XLA on any CPU.

Nothing in `make_step` or `fit` knows of the placement: it is a property of the arrays in the state. Each device holds
one block (a stage); the loss hands activations from stage to stage with `ppermute` inside `jax.shard_map`, and JAX
differentiates that, so gradients flow back through the same pipe.

Reference: Huang et al., GPipe: efficient training of giant neural networks using pipeline parallelism, NeurIPS 2019.
"""

import dataclasses
import functools as ft
import os


os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import tyro
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from eqx_dynamics.training import ArrayData, fit, make_step
from eqx_dynamics.transform import select


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 64
    num_samples: int = 4096
    batch_size: int = 256
    num_micro: int = 8  # parts of a batch that are in the pipe at once
    epochs: int = 8
    seed: int = 0


class Block(eqx.Module):
    """One stage: $x + \\tanh(W x + b)$."""

    linear: eqx.nn.Linear

    def __init__(self, width: int, *, key: PRNGKeyArray):
        self.linear = eqx.nn.Linear(width, width, key=key)

    def __call__(self, x: Float[Array, " width"]) -> Float[Array, " width"]:
        return x + jnp.tanh(self.linear(x))


class Stages(eqx.Module):
    """Blocks stacked along a first axis, one per stage, between two small layers."""

    first: eqx.nn.Linear
    blocks: Block
    last: eqx.nn.Linear

    def __init__(self, in_features: int, width: int, num_stages: int, *, key: PRNGKeyArray):
        first_key, blocks_key, last_key = jr.split(key, 3)
        self.first = eqx.nn.Linear(in_features, width, key=first_key)
        self.blocks = eqx.filter_vmap(lambda k: Block(width, key=k))(jr.split(blocks_key, num_stages))
        self.last = eqx.nn.Linear(width, 1, key=last_key)


def in_order(blocks: Block, x: Float[Array, "num_micro batch width"]) -> Float[Array, "num_micro batch width"]:
    """All blocks, one after another, on one device."""
    return jax.lax.scan(lambda x, block: (jax.vmap(jax.vmap(block))(x), None), x, blocks)[0]


def in_a_pipe(
    blocks: Block, x: Float[Array, "num_micro batch width"], *, mesh: Mesh
) -> Float[Array, "num_micro batch width"]:
    """The same with one block per device: at tick $t$ stage $s$ works on micro-batch $t - s$."""
    num_stages, num_micro = mesh.shape["stage"], x.shape[0]

    @ft.partial(jax.shard_map, mesh=mesh, in_specs=(PartitionSpec("stage"), PartitionSpec()), out_specs=PartitionSpec())
    def run(blocks: Block, x: Array) -> Array:
        block = jtu.tree_map(lambda leaf: leaf[0], blocks)
        stage = jax.lax.axis_index("stage")

        def tick(received: Array, t: Array) -> tuple[Array, Array]:
            out = jax.vmap(block)(jnp.where(stage == 0, x[jnp.minimum(t, num_micro - 1)], received))
            return jax.lax.ppermute(out, "stage", [(s, s + 1) for s in range(num_stages - 1)]), out

        empty = jax.lax.pcast(jnp.zeros_like(x[0]), "stage", to="varying")
        _, outs = jax.lax.scan(tick, empty, jnp.arange(num_micro + num_stages - 1))
        # Only the last stage has the results, and the first of them after the pipe has filled.
        return jax.lax.psum(jnp.where(stage == num_stages - 1, outs[num_stages - 1 :], 0.0), "stage")

    return run(blocks, x)


def make_loss(through, num_micro: int):
    """Mean squared error of a model whose blocks are run by `through`."""

    def loss_fn(model: Stages, batch: tuple[Array, Array], key: PRNGKeyArray) -> Array:
        x, y = batch
        hidden = jax.vmap(model.first)(x)
        hidden = through(model.blocks, hidden.reshape(num_micro, -1, hidden.shape[-1])).reshape(hidden.shape)
        return jnp.mean((jax.vmap(model.last)(hidden) - y) ** 2)

    return loss_fn


def make_data(config: Config) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(config.seed).normal(size=(config.num_samples, 8)).astype(np.float32)
    return x, np.sin(x[:, :4].sum(-1, keepdims=True)) * x[:, 4:5]


def place(model: Stages, mesh: Mesh) -> Stages:
    """Each block on its own device, everything else on all of them."""
    is_block = select(model, Block)
    spread, copied = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("stage",), ()))
    return jtu.tree_map(lambda leaf, split: jax.device_put(leaf, spread if split else copied), model, is_block)


def share(tree, device) -> int:
    """Bytes of the arrays in `tree` that lie on `device`."""
    arrays = jtu.tree_leaves(eqx.filter(tree, eqx.is_array))
    return sum(s.data.nbytes for array in arrays for s in array.addressable_shards if s.device == device)


def main(config: Config) -> None:
    mesh = jax.make_mesh((4,), ("stage",), axis_types=(AxisType.Auto,))
    model = Stages(8, config.width, 4, key=jr.key(config.seed))
    data = ArrayData(make_data(config), config.batch_size)
    losses, states = {}, {}
    for name, through, placed in (
        ("one device", in_order, model),
        ("four devices", ft.partial(in_a_pipe, mesh=mesh), place(model, mesh)),
    ):
        step = make_step(make_loss(through, config.num_micro), optax.adam(3e-3))
        states[name], history = fit(step.init(placed, key=jr.key(1)), step, data, epochs=config.epochs)
        losses[name] = history["loss"]
        print(f"{name:14} loss {history['loss'][0]:.4f} -> {history['loss'][-1]:.4f}")

    gap = np.abs(losses["one device"] - losses["four devices"]).max()
    state = states["four devices"]
    blocks, moments = state.model.blocks, state.opt_state[0].mu.blocks
    shares = [share((blocks, moments), device) for device in jax.devices()]
    whole = sum(leaf.nbytes for leaf in jtu.tree_leaves((blocks, moments)))
    print(f"largest difference between the losses: {gap:.1e}")
    print(f"bytes of the blocks and their first moments on each device: {shares} of {whole}")
    assert gap < 1e-5
    assert shares == [whole // 4] * 4
    assert losses["four devices"][-1] < 0.1 * losses["four devices"][0]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
