"""What a training step cannot go below on this machine: every piece of it, alone, and how often each layer needs it.

    python benchmarks/floor.py                      # 50,000 nodes, 1,000,000 edges, 64 features, as in compare.py
    python benchmarks/floor.py --layers gat --edges 100000 --nodes 5000

First the pieces: a copy, dense products, sparse products, gathers and scatters of rows, exponentials, the loss, in a
process that keeps freed memory. Then, per layer, the sum of the pieces that its step must do, beside the step itself,
in processes of its own: as it is and with `keep_freed_memory` (the fresh memory a step touches is counted in page
faults). What lies between these is the kernel handing out zeroed pages; what lies between the sum and the step that
keeps memory is passes over arrays between the pieces. A bar below the sum asks for other kernels.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from _ours import make_conv
from _problem import HEADS, Problem, cross_entropy, draw
from compare import run
from eqx_dynamics.training import keep_freed_memory
from eqx_graph import EdgeIndex, ops


def least(function: Callable[..., Any], *args: Any, repeats: int = 15) -> float:
    """Milliseconds of the fastest of some calls of the compiled function."""
    compiled = jax.jit(function).lower(*args).compile()
    jax.block_until_ready(compiled(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def pieces(problem: Problem) -> dict[str, float]:
    """Milliseconds of every piece, by name."""
    arrays = draw(problem)
    edges = EdgeIndex.from_array(arrays.edge_index, num_senders=problem.nodes, num_receivers=problem.nodes)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((problem.nodes, problem.hidden), dtype=np.float32))
    heads = x.reshape(problem.nodes, HEADS, -1)
    matrix = jnp.asarray(rng.standard_normal((problem.hidden, problem.hidden), dtype=np.float32))
    one = jnp.ones(problem.edges)
    many = jnp.asarray(rng.random((problem.edges, HEADS), np.float32))
    large = jnp.zeros(2**26, jnp.float32)  # 256 MiB: no cache holds it
    functions: dict[str, tuple[Callable[..., Any], tuple]] = {
        "copy of 256 MiB": (lambda a: a + 1, (large,)),
        "node array, one pass": (lambda a: a + 1, (x,)),
        "dense product": (lambda a, w: a @ w, (x, matrix)),
        "dense weight gradient": (lambda a, b: a.T @ b, (x, x + 1)),
        "sparse product": (ops.matmul, (edges, one, x)),
        "sparse product, heads": (ops.matmul, (edges, many, heads)),
        "transposed product, heads": (_transposed(edges, many, heads), (edges, many, heads)),
        "edge dot products, heads": (ops.edge_dot, (edges, heads, heads + 1)),
        "GATv2's logits": (_both_ends, (edges, x, x + 1)),
        "GATv2's logits, backward": (
            lambda e, a, b, ct: jax.vjp(lambda a, b: _both_ends(e, a, b), a, b)[1](ct),
            (edges, x, x + 1, many),
        ),
        "numbers per head of both ends": (lambda e, a: e.send(a) + e.receive(a), (edges, heads[..., 0])),
        "numbers per head to an end": (lambda e, w: e.sum_received(w), (edges, many)),
        "range of all logits": (lambda w: (jnp.max(w), jnp.min(w)), (many,)),
        "exponentials per edge and head": (jnp.exp, (many,)),
        "linear head and loss, both ways": (_head, (x, matrix[:, : problem.classes], jnp.asarray(arrays.y))),
    }
    return {name: least(function, *args) for name, (function, args) in functions.items()}


def _transposed(edges: EdgeIndex, weight: jax.Array, values: jax.Array) -> Callable[..., Any]:
    del edges, weight
    return lambda e, w, ct: jax.linear_transpose(lambda v: ops.matmul(e, w, v), values)(ct)


def _both_ends(edges: EdgeIndex, a: jax.Array, b: jax.Array) -> jax.Array:
    """A number per edge and head that needs the features of both its ends, as they are in the layer."""
    conv = make_conv(Problem("gatv2", hidden=a.shape[1]), a.shape[1], jax.random.key(0))
    return ops.edge_map(edges, conv._logits, x_j=conv._ends(a), x_i=conv._ends(b))


def _head(x: jax.Array, matrix: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
    """What follows the layers in every step: the linear map, its loss, and their gradients."""
    return jax.grad(lambda x, matrix: cross_entropy(x @ matrix, labels), (0, 1))(x, matrix)


# How often the two layers, forward and backward, need each piece. The input's gradient is not needed.
_HEAD = {"linear head and loss, both ways": 1}
_SOFTMAX = {"range of all logits": 2, "exponentials per edge and head": 2, "numbers per head to an end": 2}
_PRODUCTS = {"sparse product, heads": 2, "transposed product, heads": 2, "edge dot products, heads": 2}
_ATTENTION = _HEAD | _SOFTMAX | _PRODUCTS
NEEDS: dict[str, dict[str, int]] = {
    "gcn": _HEAD | {"dense product": 3, "dense weight gradient": 2, "sparse product": 3, "node array, one pass": 6},
    "sage": _HEAD | {"dense product": 6, "dense weight gradient": 4, "sparse product": 3, "node array, one pass": 8},
    "gat": _ATTENTION
    | {
        "dense product": 3,
        "dense weight gradient": 2,
        "numbers per head of both ends": 4,
        "numbers per head to an end": 6,
        "node array, one pass": 10,
    },
    "gatv2": _ATTENTION
    | {
        "dense product": 6,
        "dense weight gradient": 4,
        "GATv2's logits": 2,
        "GATv2's logits, backward": 2,
        "node array, one pass": 10,
    },
    "transformer": _ATTENTION
    | {
        "dense product": 12,
        "dense weight gradient": 8,
        "edge dot products, heads": 4,
        "sparse product, heads": 4,
        "transposed product, heads": 4,
        "node array, one pass": 12,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", choices=NEEDS, default=list(NEEDS))
    parser.add_argument("--nodes", type=int, default=50_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--pieces", action="store_true", help="only the pieces, in this process, as JSON")
    options = parser.parse_args()
    sizes = {"nodes": options.nodes, "edges": options.edges, "steps": options.steps}
    if options.pieces:
        keep_freed_memory()
        print(json.dumps(pieces(Problem("gcn", **sizes))))
        return

    child = [sys.executable, __file__, "--pieces", f"--nodes={options.nodes}", f"--edges={options.edges}"]
    done = subprocess.run(child, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    print("| piece, alone | ms |\n|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:.2f} |")
    print(f"\ncopy bandwidth {2 * 2**28 / found['copy of 256 MiB'] / 1e6:.1f} GB/s\n")
    print("| layer | sum of its pieces ms | step ms | fresh MB, peak GB | step ms, kept | fresh MB, peak GB |")
    print("|---|---|---|---|---|---|")
    for layer in options.layers:
        total = sum(count * found[name] for name, count in NEEDS[layer].items())
        cells = [f"{total:.1f}"]
        for peer in ("ours", "ours-kept"):
            result = run(sys.executable, peer, layer, sizes)
            if result is None:
                raise SystemExit(f"the step of {layer} failed")
            memory = f"{result['fresh_mb_per_step']:.0f}, {result['peak_rss_gb']:.2f}"
            cells += [f"{result['best_step_ms']:.1f}", memory]
        print(f"| {layer} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
