"""Time and memory of a training step against the number of edges: slopes on a log-log plot, as PNG and table.

    python benchmarks/scaling.py --layers gcn gat edge --largest 10000000
    python benchmarks/scaling.py --keep-freed-memory
    python benchmarks/scaling.py --products          # the bare sparse product beside a model of the memory it reads

There are 20 edges a node. Every point is its own process, so that its peak memory is its own. The slope is fitted to
the points from 1e5 edges on, where the work outweighs the fixed costs; the bar is 1.1.
"""

import argparse
import pathlib
import sys

import jax.numpy as jnp
import numpy as np

from compare import run
from eqx_graph import EdgeIndex, ops
from floor import least


DEGREE = 20


def slope(edges: list[int], values: list[float]) -> float:
    """Exponent of a power law through the points from 1e5 edges on."""
    large = [(e, v) for e, v in zip(edges, values, strict=True) if e >= 100_000]
    if len(large) < 2:
        return float("nan")
    logarithms = np.log(np.array(large))
    return float(np.polyfit(logarithms[:, 0], logarithms[:, 1], 1)[0])


def plot(points: dict[str, list[dict]], path: pathlib.Path) -> None:
    """Two log-log panels."""
    import matplotlib.pyplot as plt

    figure, (time_axis, memory_axis) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for layer, results in points.items():
        edges = [r["edges"] for r in results]
        steps, temporary = [r["step_ms"] for r in results], [r["temp_bytes"] / 1e6 for r in results]
        time_axis.loglog(edges, steps, "o-", label=f"{layer}, slope {slope(edges, steps):.2f}")
        memory_axis.loglog(edges, temporary, "o-", label=f"{layer}, slope {slope(edges, temporary):.2f}")
    edges = np.array([r["edges"] for r in next(iter(points.values()))])
    width = next(iter(points.values()))[0]["hidden"]
    memory_axis.loglog(edges, edges * width * 4 / 1e6, "k--", label="one array of all messages")
    time_axis.set(xlabel="edges", ylabel="training step (ms)")
    memory_axis.set(xlabel="edges", ylabel="temporary memory of the step (MB)")
    for axis in (time_axis, memory_axis):
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def products(sizes: list[int], features: int, cache_bytes: float) -> None:
    """The compressed product alone, beside a model in which each edge reads one row, from the cache or from memory.

    A row is in the cache with probability cache / array. The time of a row in the cache is that of the product at the
    second size; that of a row in memory is that of a product that reads an array eight times as large as the cache.
    """
    row, rng = 4 * features, np.random.default_rng(0)

    def product(edges: int, num_senders: int) -> float:
        ends = rng.integers(0, num_senders, edges), rng.integers(0, edges // DEGREE, edges)
        index = np.stack(ends).astype(np.int32)
        layout = EdgeIndex.from_array(index, num_senders=num_senders, num_receivers=edges // DEGREE)
        return least(ops.matmul, layout, jnp.ones(edges), jnp.ones((num_senders, features)))

    measured, arrays = [product(edges, edges // DEGREE) for edges in sizes], [edges // DEGREE * row for edges in sizes]
    near, far = measured[1] / sizes[1], product(2**20, int(8 * cache_bytes) // row) / 2**20
    print(f"a row of {row} bytes: {1e6 * near:.1f} ns from the cache, {1e6 * far:.1f} ns from memory\n")
    print("| edges | node array MB | rows in the cache | product ms | ns an edge | model ms |")
    print("|---|---|---|---|---|---|")
    modelled = []
    for edges, array, time in zip(sizes, arrays, measured, strict=True):
        hit = min(1.0, cache_bytes / array)
        modelled.append(edges * (hit * near + (1 - hit) * far))
        cells = f"{array / 1e6:.1f} | {hit:.0%} | {time:.2f} | {1e6 * time / edges:.1f} | {modelled[-1]:.2f}"
        print(f"| {edges} | {cells} |", flush=True)
    both = f"{slope(sizes, measured):.2f} measured, {slope(sizes, modelled):.2f} in the model"
    print(f"\nexponent from 1e5 edges on: {both}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=["gcn", "gat", "edge"])
    parser.add_argument("--smallest", type=int, default=10_000)
    parser.add_argument("--largest", type=int, default=10_000_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("scaling.png"))
    parser.add_argument("--keep-freed-memory", action="store_true", help="eqx_dynamics.training.keep_freed_memory()")
    parser.add_argument("--products", action="store_true", help="only the bare sparse product, and its model")
    parser.add_argument("--cache-mb", type=float, default=32, help="last-level cache, for the model")
    options = parser.parse_args()

    count = round(np.log10(options.largest / options.smallest) * 2) + 1
    sizes = np.geomspace(options.smallest, options.largest, count).round().astype(int)
    if options.products:
        products([int(size) for size in sizes], options.features, options.cache_mb * 1e6)
        return
    points: dict[str, list[dict]] = {}
    print("| layer | edges | step ms | temporary MB | peak GB |\n|---|---|---|---|---|")
    for layer in options.layers:
        for edges in sizes:
            problem = {
                "nodes": int(edges) // DEGREE,
                "edges": int(edges),
                "steps": options.steps,
                "features": options.features,
                "hidden": options.hidden,
            }
            result = run(sys.executable, "ours-kept" if options.keep_freed_memory else "ours", layer, problem)
            if result is None:
                raise SystemExit(f"{layer} failed at {edges} edges")
            points.setdefault(layer, []).append(result)
            temporary, peak = result["temp_bytes"] / 1e6, result["peak_rss_gb"]
            print(f"| {layer} | {edges} | {result['step_ms']:.1f} | {temporary:.1f} | {peak:.2f} |", flush=True)
    for layer, results in points.items():
        edges = [r["edges"] for r in results]
        times, memory = ([r[key] for r in results] for key in ("step_ms", "temp_bytes"))
        print(f"{layer}: time exponent {slope(edges, times):.3f}, memory exponent {slope(edges, memory):.3f}")
    plot(points, options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
