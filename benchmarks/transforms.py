"""What the transforms cost: scans against `jax.lax.scan`, compiling in the background, the cache, type checks, tables.

    python benchmarks/transforms.py                      # everything, a few minutes
    python benchmarks/transforms.py --sections scan tables

Times are the minimum over interleaved repeats, in microseconds unless named otherwise. Comparisons run in one process,
alternating, so that a busy machine slows both sides.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.scipy.special
import tyro

from eqx_dynamics import scan, scan_until
from eqx_dynamics.transform import compile_ahead, grad, tabulate


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and repeats."""

    sections: tuple[str, ...] = ("scan", "compile", "cache", "typecheck", "tables", "nesting")
    num_steps: int = 1000
    width: int = 64
    repeats: int = 15
    seed: int = 0


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Minimum microseconds of each call, the calls taking turns."""
    for call in calls.values():
        jax.block_until_ready(call())
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            best[name] = min(best[name], 1e6 * (time.perf_counter() - start))
    return best


def report(title: str, times: dict[str, float], base: str | None = None) -> None:
    print(f"\n## {title}")
    for name, value in times.items():
        print(f"{name:42s} {value:12.1f}" + (f"  x{value / times[base]:.2f}" if base else ""))


def bench_scan(config: Config) -> None:
    """A GRU: the library's scan over the same step as `jax.lax.scan`, forward and gradient, and their memory."""
    gru = eqx.nn.GRUCell(config.width, config.width, key=jr.key(config.seed))
    xs = jr.normal(jr.key(1), (config.num_steps, config.width))
    start = jnp.zeros(config.width)

    def cell(gru: eqx.nn.GRUCell) -> Callable:
        def step(x: Any, state: Any, *, key: Any = None) -> tuple[Any, Any]:
            state = gru(x, state)
            return state, state

        return step

    def bare(gru: eqx.nn.GRUCell) -> Any:
        def step(h: Any, x: Any) -> tuple[Any, Any]:
            h = gru(x, h)
            return h, h

        return jnp.sum(jax.lax.scan(step, start, xs)[1] ** 2)

    def ours(gru: eqx.nn.GRUCell, **options: Any) -> Any:
        return jnp.sum(scan(cell(gru), xs, start, **options)[0] ** 2)

    def until(gru: eqx.nn.GRUCell, level: float = jnp.inf) -> Any:
        stopped = scan_until(cell(gru), xs, start, lambda out, _: jnp.max(jnp.abs(out)) > level)
        return jnp.sum(stopped.outputs**2)

    ways: dict[str, Callable] = {
        "jax.lax.scan": bare,
        "scan": ours,
        "scan, chunk=50": lambda gru: ours(gru, chunk=50),
        "scan, checkpoint": lambda gru: ours(gru, checkpoint=True),
        "scan_until, never": until,
        "scan_until, after the first step": lambda gru: until(gru, 0.0),
    }
    for title, wrap in (("forward", lambda f: f), ("gradient", eqx.filter_grad)):
        jitted = {name: eqx.filter_jit(wrap(way)) for name, way in ways.items()}
        calls = {name: (lambda f=f: f(gru)) for name, f in jitted.items()}
        report(f"scan of {config.num_steps} GRU steps, {title}", interleaved(calls, config.repeats), "jax.lax.scan")
        for name, way in ways.items():
            print(f"{name:42s} {compile_ahead(wrap(way), gru).result().memory_in_bytes() / 1e6:12.2f} MB planned")


def bench_compile(config: Config) -> None:
    """How often the main thread ticks, and its longest pause, while XLA compiles in the background."""
    model = eqx.nn.MLP(32, 32, 64, 60, activation=jnp.tanh, key=jr.key(config.seed))
    fn = grad(lambda m, x: jnp.sum(time.time() % 1000 * jax.vmap(m)(x)))  # A program no cache has.
    traced = time.perf_counter()
    future = compile_ahead(fn, model, jnp.ones((8, 32)))
    start = last = time.perf_counter()
    ticks, longest = 0, 0.0
    while not future.done():
        time.sleep(0.001)
        now = time.perf_counter()
        ticks, longest, last = ticks + 1, max(longest, now - last), now
    print("\n## compile_ahead")
    print(f"traced on the caller's thread in {start - traced:.2f} s, compiled behind it in {last - start:.2f} s;")
    print(f"meanwhile {ticks} ticks of 1 ms sleeps, longest pause {1e3 * longest:.1f} ms")
    jitted, compiled = eqx.filter_jit(fn), future.result()
    x = jnp.ones((8, 32))
    calls = {"eqx.filter_jit": lambda: jitted(model, x), "compile_ahead": lambda: compiled(model, x)}
    report("calling it", interleaved(calls, 20 * config.repeats), "eqx.filter_jit")


