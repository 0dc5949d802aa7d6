"""One life of a run that may be killed at any moment: restore, train, log every loss."""

import os
import pathlib
import time

import equinox as eqx
import grain
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import orbax.checkpoint  # noqa: F401  (imported once, before the lives are forked)
from absl import flags

from eqx_dynamics.training import AbstractCallback, ArrayData, Checkpoint, Logger, fit, make_step
from eqx_dynamics.training._loggers import AbstractSink
from kill_source import example


STEPS, PER_DISPATCH = 160, 4


class Ledger(AbstractSink):
    """A line per dispatch, bit for bit, on the file before anything else happens; and a pause, to be killed in."""

    path: str = eqx.field(static=True)
    pause: float = eqx.field(static=True)

    def open(self, names):
        return os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def write(self, handle, step, row):
        os.write(handle, f"{step} {float(row['loss']).hex()}\n".encode())
        time.sleep(self.pause)

    def close(self, handle):
        os.close(handle)


def noisy_loss(model, batch, key):
    x, y = batch
    return jnp.mean((jax.vmap(model)(x + 0.1 * jr.normal(key, x.shape)) - y) ** 2)


def grain_batches(num_workers: int):
    dataset = grain.MapDataset.range(64).seed(0).shuffle().repeat().map(example).batch(8).to_iter_dataset()
    if num_workers:
        flags.FLAGS.mark_as_parsed()  # Grain's workers ask absl for flags
        dataset = dataset.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=num_workers))
    return iter(dataset)


def live(kind: str, folder: str, cache: str, pause: float, saves: bool) -> None:
    os.setpgrp()
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    path = pathlib.Path(folder)
    step = make_step(noisy_loss, optax.adam(1e-2))
    state = step.init(eqx.nn.MLP(3, 1, 8, 1, key=jr.key(0)), key=jr.key(1))
    if kind == "memory":
        x, y = map(np.stack, zip(*map(example, range(60)), strict=True))
        data, iterator = ArrayData((x, y), 8), None
    else:
        data = iterator = grain_batches(num_workers=2 if kind == "workers" else 0)
    callbacks: list[AbstractCallback] = [Logger(Ledger(str(path / "losses"), pause))]
    if saves:
        checkpoint = Checkpoint(path / "run", config={"kind": kind})
        state = checkpoint.restore(state, iterator)
        callbacks.append(checkpoint)
    remaining = STEPS - int(state.step)
    fit(state, step, data, steps=remaining, steps_per_dispatch=PER_DISPATCH, callbacks=callbacks)
    getattr(iterator, "close", lambda: None)()
    (path / "finished").touch()
