"""Runs that survive being killed."""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt32

from .._extras import need
from ._callbacks import AbstractCallback, Plan, Report
from ._leaves import CheckpointError, check_named, describe, from_named, to_json, to_named
from ._state import TrainState
from ._tracking import is_new


class Checkpoint(AbstractCallback):
    """Saves the run in the background every so often, and finds it again.

        checkpoint = Checkpoint("runs/a", every=5)
        state = checkpoint.restore(step.init(model, key=key), iterator)
        state, history = fit(state, step, iterator, steps=1000 - int(state.step), callbacks=(checkpoint,))

    Kill this at any moment and start it again: it goes on as if nothing had happened, with the same numbers to the last
    bit, since a `TrainState` and the state of the iterator are all there is. A checkpoint is a folder that Orbax
    renames into place when it is complete; every array in it carries a fingerprint.

    Saving copies the arrays from the device and returns; writing goes on in a thread. With several processes all take
    part, in one folder that all can reach, and each finds the position of its own iterator again.
    """

    directory: str = eqx.field(static=True)
    every: int = eqx.field(static=True)
    keep: int = eqx.field(static=True)
    metric: str | None = eqx.field(static=True)
    mode: Literal["min", "max"] = eqx.field(static=True)
    config: Any = eqx.field(static=True)
    save_iterator: bool = eqx.field(static=True)

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        every: int = 1,
        keep: int = 2,
        metric: str | None = None,
        mode: Literal["min", "max"] = "min",
        config: Any = None,
        save_iterator: bool = True,
    ):
        """**Arguments:**

        - `directory`: one folder per run.
        - `every`: epochs between checkpoints, or dispatches if `fit` counts steps. The end is always saved.
        - `keep`: how many checkpoints to keep: the latest, or with `metric` the best, and then also the latest two.
        - `metric`, `mode`: name of the metric that says which are best, and whether smaller or larger is.
        - `config`: anything JSON can hold, stored beside the state; `read_config` returns it.
        - `save_iterator`: also save the iterator that `fit` draws batches from, which needs `get_state` and
          `set_state`, as Grain's iterators have. False if the order of batches does not matter.

        **Raises:** `ValueError` for counts below 1, a file in place of the folder or (while training) a metric that
        nothing reports; `TypeError` if `config` is not JSON; `ImportError` naming the extra
        `train`.
        """
        if every < 1 or keep < 1:
            raise ValueError(f"`every` and `keep` must be at least 1; got {every} and {keep}.")
        if os.path.exists(directory) and not os.path.isdir(directory):
            raise ValueError(f"`directory` must be a folder, or free for one; got the file {os.fspath(directory)!r}.")
        need("orbax.checkpoint", extra="train", user="Checkpoint")
        self.directory, self.every, self.keep = os.path.abspath(directory), every, keep
        self.metric, self.mode, self.config, self.save_iterator = metric, mode, to_json(config), save_iterator

    def init(self, plan: Plan) -> Any:
        manager = _manager(self)
        latest = manager.latest_step()
        if plan.first_step == 0 and latest is not None:
            manager.close()
            raise ValueError(
                f"`directory` {self.directory!r} holds checkpoints up to step {latest}, but this run starts at step 0. "
                "Continue it with `state = checkpoint.restore(state, ...)`, or choose an empty folder."
            )
        return manager, frozenset(manager.all_steps()), None, None

    def __call__(self, report: Report, memory: Any) -> tuple[None, Any]:
        manager, found, saved, _ = memory
        if self.metric is not None:
            is_new(report, self.metric)
        is_due = report.ends_entry and (report.entry % self.every == 0 or report.is_last)
        if is_due and report.step != saved:
            metrics = {name: report.values[name] for name in report.metrics if name == self.metric} or None
            if report.step in found:  # refused by `restore`, and now made anew
                manager.delete(report.step)
            self._save(manager, report.step, report.state, report.iterator, metrics)
            saved = report.step
        return None, (manager, found, saved, report.iterator)

    def close(self, memory: Any, state: TrainState | None) -> None:
        manager, found, saved, iterator = memory
        if state is not None and int(state.step) not in {0, saved, *found}:
            self._save(manager, int(state.step), state, iterator, None)
        with self._named():
            manager.wait_until_finished()
        manager.close()

    def restore(self, state: TrainState, iterator: Any = None) -> TrainState:
        """The latest usable checkpoint of this folder, or `state` itself if there is none yet.

        **Arguments:**

        - `state`: a state of the same step and model; says which arrays to expect, and on which devices.
        - `iterator`: the iterator that will be handed to `fit`; its position is set.

        **Returns:** the state to continue from. A checkpoint that is damaged or does not fit is named in a warning, and
        the one before it is used.

        **Raises:** `CheckpointError` if there are checkpoints, but none is usable.
        """
        manager = _manager(self)
        problems = []
        try:
            for step in sorted(manager.all_steps(), reverse=True):
                path = os.path.join(self.directory, str(step))
                try:
                    restored, positions = _load(manager, step, state, path)
                except Exception as error:  # Orbax and TensorStore raise bare `Exception` for damaged files
                    problem = str(error) if isinstance(error, CheckpointError) else f"`{path}` is damaged: {error}"
                    problems.append(problem.partition("\n")[0][:400])
                    warnings.warn(f"Checkpoint refused: {problems[-1]}", stacklevel=2)
                    continue
                if iterator is not None:
                    _set_position(iterator, positions, path)
                elif positions is not None:
                    warnings.warn(
                        f"`{path}` holds the position of an iterator that is left where it is; pass `iterator` to "
                        "`restore` to continue with the same batches.",
                        stacklevel=2,
                    )
                return restored
        finally:
            manager.close()
        if problems:
            raise CheckpointError(f"No checkpoint in {self.directory!r} is usable: " + " ".join(problems))
        return state

    def read_config(self) -> Any:
        """The config stored with the latest checkpoint.

        **Raises:** `CheckpointError` if there is no checkpoint.
        """
        manager = _manager(self)
        try:
            if manager.latest_step() is None:
                raise CheckpointError(f"{self.directory!r} holds no checkpoint.")
            args = need("orbax.checkpoint", extra="train").args
            return manager.restore(manager.latest_step(), args=args.Composite(config=args.JsonRestore()))["config"][
                "config"
            ]
        finally:
            manager.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Names what Orbax and TensorStore say of a disk that is full or gone; writing goes on in a thread, so late."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"A checkpoint could not be written to {self.directory!r}: {str(error).partition(chr(10))[0][:300]} "
                "Those complete before are untouched; `restore` finds the latest."
            ) from error

    def _save(self, manager: Any, step: int, state: TrainState, iterator: Any, metrics: dict | None) -> None:
        args = need("orbax.checkpoint", extra="train").args
        named = to_named(state)
        positions = _positions(iterator) if self.save_iterator and iterator is not None else None
        config = {"config": json.loads(self.config), "leaves": describe(state)}
        items = args.Composite(
            train=args.StandardSave(named | {_FINGERPRINT: _fingerprint(named)}),
            data=args.JsonSave({"positions": positions}),
            config=args.JsonSave(config),
        )
        with self._named():
            manager.save(step, args=items, metrics=metrics, force=True)