FIRST_CALL = """
import sys, time, jax, jax.numpy as jnp, jax.random as jr, equinox as eqx
from eqx_dynamics.transform import enable_compilation_cache
enable_compilation_cache(sys.argv[1], min_compile_seconds=0)
model = eqx.nn.MLP(32, 32, 256, 20, key=jr.key(0))
start = time.perf_counter()
jax.block_until_ready(eqx.filter_jit(eqx.filter_grad(lambda m, x: jnp.sum(jax.vmap(m)(x))))(model, jnp.ones((64, 32))))
print(time.perf_counter() - start)
"""

TYPECHECK = """
import time, jax, jax.numpy as jnp, equinox as eqx
from eqx_dynamics.spiking import LIFCell
cell = LIFCell(64)
x, state = jnp.ones((8, 64)), cell.init_state((8,))
jitted = eqx.filter_jit(cell)
def best(call, loops=200, repeats=9):
    jax.block_until_ready(call(x, state))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(loops): out = call(x, state)
        jax.block_until_ready(out)
        times.append((time.perf_counter() - start) / loops)
    return 1e6 * min(times)
times = []
for _ in range(5):
    start = time.perf_counter()
    eqx.filter_jit(lambda x, s: cell(x, s)).lower(x, state)
    times.append(1e6 * (time.perf_counter() - start))
print(best(cell), best(jitted), min(times))
"""


def python(code: str, *args: str, **env: str) -> list[float]:
    command = [sys.executable, "-c", code, *args]
    run = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True)
    return [float(word) for word in run.stdout.split()]


def bench_cache(config: Config) -> None:
    """First call of a 20-layer gradient in a new process, with an empty and with a filled cache."""
    with tempfile.TemporaryDirectory() as folder:
        times = {name: 1e6 * python(FIRST_CALL, folder)[0] for name in ("empty cache", "filled cache")}
    report("first call in a new process", times, "empty cache")


def bench_typecheck(config: Config) -> None:
    """One eager step of a LIF cell with the run-time checks and without (JAXTYPING_DISABLE=1)."""
    rounds = [(python(TYPECHECK), python(TYPECHECK, JAXTYPING_DISABLE="1")) for _ in range(3)]
    for i, name in enumerate(("eager call", "filter_jit call", "trace and lower")):
        times = {"checked": min(r[0][i] for r in rounds), "unchecked": min(r[1][i] for r in rounds)}
        report(f"type checks, {name} of a LIF cell", times, "unchecked")


def bench_tables(config: Config) -> None:
    """A cheap function (a Hodgkin-Huxley rate) and a costly one (digamma), and lookups of them, elementwise."""

    def rate(v: Any) -> Any:
        u = (v + 40) / 10
        safe = jnp.where(jnp.abs(u) < 1e-3, 1.0, u)
        return jnp.where(jnp.abs(u) < 1e-3, 1 + u / 2, safe / -jnp.expm1(-safe))

    for name, fn, lower, upper in (("rate", rate, -100, 60), ("digamma", jax.scipy.special.digamma, 1, 20)):
        table = tabulate(fn, lower, upper, tolerance=1e-4, outside="clamp")
        x = jr.uniform(jr.key(0), (100_000,), minval=lower, maxval=upper)
        for title, wrap in (("values", lambda f: f), ("gradient", lambda f: jax.grad(lambda at: jnp.sum(f(at))))):
            jitted = {way: eqx.filter_jit(wrap(f)) for way, f in (("function", fn), ("table", table))}
            calls = {way: (lambda f=f, x=x: f(x)) for way, f in jitted.items()}
            title = f"{name}, table of {table.values.size} points, {title} of 100,000"
            report(title, interleaved(calls, config.repeats), "function")


def bench_nesting(config: Config) -> None:
    """The three orders of jit and vmap that the development patterns warn about."""
    model = eqx.nn.MLP(8, 8, 32, 2, key=jr.key(0))
    xs = jr.normal(jr.key(1), (64, 8))
    jitted = eqx.filter_jit(model)
    outermost = eqx.filter_jit(lambda xs: jax.vmap(model)(xs))
    calls = {
        "jit(vmap(f))": lambda: outermost(xs),
        "vmap(jit(f))": lambda: jax.vmap(jitted)(xs),
        "loop over jit(f)": lambda: [jitted(x) for x in xs],
    }
    report("64 examples", interleaved(calls, config.repeats), "jit(vmap(f))")


def main(config: Config) -> None:
    print(f"jax {jax.__version__}, equinox {eqx.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores")
    for section in config.sections:
        globals()[f"bench_{section}"](config)


if __name__ == "__main__":
    main(tyro.cli(Config))
