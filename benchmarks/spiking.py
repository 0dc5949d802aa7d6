"""One spiking training step (loss and all gradients): ours, the obvious Equinox code, the peers, bare products.

    python benchmarks/spiking.py --shape wide        # 700-128-128-20, batch 128, T = 100
    python benchmarks/spiking.py --shape long        # 100-128-128-10, batch 16, T = 500
    python benchmarks/spiking.py --shape recurrent   # 100-128 ALIF with feedback-10, batch 16, T = 1000
    python benchmarks/spiking.py --shape convolution # twice 8 channels of 14 x 14, batch 16, T = 32, and in chunks
    python benchmarks/spiking.py --shape memory      # temporary memory against T, compiled and not run

All samples of one sitting are taken in turns, each between two runs of a fixed matrix product; a sample counts only if
both are within 25 % of that product's best (a quiet machine). Peers that are not installed are left out. Peers compute
the same network where they can (the loss is printed): $v \\leftarrow 0.9 v + W x$, soft reset, surrogate
$1 / (1 + 25 |v - 1|)^2$, leaky readout, cross-entropy of its mean over time.
"""

import argparse
import functools as ft
import json
import os
import time
from collections.abc import Callable
from typing import Any


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import eqx_dynamics.spiking as sp
from _spiking_peers import PEERS
from _spiking_problem import BETA, SHAPES, SLOPE, Problem, Shape, Variant, compiled, cross_entropy, make_problem
from eqx_dynamics import AbstractCell, PerSample, Sequential, Summed, scan


def linear(weight: np.ndarray) -> eqx.nn.Linear:
    layer = eqx.nn.Linear(weight.shape[1], weight.shape[0], use_bias=False, key=jax.random.key(0))
    return eqx.tree_at(lambda m: m.weight, layer, jnp.asarray(weight))


def network(problem: Problem, *, recurrent: bool = False) -> Sequential:
    shape, (first, middle, last) = problem.shape, problem.weights
    tau = float(sp.tau_from_beta(BETA))
    common: dict[str, Any] = dict(surrogate=sp.FastSigmoid(SLOPE), input_gain=sp.ConstantGain())
    readout = sp.LICell(shape.outputs, tau, input_gain=sp.ConstantGain())
    if recurrent:
        adaptation = sp.ThresholdAdaptation(200.0, strength=0.1)
        cell = sp.LIFCell(shape.hidden, tau, adaptation=adaptation, **common)
        return Sequential([linear(first), sp.Recurrent(cell, linear(middle)), linear(last), readout])
    lif = sp.LIFCell(shape.hidden, tau, **common)
    return Sequential([linear(first), lif, linear(middle), lif, linear(last), readout])


def ours(problem: Problem, *, recurrent: bool = False, summed: bool = False, **how: Any) -> Variant:
    """`scan` over a `Sequential`, whose readout is stacked or summed over time; `how` is passed to `scan`."""
    return training_step(network(problem, recurrent=recurrent), problem, summed=summed, **how)


def training_step(net: Any, problem: Problem, *, summed: bool = False, **how: Any) -> Variant:
    net, static = eqx.partition(net, eqx.is_inexact_array)

    def loss(net: Any, x: jax.Array) -> jax.Array:
        model = eqx.combine(net, static)
        if summed:
            _, state = scan(Summed(model), x, Summed(model).init_state(x.shape[1:2]), **how)
            return cross_entropy(state.total / x.shape[0], problem.y)
        membranes, _ = scan(model, x, model.init_state(x.shape[1:2]), **how)
        return cross_entropy(membranes.mean(0), problem.y)

    return compiled(loss, net, jnp.asarray(problem.x))


def convolution(**how: Any) -> Variant:
    """Two convolutions of spikes and a linear readout."""
    keys = jax.random.split(jax.random.key(0), 3)
    lif, convolve = sp.LIFCell((8, 14, 14)), ft.partial(eqx.nn.Conv2d, kernel_size=3, padding=1)
    layers = [convolve(1, 8, key=keys[0]), lif, convolve(8, 8, key=keys[1]), lif, PerSample(jnp.ravel, 3)]
    net = Sequential([*layers, eqx.nn.Linear(8 * 14 * 14, 10, key=keys[2]), sp.LICell(10)])
    rng = np.random.RandomState(0)
    x = (rng.rand(32, 16, 1, 14, 14) < 0.2).astype(np.float32)
    return training_step(net, Problem(Shape(32, 16, 196, 1568, 10), x, (), rng.randint(0, 10, 16)), **how)


