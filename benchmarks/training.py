"""What `fit` costs beside what it runs. Times are the smallest of interleaved repeats, after compilation;
the progress bar's cost is the median over pairs of neighbouring runs.

    python benchmarks/training.py            # about two minutes on two quiet cores
    python benchmarks/training.py --small    # does it run

A tiny MLP (16-64-64-1, batch 32, Adam), since overhead shows on small models. Bars: in memory <= 1.15x and iterator
<= 1.30x a hand-written `lax.scan` over the same step; >= 5x faster than a Python loop of jitted steps; bar < 2 %.
Then a state of 100 MB: how long `fit` waits for a checkpoint, how long it takes to be on disk, and to come back.
"""

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from eqx_dynamics.training import ArrayData, Checkpoint, ProgressBar, fit, make_step


BATCH = 32


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def loss_fn(model: eqx.nn.MLP, batch: tuple[jax.Array, jax.Array], key: jax.Array | None) -> jax.Array:
    x, y = batch
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def make_model() -> eqx.nn.MLP:
    return eqx.nn.MLP(16, 1, 64, 2, key=jr.key(0))


def smallest(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each, the smallest of `repeats`, taken in turn so that a slow minute hurts all alike."""
    times = {name: float("inf") for name in runs}
    for run in runs.values():
        jax.block_until_ready(run())
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            times[name] = min(times[name], time.perf_counter() - began)
    return times


def paired(plain: Callable[[], object], other: Callable[[], object], pairs: int) -> tuple[float, float]:
    """Cost of `other` relative to `plain`: the median of the ratios of neighbouring runs, and its standard error."""
    ratios = []
    for n in range(pairs):
        seconds = {}
        for run in (plain, other) if n % 2 else (other, plain):
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds[run] = time.perf_counter() - began
        ratios.append(seconds[other] / seconds[plain] - 1)
    spread = 1.4826 * np.median(np.abs(ratios - np.median(ratios)))
    return float(np.median(ratios)), float(1.2533 * spread / pairs**0.5)


def overhead(num_batches: int, epochs: int, repeats: int) -> None:
    x = np.random.default_rng(0).normal(size=(num_batches * BATCH, 16)).astype(np.float32)
    y = x.sum(-1, keepdims=True)
    steps = num_batches * epochs
    step = make_step(loss_fn, optax.adam(1e-3))
    start = step.init(make_model(), key=jr.key(1))
    data = ArrayData((x, y), BATCH)
    batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]
    stacked = (x.reshape(num_batches, BATCH, 16), y.reshape(num_batches, BATCH, 1))

    @eqx.filter_jit
    def scan_by_hand(state, xs):
        arrays, static = eqx.partition(state, eqx.is_array)

        def body(arrays, batch):
            metrics, state = step(batch, eqx.combine(arrays, static))
            return eqx.filter(state, eqx.is_array), metrics["loss"]

        arrays, losses = jax.lax.scan(body, arrays, xs)
        return eqx.combine(arrays, static), losses

    def by_hand():
        state, losses, xs = start, [], jax.device_put(stacked)
        for _ in range(epochs):
            state, loss = scan_by_hand(state, xs)
            losses.append(loss)
        return [np.asarray(loss) for loss in losses]

    optimizer = optax.adam(1e-3)

    @eqx.filter_jit
    def plain_step(model, opt_state, batch):
        loss, grads = eqx.filter_value_and_grad(loss_fn)(model, batch, None)
        updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), opt_state, loss

    def python_loop():
        model, losses = make_model(), []
        opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
        for _ in range(epochs):
            for batch in batches:
                model, opt_state, loss = plain_step(model, opt_state, batch)
                losses.append(loss)
        return losses[-1]

    def bar():
        return ProgressBar(stream=Terminal())

    def in_memory(*callbacks):
        return fit(start, step, data, epochs=epochs, callbacks=callbacks)[1]

    def iterator(*callbacks):
        return fit(start, step, batches, epochs=epochs, steps_per_dispatch=32, callbacks=callbacks)[1]

    times = smallest(
        {
            "lax.scan by hand": by_hand,
            "fit, in memory": in_memory,
            "fit, iterator, K=32": iterator,
            "Python loop of jitted steps": python_loop,
        },
        repeats,
    )
    hand = times["lax.scan by hand"]
    print(f"{steps} steps of batch {BATCH}")
    print(f"{'':36}{'us/step':>10}{'/ by hand':>12}")
    for name, seconds in times.items():
        print(f"{name:36}{seconds / steps * 1e6:10.1f}{seconds / hand:12.2f}")
    memory = times["fit, in memory"]
    print(f"in memory / by hand            {memory / hand:6.2f}   (bar: <= 1.15)")
    print(f"iterator / by hand             {times['fit, iterator, K=32'] / hand:6.2f}   (bar: <= 1.30)")
    print(f"Python loop / in memory        {times['Python loop of jitted steps'] / memory:6.2f}   (bar: >= 5)")
    for name, run in (("in memory", in_memory), ("iterator", iterator)):
        cost, error = paired(run, lambda run=run: run(ProgressBar(stream=Terminal())), 8 * repeats)
        print(f"progress bar, {name:17}{cost:6.1%} +- {error:.1%}   (bar: < 2 %)")


def checkpoints(megabytes: int) -> None:
    # Adam keeps two more arrays per weight.
    size = int((megabytes * 1e6 / 4 / 3) ** 0.5)
    model = eqx.nn.Linear(size, size, use_bias=False, key=jr.key(0))
    step = make_step(lambda model, batch, key: jnp.mean(jax.vmap(model)(batch) ** 2), optax.adam(1e-3))
    state = step.init(model, key=jr.key(1))
    folder = tempfile.mkdtemp()
    try:
        checkpoint = Checkpoint(folder, save_iterator=False)
        batch = jnp.ones((1, size))
        state, _ = fit(state, step, [batch] * 2, epochs=1, callbacks=[checkpoint])  # compiles
        manager_memory = checkpoint.init(_plan(int(state.step)))
        state = jax.block_until_ready(eqx.filter_jit(step)(batch, state)[1])
        began = time.perf_counter()
        checkpoint._save(manager_memory[0], int(state.step), state, None, None)
        waited = time.perf_counter() - began
        manager_memory[0].wait_until_finished()
        written = time.perf_counter() - began
        manager_memory[0].close()
        began = time.perf_counter()
        back = jax.block_until_ready(checkpoint.restore(state))
        restored = time.perf_counter() - began
        assert eqx.tree_equal(back, state)
    finally:
        shutil.rmtree(folder)
    print(f"\ncheckpoint of {3 * size * size * 4 / 1e6:.0f} MB")
    print(f"fit waits for                  {waited * 1e3:6.0f} ms")
    print(f"on disk after                  {written * 1e3:6.0f} ms")
    print(f"restored and verified in       {restored * 1e3:6.0f} ms")


def _plan(first_step: int):
    from eqx_dynamics.training import Plan

    return Plan(first_step, None, None, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few steps and a small checkpoint: does it run")
    arguments = parser.parse_args()
    overhead(*((64, 2, 2) if arguments.small else (512, 16, 7)))
    checkpoints(1 if arguments.small else 100)


if __name__ == "__main__":
    main()
