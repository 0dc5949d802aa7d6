"""Scan or while? A known number of steps: `scan` (gradients, outputs of every step). Unknown: stop early, with a bound.

`scan_until` is both: outputs per step and gradients like a scan, skipped steps like a while, and a reason for stopping.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from eqx_dynamics import RESULTS, scan, scan_until


def leak(x: Array, state: Array, *, key: Array | None = None) -> tuple[Array, Array]:
    """A leaky integrator, one step (1 ms), as a cell."""
    v = 0.9 * state + x
    return v, v


def main() -> None:
    xs = jnp.full(100, 0.3)
    trace, last = scan(leak, xs, jnp.zeros(()))
    np.testing.assert_allclose(last, 3.0 * (1 - 0.9**100), rtol=1e-5)

    first_spike = scan_until(leak, xs, jnp.zeros(()), stop=lambda out, v: v > 2.0)
    steps = int(first_spike.num_steps)
    assert steps == int(np.argmax(np.asarray(trace) > 2.0)) + 1 and bool(first_spike.result == RESULTS.stopped)
    np.testing.assert_allclose(first_spike.outputs[:steps], trace[:steps], rtol=1e-6)
    assert not np.asarray(first_spike.outputs[steps:]).any()

    by_hand = jax.lax.while_loop(lambda c: c[1] <= 2.0, lambda c: (c[0] + 1, 0.9 * c[1] + 0.3), (0, 0.0))
    assert int(by_hand[0]) == steps  # the same, but neither outputs nor reverse mode

    def final(scale: Array) -> Array:
        return scan_until(leak, scale * xs, jnp.zeros(()), stop=lambda out, v: v > 2.0).state

    gradient = jax.grad(final)(jnp.ones(()))
    np.testing.assert_allclose(gradient, final(jnp.ones(())), rtol=1e-5)  # v is proportional to the scale
    print(f"first spike after {steps} ms, with the trace until then and a gradient")


if __name__ == "__main__":
    main()