def obvious(problem: Problem) -> Variant:
    """What one writes without this package: per-sample layers in one scan, mapped over the batch."""
    fast = sp.FastSigmoid(SLOPE)
    layers = tuple(linear(weight) for weight in problem.weights)
    hidden, outputs = problem.shape.hidden, problem.shape.outputs

    def fire(v: jax.Array, current: jax.Array) -> tuple[jax.Array, jax.Array]:
        v = BETA * v + current
        spikes = sp.spike(fast, v - 1)
        return v - jax.lax.stop_gradient(spikes), spikes

    def loss(layers: Any, x: jax.Array) -> jax.Array:
        def one(xs: jax.Array) -> jax.Array:
            def step(carry: Any, xt: jax.Array) -> tuple[Any, jax.Array]:
                a, b, u = carry
                a, spikes = fire(a, layers[0](xt))
                b, spikes = fire(b, layers[1](spikes))
                u = BETA * u + layers[2](spikes)
                return (a, b, u), u

            start = (jnp.zeros(hidden), jnp.zeros(hidden), jnp.zeros(outputs))
            return jax.lax.scan(step, start, xs)[1].mean(0)

        return cross_entropy(jax.vmap(one, in_axes=1)(x), problem.y)

    return compiled(loss, layers, jnp.asarray(problem.x))


def everything_kept(problem: Problem) -> Variant:
    """Layer by layer through the whole sequence, each with one scan: what layers remember by themselves."""
    layers, static = eqx.partition(network(problem).layers, eqx.is_inexact_array)

    def loss(layers: Any, xs: jax.Array) -> jax.Array:
        for layer in eqx.combine(layers, static):
            if isinstance(layer, AbstractCell):
                xs, _ = scan(layer, xs, layer.init_state(xs.shape[1:2]))
            else:
                xs = (xs.reshape(-1, xs.shape[-1]) @ layer.weight.T).reshape(*xs.shape[:2], -1)
        return cross_entropy(xs.mean(0), problem.y)

    return compiled(loss, layers, jnp.asarray(problem.x))


def products(problem: Problem, *, copied: bool = False) -> Variant:
    """Only the matrix products that the step cannot avoid: three forward, three for weights, two for hidden spikes.

    Each over all steps and samples at once, operands as they lie in memory, every result written out. Nothing orders
    them: XLA may run them side by side (one after the other they take a little longer).

    `copied`: with the left operand of each product for a weight transposed by a copy first, as our layers do on CPU.
    """
    shape = problem.shape
    rows = shape.num_steps * shape.batch
    rng = np.random.RandomState(1)
    spikes = [jnp.asarray(rng.rand(rows, shape.hidden).astype(np.float32)) for _ in range(2)]
    grads = [jnp.asarray(rng.randn(rows, n).astype(np.float32)) for n in (shape.hidden, shape.hidden, shape.outputs)]
    weights = tuple(jnp.asarray(weight) for weight in problem.weights)

    @jax.jit
    def run(x: jax.Array, spikes: Any, grads: Any, weights: Any) -> Any:
        inputs = (x.reshape(rows, -1), *spikes)
        forward = [i @ w.T for i, w in zip(inputs, weights, strict=True)]
        as_rows = jax.lax.optimization_barrier if copied else lambda array: array
        to_weights = [as_rows(g.T) @ i for i, g in zip(inputs, grads, strict=True)]
        return forward, to_weights, [g @ w for g, w in zip(grads[1:], weights[1:], strict=True)]

    args = (jnp.asarray(problem.x), spikes, grads, weights)
    return Variant(lambda: jax.block_until_ready(run(*args)), {})


