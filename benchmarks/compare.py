"""Ours and the peers, each in its own process, in turn, several rounds in one sitting: the ratio table.

    python benchmarks/compare.py                                    # every layer at 50,000 nodes, 1,000,000 edges
    python benchmarks/compare.py --layers gat --rounds 5
    python benchmarks/compare.py --nodes 2708 --edges 10556 --features 1433 --hidden 64 --threads 1   # Cora's size

Take it on a quiet machine: the load average is printed with the table, and only ratios of one sitting count. A cell is
the median over rounds of the process's median step; a ratio above 1 means that ours is faster (or smaller).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping

from _problem import Problem


HERE = pathlib.Path(__file__).parent
LAYERS = ("gcn", "sage", "gat", "gatv2", "transformer", "edge")
PEERS = ("ours", "ours-heaps", "jraphx", "pyg", "pyg-csr")
# torch's compressed layout changes nothing for layers that gather; they are timed on the edge list alone.
_HAS_CSR = ("gcn", "sage", "gat")


# What a process does about the temporary memory of a step. By default XLA maps it anew at every call, and every page of
# 4 KiB is touched for the first time again. In heaps of 16 MiB glibc keeps most of it (a compiler option of ours to
# choose: arrays of the peers are larger); with its pages of 2 MiB there is little to touch, for any library.
MEMORY = {
    "default": {},
    "heaps": {"XLA_FLAGS": "--xla_multiheap_size_constraint_per_heap=16777216", "TF_CPP_MIN_LOG_LEVEL": "2"},
    "huge": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
}


def run(python: str, peer: str, layer: str, sizes: dict[str, int], variables: Mapping[str, str]) -> dict | None:
    """One process of `train_step.py` with more environment variables; `None` if the peer lacks the layer."""
    options = [f"--{name}={value}" for name, value in sizes.items()]
    command = [python, str(HERE / "train_step.py"), f"--layer={layer}", f"--peer={peer}", *options]
    environment = os.environ | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")} | dict(variables)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(f"{peer} {layer}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[tuple[str, str], list[dict]], layers: list[str]) -> list[str]:
    """Markdown rows: step, first call and memory of ours, and ratios to every peer."""

    def middle(layer, peer, key):
        return statistics.median(r[key] for r in results[layer, peer])

    rows = [
        "| layer | ours: step ms | first call s | peak GB | temporary MB "
        "| peer | step ms | peak GB | speed-up | memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for layer in layers:
        if not results.get((layer, "ours")):
            continue
        step, peak = middle(layer, "ours", "step_ms"), middle(layer, "ours", "peak_rss_gb")
        first = middle(layer, "ours", "first_call_s")
        temporary = results[layer, "ours"][0]["temp_bytes"]
        head = f"| {layer} | {step:.1f} | {first:.2f} | {peak:.2f} | {(temporary or 0) / 1e6:.0f} "
        for peer in PEERS[1:]:
            if results.get((layer, peer)):
                theirs, their_peak = middle(layer, peer, "step_ms"), middle(layer, peer, "peak_rss_gb")
                ratios = f"{theirs / step:.2f}x | {peak / their_peak:.2f}x"
                rows.append(f"{head}| {peer} | {theirs:.1f} | {their_peak:.2f} | {ratios} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS))
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers installed")
    parser.add_argument("--memory", choices=MEMORY, default="default", help="of every library")
    parser.add_argument("--json", type=pathlib.Path, help="write every measurement here")
    for field in dataclasses.fields(Problem)[1:]:
        parser.add_argument(f"--{field.name}", type=int, default=field.default)
    options = parser.parse_args()
    sizes = {field.name: getattr(options, field.name) for field in dataclasses.fields(Problem)[1:]}

    results: dict[tuple[str, str], list[dict]] = {}
    missing = set()
    for _ in range(options.rounds):
        for layer in options.layers:
            for peer in options.peers:
                if (layer, peer) in missing or (peer == "pyg-csr" and layer not in _HAS_CSR):
                    continue
                library, heaps = peer.removesuffix("-heaps"), MEMORY["heaps"] if peer.endswith("-heaps") else {}
                python = sys.executable if library == "ours" else options.peer_python
                result = run(python, library, layer, sizes, MEMORY[options.memory] | heaps)
                if result is None:
                    missing.add((layer, peer))
                else:
                    results.setdefault((layer, peer), []).append(result | {"load": os.getloadavg()[0]})
    print("\n".join(table(results, options.layers)))
    print(f"\nload average {os.getloadavg()[0]:.2f}, {os.cpu_count()} CPUs, {sizes}")
    if options.json:
        options.json.write_text(json.dumps([r for rs in results.values() for r in rs], indent=1))


if __name__ == "__main__":
    main()
