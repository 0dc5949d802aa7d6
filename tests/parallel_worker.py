"""What has to run in processes of its own: several fake devices, several processes. Prints one JSON line.

python tests/parallel_worker.py devices
python tests/parallel_worker.py process 0 2 localhost:1234 FOLDER
"""

import json
import os
import sys
from typing import Any


MODE = sys.argv[1]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={4 if MODE == 'devices' else 2}"

import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import jax.random as jr  # noqa: E402
import jax.tree_util as jtu  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from eqx_dynamics.parallel import data_mesh, join_processes, stacked  # noqa: E402
from eqx_dynamics.training import Checkpoint, WeightAverage, fit, make_step  # noqa: E402
from training_support import Normed, batches, data, make_model, normed_loss, with_metrics  # noqa: E402


jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def gap(one, other):
    """The largest difference between the arrays of two pytrees."""
    pairs = zip(*(jtu.tree_leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (one, other)), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def noisy(model, batch, key):
    x, y = batch
    return with_metrics(model, (x + 0.1 * jr.normal(key, x.shape), y), key)


def sub_batches():
    return [tuple(a.reshape(4, 4, -1) for a in batch) for batch in batches()]


def count_all_reduces(step, batch):
    """In the compiled step: how many all-reduce, and how many other collectives."""
    state = step.init(make_model(), key=jr.key(0))
    text = eqx.filter_jit(step).lower(batch, state).compile().compiled.as_text()
    others = ("all-gather(", "all-to-all(", "collective-permute(", "reduce-scatter(")
    return text.count(" all-reduce("), sum(text.count(f" {name}") for name in others)


def on_devices():
    mesh = data_mesh()
    report: dict[str, Any] = {"num_devices": jax.device_count()}
    cases = {
        "arrays": (noisy, data(), {"epochs": 2}, {}),
        "iterable": (noisy, batches(), {"steps": 8, "steps_per_dispatch": 4}, {}),
        "everything": (with_metrics, data(), {"epochs": 2}, {"accumulate": 2, "clip": 0.5, "average": WeightAverage()}),
        "stacked": (stacked(with_metrics), sub_batches(), {"steps": 6}, {}),
    }
    for name, (loss, source, length, options) in cases.items():
        ends = []
        for where in (None, mesh):
            step = make_step(loss, optax.adam(1e-2), mesh=where, **options)
            ends.append(fit(step.init(make_model(), key=jr.key(0)), step, source, **length))
        (state, history), (other, other_history) = ends
        report[name] = max(gap(state, other), *(np.abs(history[k] - other_history[k]).max() for k in history))
    ends = []
    for where in (None, mesh):
        model, statistics = eqx.nn.make_with_state(Normed)(jr.key(0))
        step = make_step(normed_loss, optax.sgd(0.1), mesh=where)
        ends.append(fit(step.init(model, key=jr.key(0), statistics=statistics), step, data(), epochs=2)[0])
    report["batch_norm"] = gap(*ends)
    report["replicated"] = ends[1].model.linear.weight.sharding.is_fully_replicated
    report["on"] = len(ends[1].model.linear.weight.sharding.device_set)
    # Without the key's noise, whose generation is not part of what a step must communicate.
    options = {"clip": 1.0, "average": WeightAverage(), "mesh": mesh}
    report["collectives"] = count_all_reduces(make_step(with_metrics, optax.adam(1e-2), **options), batches()[0])
    report["collectives_stacked"] = count_all_reduces(
        make_step(stacked(with_metrics), optax.adam(1e-2), **options), sub_batches()[0]
    )
    return report


class Shard:
    """Draws one process's part of every batch; its state names that part, so the parts cannot be mixed up."""

    def __init__(self, part):
        self.start, self.stop, self.position = part.start, part.stop, 0

    def __iter__(self):
        return self

    def __next__(self):
        x, y = batches()[self.position]
        self.position += 1
        return x[self.start : self.stop], y[self.start : self.stop]

    def get_state(self):
        return {"part": [self.start, self.stop], "position": self.position, "note": "x" * self.start}

    def set_state(self, state):
        assert state["part"] == [self.start, self.stop]
        self.position = state["position"]


def in_process(process_id, num_processes, address, folder):
    join_processes(address, num_processes=num_processes, process_id=process_id)
    size = 16 // num_processes
    part = slice(process_id * size, (process_id + 1) * size)
    mesh, losses = data_mesh(), {}
    step = make_step(with_metrics, optax.adam(1e-2), mesh=mesh, clip=1.0)
    mine = [(x[part], y[part]) for x, y in batches()]
    state, history = fit(step.init(make_model(), key=jr.key(0)), step, mine, steps=6, steps_per_dispatch=3)
    losses["iterable"] = history["loss"].tolist()
    losses["iterable_weight"] = np.asarray(state.model.layers[0].weight).ravel().tolist()
    state, history = fit(step.init(make_model(), key=jr.key(0)), step, data(), epochs=2)
    losses["arrays"] = history["loss"].tolist()
    # Stopped after five of twelve steps and restored by a new `Checkpoint`: the rest of the run is the same to the bit.
    first, _ = fit(step.init(make_model(), key=jr.key(0)), step, data(), steps=5, callbacks=(Checkpoint(folder),))
    again = Checkpoint(folder)
    resumed = again.restore(step.init(make_model(1), key=jr.key(1)))
    losses["restored"] = [int(resumed.step), gap(first, resumed)]
    resumed, _ = fit(resumed, step, data(), steps=7, callbacks=(again,))
    losses["resumed"] = [int(resumed.step), gap(state, resumed)]
    # An iterator of each process comes back to its own place.
    iterator, checkpoint = Shard(part), Checkpoint(f"{folder}/shards")
    fit(step.init(make_model(), key=jr.key(0)), step, iterator, steps=3, callbacks=(checkpoint,))
    other = Shard(part)
    checkpoint.restore(step.init(make_model(), key=jr.key(0)), other)
    losses["same_place"] = other.get_state() == iterator.get_state() and other.start == part.start
    losses["devices"] = [jax.local_device_count(), jax.device_count()]
    jax.distributed.shutdown()
    return losses


if __name__ == "__main__":
    result = on_devices() if MODE == "devices" else in_process(int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
    print(json.dumps(result))
