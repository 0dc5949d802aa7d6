"""What checking shapes and types costs: at import, per eager call, per trace. Nothing is checked in compiled code.

    python benchmarks/typecheck_cost.py [--repeats 7]

Each number is the least of interleaved subprocesses, with checks and with `JAXTYPING_DISABLE=1`. About a minute on two
quiet cores; run it twice after an edit, since the first run compiles bytecode.
"""

import argparse
import json
import os
import subprocess
import sys
import time


EVERYTHING = """
import importlib, pkgutil, eqx_graph, eqx_dynamics
for package in (eqx_graph, eqx_dynamics):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""
IMPORTS = {
    "import jax, equinox": "import jax, equinox",
    "and optax, jaxtyping, beartype": "import jax, equinox, optax, jaxtyping, beartype",
    "and eqx_graph, eqx_dynamics": "import jax, equinox, eqx_graph, eqx_dynamics",
    "and every room of both": "import jax, equinox\n" + EVERYTHING,
}


def import_seconds(statement: str) -> float:
    program = f"import time\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def least_microseconds(call, number: int, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(number):
            call()
        times.append((time.perf_counter() - start) / number)
    return 1e6 * min(times)


def measure_calls() -> dict[str, float]:
    """In a fresh process, with whatever `JAXTYPING_DISABLE` it was started with; microseconds."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr

    from eqx_dynamics.spiking import LIFCell
    from eqx_graph.nn import GCNConv
    from eqx_graph.ops import segment_sum

    rows, ids = jnp.ones((16, 4)), jnp.zeros(16, jnp.int32)
    edges = jnp.zeros((2, 16), jnp.int32)
    layers = [GCNConv(4, 4, key=key) for key in jr.split(jr.key(0), 16)]
    cell = LIFCell(4)
    state = cell.init_state((16,))

    def network(x: jax.Array) -> jax.Array:
        for layer in layers:
            x = layer(x, edges)
        return x

    def trace() -> None:
        jax.clear_caches()
        eqx.filter_make_jaxpr(network)(rows)

    return {
        "eager `segment_sum`": least_microseconds(lambda: segment_sum(rows, ids, 4), 200),
        "eager `LIFCell` step": least_microseconds(lambda: cell(rows, state), 20),
        "construct a `GCNConv`": least_microseconds(lambda: GCNConv(4, 4, key=jr.key(0)), 10),
        "trace 16 `GCNConv`": least_microseconds(trace, 1, repeats=3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure_calls()))
        return
    imports = {name: min(import_seconds(code) for _ in range(options.repeats)) for name, code in IMPORTS.items()}
    base = imports["import jax, equinox"]
    print("| import | seconds | beyond jax and equinox |\n|---|---|---|")
    for name, seconds in imports.items():
        print(f"| {name} | {seconds:.2f} | {seconds - base:+.2f} |")
    runs: dict[str, list[dict[str, float]]] = {"0": [], "1": []}
    for _ in range(max(1, options.repeats // 2)):
        for disable, results in runs.items():
            child = [sys.executable, __file__, "--child"]
            environment = os.environ | {"JAXTYPING_DISABLE": disable}
            done = subprocess.run(child, env=environment, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout))
    print("\n| call | checked | unchecked | difference |\n|---|---|---|---|")
    for name in runs["0"][0]:
        checked, unchecked = (min(result[name] for result in runs[disable]) for disable in ("0", "1"))
        print(f"| {name} | {checked:.0f} us | {unchecked:.0f} us | {checked - unchecked:+.0f} us |")


if __name__ == "__main__":
    main()