_FINGERPRINT = "fingerprint of all leaves"


def _manager(checkpoint: Checkpoint) -> Any:
    ocp = need("orbax.checkpoint", extra="train", user="Checkpoint")
    policies, name = ocp.checkpoint_managers, checkpoint.metric
    kept = policies.LatestN(checkpoint.keep)
    if name is not None:
        best = policies.BestN(get_metric_fn=lambda m: m[name], n=checkpoint.keep, reverse=checkpoint.mode == "min")
        kept = policies.AnyPreservationPolicy([policies.LatestN(2), best])
    options = ocp.CheckpointManagerOptions(preservation_policy=kept, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(checkpoint.directory, options=options)


def _load(manager: Any, step: int, like: TrainState, path: str) -> tuple[TrainState, Any]:
    args = need("orbax.checkpoint", extra="train").args
    config = manager.restore(step, args=args.Composite(config=args.JsonRestore()))["config"]
    check_named(like, {name: (tuple(s), d) for name, (s, d) in config["leaves"].items()}, source=f"`{path}`")
    slots = {n: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for n, a in to_named(like).items()}
    slots[_FINGERPRINT] = jax.ShapeDtypeStruct((len(slots),), jnp.uint32)
    found = manager.restore(step, args=args.Composite(train=args.StandardRestore(slots), data=args.JsonRestore()))
    named = dict(found["train"])
    wanted = named.pop(_FINGERPRINT)
    named = {name: named[name] for name in to_named(like)}
    matches = np.asarray(_fingerprint(named)) == np.asarray(wanted)
    for name, is_right in zip(named, matches, strict=True):
        if not is_right:
            raise CheckpointError(f"`{path}` is damaged: `{name}` is not what was saved.")
    return from_named(like, named, source=f"`{path}`"), found["data"]["positions"]


@jax.jit
def _fingerprint(named: dict[str, Array]) -> UInt32[Array, " num_leaves"]:
    """A hash of each array: its 32-bit words, each multiplied by an odd number of its own, summed modulo 2^32."""
    return jnp.stack([_hash(array) for array in named.values()])


def _hash(array: Array) -> UInt32[Array, ""]:
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return _hash(array.real) * jnp.uint32(31) + _hash(array.imag)
    if array.dtype == bool:
        array = array.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(array, unsigned).ravel().astype(jnp.uint32)
    factors = jnp.arange(words.size, dtype=jnp.uint32) * jnp.uint32(2654435761) | jnp.uint32(1)
    return jnp.sum((words ^ (words >> 15)) * factors, dtype=jnp.uint32)


def _positions(iterator: Any) -> list[Any]:
    """Where the iterator of each process is."""
    if not hasattr(iterator, "get_state"):
        raise ValueError(
            f"`data` is drawn from a {type(iterator).__name__}, which has no `get_state`, so a resumed run could not "
            "see the same batches. Use a Grain iterator, `ArrayData`, or `Checkpoint(save_iterator=False)`."
        )
    state = iterator.get_state()
    position = {"bytes": state.decode("latin-1")} if isinstance(state, bytes) else {"state": state}
    if jax.process_count() == 1:
        return [position]
    text = np.frombuffer(json.dumps(position).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(text.size))
    texts = multihost_utils.process_allgather(np.pad(text, (0, max(sizes) - text.size)))
    return [json.loads(bytes(text[:size])) for text, size in zip(texts, sizes, strict=True)]


def _set_position(iterator: Any, positions: list[Any] | None, path: str) -> None:
    if positions is None:
        raise CheckpointError(f"`{path}` holds no position of an iterator: that run was not trained from one.")
    if len(positions) != jax.process_count():
        raise CheckpointError(
            f"`{path}` holds the positions of the iterators of {len(positions)} processes; this run has "
            f"{jax.process_count()}. Run as many, or restore without `iterator`."
        )
    position = positions[jax.process_index()]
    iterator.set_state(position["bytes"].encode("latin-1") if "bytes" in position else position["state"])
