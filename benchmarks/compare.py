"""Ours and the peers, each in its own process, all alive and taking turns: the ratio table.

    python benchmarks/compare.py                                    # every layer at 50,000 nodes, 1,000,000 edges
    python benchmarks/compare.py --layers gat --rounds 5
    python benchmarks/compare.py --nodes 2708 --edges 10556 --features 1433 --hidden 64 --threads 1   # Cora's size

A shared machine changes speed within seconds: a ratio is the median over turns of two steps taken one after the other,
a time the median over processes of all their steps. The load average is printed with the table.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from _problem import Problem


HERE = pathlib.Path(__file__).parent
LAYERS = ("gcn", "sage", "gat", "gatv2", "transformer", "edge")
# "-kept": after `keep_freed_memory`, which helps whatever runs in the process. "-fit": by `eqx_dynamics.training.fit`,
# eight steps in one program.
PEERS = ("ours", "ours-fit", "ours-kept", "jraphx", "pyg", "pyg-csr")
# torch's compressed layout changes nothing for layers that gather; they are timed on the edge list alone.
_HAS_CSR = ("gcn", "sage", "gat")


def command(python: str, peer: str, layer: str, sizes: dict[str, int]) -> list[str]:
    """The call of `train_step.py` for a contender."""
    library = peer.removesuffix("-kept").removesuffix("-fit")
    sizes = sizes | {"per_dispatch": 8} if peer.endswith("-fit") else sizes
    options = [f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()]
    options += ["--keep-freed-memory"] if peer.endswith("-kept") else []
    return [python, str(HERE / "train_step.py"), f"--layer={layer}", f"--peer={library}", *options]


def run(python: str, peer: str, layer: str, sizes: dict[str, int]) -> dict | None:
    """One process of `train_step.py`, alone; `None` if it fails."""
    return take_turns({peer: python}, layer, sizes, 1).get(peer)


def take_turns(pythons: dict[str, str], layer: str, sizes: dict[str, int], rounds: int) -> dict[str, dict]:
    """A process for each contender, all alive, of which one works at a time; those that fail are left out."""
    environment = os.environ | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    results, running = {}, {}
    with contextlib.ExitStack() as stack:
        for peer, python in pythons.items():
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            call = [*command(python, peer, layer, sizes), "--in-turns"]
            process = stack.enter_context(subprocess.Popen(call, stderr=errors, **pipes))
            running[peer] = process, errors
            process.stdout.readline()
        for _ in range(rounds):
            for process, _ in running.values():
                with contextlib.suppress(BrokenPipeError):  # it has failed, and says why below
                    print("turn", file=process.stdin, flush=True)
                process.stdout.readline()
        for peer, (process, errors) in running.items():
            lines = process.communicate()[0].splitlines()
            if process.returncode == 0:
                results[peer] = json.loads(lines[-1])
            else:
                errors.seek(0)
                print(f"{peer} {layer}: {(errors.read().strip().splitlines() or ['no message'])[-1]}", file=sys.stderr)
    return results


def table(results: dict[tuple[str, str], list[dict]]) -> list[str]:
    """Markdown, a row for each library: its step by that of ours in the same turn, and our peak memory by its own."""

    def middle(layer: str, peer: str, key: str) -> float:
        return statistics.median(r[key] for r in results[layer, peer])

    references = [peer for peer in ("ours", "ours-fit", "ours-kept") if any(peer == p for _, p in results)]
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
                both = zip(results[layer, peer], results[layer, name], strict=True)
                turns = [zip(its["turn_ms"], ours["turn_ms"], strict=True) for its, ours in both]
                faster = statistics.median(theirs / ours for turn in turns for theirs, ours in turn)
                memory = middle(layer, name, "peak_rss_gb") / peak
                cells += f" {faster:.2f}x | {memory:.2f}x |"
            else:
                cells += " | |"
        rows.append(cells)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS))
    parser.add_argument("--peers", nargs="+", default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=4, help="turns of every process")
    parser.add_argument("--processes", type=int, default=2, help="processes of every contender, one after another")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers installed")
    parser.add_argument("--json", type=pathlib.Path, help="write every measurement here")
    for field in dataclasses.fields(Problem)[1:]:
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    options = parser.parse_args()
    sizes = {field.name: getattr(options, field.name) for field in dataclasses.fields(Problem)[1:]}

    results: dict[tuple[str, str], list[dict]] = {}
    for layer in options.layers:
        pythons = {
            peer: sys.executable if peer.startswith("ours") else options.peer_python
            for peer in options.peers
            if layer in _HAS_CSR or not peer.startswith("pyg-csr")
        }
        for _ in range(options.processes):
            for peer, result in take_turns(pythons, layer, sizes, options.rounds).items():
                results.setdefault((layer, peer), []).append(result)
    print("\n".join(table(results)))
    print(f"\nload average {os.getloadavg()[0]:.2f}, {os.cpu_count()} CPUs, {sizes}")
    if options.json:
        options.json.write_text(json.dumps([r for rs in results.values() for r in rs], indent=1))


if __name__ == "__main__":
    main()