def measure(variants: dict[str, Variant], reps: int, budget: float) -> dict[str, dict[str, Any]]:
    """Milliseconds, minimum and median of the samples taken while the machine was quiet, all variants in turns."""
    a, b = jnp.ones((12800, 700)), jnp.ones((700, 128))
    product = jax.jit(lambda a, b: a @ b)

    def timed(run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def calibrate() -> float:
        return timed(lambda: jax.block_until_ready(product(a, b)))

    for variant in variants.values():
        variant.run(), variant.run()
    best = min(calibrate() for _ in range(30))
    quiet: dict[str, list[float]] = {name: [] for name in variants}
    every: dict[str, list[float]] = {name: [] for name in variants}
    end = time.time() + budget
    while time.time() < end and any(len(samples) < reps for samples in quiet.values()):
        for name, variant in variants.items():
            before = calibrate()
            seconds = timed(variant.run)
            after = calibrate()
            best = min(best, before, after)
            every[name].append(seconds)
            if max(before, after) <= 1.25 * best:
                quiet[name].append(seconds)

    def summary(name: str) -> dict[str, Any]:
        samples = quiet[name]
        median = round(1e3 * float(np.median(samples)), 1) if samples else None
        return {"min_ms": round(1e3 * min(every[name]), 1), "median_quiet_ms": median, "quiet_samples": len(samples)}

    return {name: summary(name) | variant.facts for name, variant in variants.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=(*SHAPES, "convolution", "memory"), default="wide")
    parser.add_argument("--reps", type=int, default=8)
    parser.add_argument("--budget", type=float, default=420.0, help="seconds of measuring at most")
    parser.add_argument("--only", default="", help="variants whose name contains one of these, separated by |")
    args = parser.parse_args()
    if args.shape == "memory":
        return print_memory()
    if args.shape == "convolution":
        pieces = {"ours": convolution(), "in chunks of 8": convolution(chunk=8)}
        for name, row in measure(pieces, args.reps, args.budget).items():
            print(json.dumps({"name": name, "shape": args.shape, **row}))
        return None
    recurrent = args.shape == "recurrent"
    problem = make_problem(SHAPES[args.shape], recurrent=recurrent)
    makers: dict[str, Callable[[], Variant]] = {"ours": lambda: ours(problem, recurrent=recurrent)}
    if not recurrent:
        makers |= {
            "ours, checkpointed chunks of 5": lambda: ours(problem, chunk=5, checkpoint=True),
            "ours, checkpointed chunks of 10": lambda: ours(problem, chunk=10, checkpoint=True),
            "ours, chunks of 5, readout summed": lambda: ours(problem, summed=True, chunk=5, checkpoint=True),
            "layer by layer, everything kept": lambda: everything_kept(problem),
            "obvious Equinox": lambda: obvious(problem),
            "bare products": lambda: products(problem),
            "bare products by our kernels": lambda: products(problem, copied=True),
        }
    makers |= {name: lambda make=make: make(problem, recurrent) for name, make in PEERS.items()}
    variants = {}
    for name, make in makers.items():
        if not args.only or any(part in name for part in args.only.split("|")):
            try:
                variants[name] = make()
            except ImportError as error:
                print(f"left out: {name} ({error})")
            except NotImplementedError as error:
                print(f"left out: {name}: {error}")
    rows = measure(variants, args.reps, args.budget)
    for name, row in rows.items():
        print(json.dumps({"name": name, "shape": args.shape, **row}))
    print_ratios(rows, {name: row["min_ms"] for name, row in rows.items() if name in PEERS})


def print_ratios(rows: dict[str, dict[str, Any]], peers: dict[str, float]) -> None:
    """Ours over the fastest peer, over bare products; and of other ways of running, time and memory over ours."""
    if "ours" not in rows:
        return
    mine = rows["ours"]
    if peers:
        fastest = min(peers, key=lambda name: peers[name])
        print(f"ours / fastest peer ({fastest}): {ratio(mine, rows[fastest])}")
    for name, row in rows.items():
        if name.startswith("bare products"):
            print(f"ours / {name}: {ratio(mine, row)}")
        elif name not in peers and name != "ours":
            print(f"{name} / ours: {ratio(row, mine)}, memory {row['temp_mb'] / mine['temp_mb']:.2f}x")


def ratio(row: dict[str, Any], other: dict[str, Any]) -> str:
    """Of the least times, and of the medians while the machine was quiet."""
    medians = row["median_quiet_ms"], other["median_quiet_ms"]
    quiet = f", medians {medians[0] / medians[1]:.2f}x" if all(medians) else ""
    return f"{row['min_ms'] / other['min_ms']:.2f}x{quiet}"


def print_memory() -> None:
    """Temporary memory, MB, against the number of steps."""
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "sqrt T": {"checkpoint": True},
        "chunks of 20": {"chunk": 20, "checkpoint": True},
        "chunks of 20, readout summed": {"chunk": 20, "checkpoint": True, "summed": True},
    }
    for num_steps in (100, 400, 1600, 6400, 10_000):
        problem = make_problem(Shape(num_steps, 32, 100, 128, 10), recurrent=False)
        print(
            json.dumps({"T": num_steps} | {name: ours(problem, **how).facts["temp_mb"] for name, how in ways.items()})
        )


if __name__ == "__main__":
    main()
