"""The one problem every peer solves: a full-graph training step of two layers and a linear map on a power-law graph."""

import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np


Layer = Literal["gcn", "sage", "gat", "gatv2", "transformer", "edge", "nnconv"]
Peer = Literal["ours", "pyg", "pyg-csr", "jraphx", "jraph"]
HEADS = 4
EDGE_FEATURES = 4


@dataclasses.dataclass(frozen=True)
class Problem:
    """Sizes of the problem."""

    layer: Layer
    nodes: int = 50_000
    edges: int = 1_000_000
    features: int = 64
    hidden: int = 64
    classes: int = 8
    steps: int = 5
    threads: int = 2
    per_dispatch: int = 0  # steps that `fit` puts in one program; 0: a step called by itself, without `fit` (ours only)


@dataclasses.dataclass(frozen=True)
class Arrays:
    """One draw of the problem: power-law in-degrees, normal features, uniform labels."""

    edge_index: np.ndarray
    x: np.ndarray
    y: np.ndarray
    edge_attr: np.ndarray | None


def draw(problem: Problem) -> Arrays:
    """The same arrays for every peer."""
    rng = np.random.default_rng(0)
    weight = rng.pareto(1.5, problem.nodes) + 1
    senders = rng.integers(0, problem.nodes, problem.edges)
    receivers = rng.choice(problem.nodes, problem.edges, p=weight / weight.sum())
    x = rng.standard_normal((problem.nodes, problem.features), dtype=np.float32)
    edge_attr = (
        rng.standard_normal((problem.edges, EDGE_FEATURES), dtype=np.float32) if problem.layer == "nnconv" else None
    )
    y = rng.integers(0, problem.classes, problem.nodes)
    return Arrays(np.stack([senders, receivers]).astype(np.int32), x, y.astype(np.int32), edge_attr)


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Mean cross-entropy for the libraries on JAX; XLA folds a scatter over all nodes in the gradient of optax's."""
    import jax

    picked = jax.numpy.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    return -picked.mean()


def measure(
    problem: Problem,
    peer: Peer,
    step: Callable[[], float],
    temp_bytes: Callable[[], int | None],
    turns: Iterable[object] = (None,),
) -> None:
    """Times `step`, `problem.steps` calls in each of the `turns`, and prints one line of JSON."""
    per_call = max(problem.per_dispatch, 1)
    start = time.perf_counter()
    first_loss = step()
    first = time.perf_counter() - start
    times, faults = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in turns:
        times.append([])
        for _ in range(problem.steps):
            start = time.perf_counter()
            loss = step()
            times[-1].append((time.perf_counter() - start) / per_call * 1e3)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    if not loss < first_loss:
        raise RuntimeError(f"{peer} does not learn: the loss went from {first_loss} to {loss}.")
    peak_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    every = [time for turn in times for time in turn]
    result = {
        "peer": peer,
        **dataclasses.asdict(problem),
        "step_ms": round(statistics.median(every), 2),
        "best_step_ms": round(min(every), 2),
        "turn_ms": [round(statistics.median(turn), 2) for turn in times],
        "first_call_s": round(first, 3),
        "peak_rss_gb": round(peak_kilobytes * 1024 / 1e9, 3),
        "temp_bytes": temp_bytes(),
        "fresh_mb_per_step": round(faults * resource.getpagesize() / 1e6 / len(every) / per_call, 1),
    }
    print(json.dumps(result))
    sys.stdout.flush()
