"""One training step of one layer in one library, as a line of JSON.

    python benchmarks/train_step.py --layer gat --nodes 50000 --edges 1000000 --features 64 --hidden 64 --classes 8
    python benchmarks/train_step.py --layer gat --peer jraphx
    python benchmarks/train_step.py --layer gat --keep-freed-memory

Prints the median step in ms, the first call (trace and compile) in s, peak memory of the process in GB, and the bytes
of temporary memory of the compiled step. The process is bound to `--threads` CPUs. Peers need the extra `bench`.
"""

import argparse
import dataclasses
import itertools
import os
import sys
import typing
from collections.abc import Iterator

from _problem import Layer, Peer, Problem, draw, measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layer", choices=typing.get_args(Layer), required=True)
    parser.add_argument("--peer", choices=typing.get_args(Peer), default="ours")
    for field in dataclasses.fields(Problem)[1:]:
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    parser.add_argument("--keep-freed-memory", action="store_true", help="eqx_dynamics.training.keep_freed_memory()")
    parser.add_argument("--in-turns", action="store_true", help="measure when a line comes in (compare.py)")
    options = vars(parser.parse_args())
    peer, keep, in_turns = (options.pop(name) for name in ("peer", "keep_freed_memory", "in_turns"))
    problem = Problem(**options)
    if problem.per_dispatch and peer != "ours":
        parser.error("--per-dispatch is for ours: the peers have no training loop, their steps are called one by one")
    if hasattr(os, "sched_setaffinity"):  # before any library starts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: problem.threads])
    if keep:
        from eqx_dynamics.training import keep_freed_memory

        keep_freed_memory()
    arrays = draw(problem)
    if peer == "ours":
        from _ours import make_step

        step, temp_bytes = make_step(problem, arrays)
    else:
        import _peers

        step, temp_bytes = _peers.make_step(problem, peer, arrays)
    measure(problem, peer, step, temp_bytes, turns() if in_turns else (None,))


def turns() -> Iterator[str]:
    """A turn for every line that comes in; a line goes out when this process is ready, and after every turn."""
    for line in itertools.chain([""], sys.stdin):
        if line:
            yield line
        print("ready", flush=True)


if __name__ == "__main__":
    main()
