"""Ours and the peers, each in its own process, in turn, several rounds in one sitting: the ratio table.

    python benchmarks/compare.py                                    # every layer at 50,000 nodes, 1,000,000 edges
    python benchmarks/compare.py --layers gat --rounds 5
    python benchmarks/compare.py --nodes 2708 --edges 10556 --features 1433 --hidden 64 --threads 1   # Cora's size

Take it on a quiet machine: the load average is printed with the table, and only ratios of one sitting count. A cell is
the median over rounds of the process's median step.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys

from _problem import Problem


HERE = pathlib.Path(__file__).parent
LAYERS = ("gcn", "sage", "gat", "gatv2", "transformer", "edge")
# "-kept": after `keep_freed_memory`, which helps whatever runs in the process. "-scanned": eight steps in one program,
# as `fit` runs them.
PEERS = ("ours", "ours-scanned", "ours-kept", "jraphx", "pyg", "pyg-csr")
# torch's compressed layout changes nothing for layers that gather; they are timed on the edge list alone.
_HAS_CSR = ("gcn", "sage", "gat")


def run(python: str, peer: str, layer: str, sizes: dict[str, int]) -> dict | None:
    """One process of `train_step.py`; `None` if the peer lacks the layer."""
    library = peer.removesuffix("-kept").removesuffix("-scanned")
    sizes = sizes | {"scan": 8} if peer.endswith("-scanned") else sizes
    options = [f"--{name}={value}" for name, value in sizes.items()]
    options += ["--keep-freed-memory"] if peer.endswith("-kept") else []
    command = [python, str(HERE / "train_step.py"), f"--layer={layer}", f"--peer={library}", *options]
    environment = os.environ | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(f"{peer} {layer}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def table(results: dict[tuple[str, str], list[dict]]) -> list[str]:
    """Markdown, a row for each library: its step by that of ours, and the peak memory of ours by its own."""

    def middle(layer: str, peer: str, key: str) -> float:
        return statistics.median(r[key] for r in results[layer, peer])

    references = [peer for peer in ("ours", "ours-scanned", "ours-kept") if any(peer == p for _, p in results)]
    beside = "".join(f" {name} is faster | its memory |" for name in references)
    rows = [
        f"| layer | library | step ms (least) | first call s | peak GB | temporary MB |{beside}",
        "|---|---|---|---|---|---" + 2 * len(references) * "|---" + "|",
    ]
    for layer, peer in sorted(results, key=lambda key: LAYERS.index(key[0]) if key[0] in LAYERS else len(LAYERS)):
        step, peak, first = (middle(layer, peer, key) for key in ("step_ms", "peak_rss_gb", "first_call_s"))
        least = min(r["best_step_ms"] for r in results[layer, peer])
        temporary = (results[layer, peer][0]["temp_bytes"] or 0) / 1e6
        cells = f"| {layer} | {peer} | {step:.1f} ({least:.1f}) | {first:.2f} | {peak:.2f} | {temporary:.0f} |"
        for name in references:
            if (layer, name) in results:
                faster, memory = step / middle(layer, name, "step_ms"), middle(layer, name, "peak_rss_gb") / peak
                cells += f" {faster:.2f}x | {memory:.2f}x |"
            else:
                cells += " | |"
        rows.append(cells)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS))
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers installed")
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
                if (layer, peer) in missing or (peer.startswith("pyg-csr") and layer not in _HAS_CSR):
                    continue
                python = sys.executable if peer.startswith("ours") else options.peer_python
                result = run(python, peer, layer, sizes)
                if result is None:
                    missing.add((layer, peer))
                else:
                    results.setdefault((layer, peer), []).append(result | {"load": os.getloadavg()[0]})
    print("\n".join(table(results)))
    print(f"\nload average {os.getloadavg()[0]:.2f}, {os.cpu_count()} CPUs, {sizes}")
    if options.json:
        options.json.write_text(json.dumps([r for rs in results.values() for r in rs], indent=1))


if __name__ == "__main__":
    main()
