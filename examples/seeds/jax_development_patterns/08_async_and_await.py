"""JAX beside `async`/`await`: a dispatched computation runs on its own; only reading it waits.

The linked issues ask for awaitable arrays, which do not exist. What works: dispatch, `await` something else, and wait
for the result in a thread (`asyncio.to_thread`); compilation is a future that can be awaited.
"""

import asyncio
import time

import jax
import jax.numpy as jnp

from eqx_dynamics.transform import compile_ahead


def work(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 60, lambda _, x: jnp.tanh(x @ x.T / 300.0), x)


async def serve(x: jax.Array) -> tuple[float, int]:
    compiled = await asyncio.wrap_future(compile_ahead(work, x))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    result = compiled(x)  # returns at once
    await asyncio.to_thread(jax.block_until_ready, result)  # the event loop stays free
    ticking.cancel()
    return float(result[0, 0]), ticks


def main() -> None:
    x = jnp.ones((300, 300))
    value, ticks = asyncio.run(serve(x))
    assert abs(value - float(work(x)[0, 0])) < 1e-5
    assert ticks >= 1

    fast = jax.jit(work)
    jax.block_until_ready(fast(x))
    start = time.perf_counter()
    pending = fast(x)
    dispatched = time.perf_counter() - start
    jax.block_until_ready(pending)
    finished = time.perf_counter() - start
    assert dispatched <= finished  # reading (float, print, np.asarray) is what waits: do it every N steps, not each
    print(f"{ticks} ticks while computing; dispatch {1e3 * dispatched:.2f} ms, result after {1e3 * finished:.2f} ms")


if __name__ == "__main__":
    main()
