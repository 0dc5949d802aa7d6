"""A Python loop with `break` becomes `lax.while_loop` (stops early) or `lax.scan` (fixed length, differentiable).

The document uses `scan` and computes convergence flags that it then ignores: it always runs `max_iter` steps. Solvers
here stop, each sequence on its own, and say how: a `RESULTS` value and the number of steps.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from eqx_dynamics import tidhy


def main() -> None:
    model = tidhy.TiDHy.recommended(6, 4, 3, 3, 7, key=jr.key(0))
    observations = jr.normal(jr.key(1), (4, 1, 6))
    solver = tidhy.SgdNesterov(learning_rate=0.02, max_steps=200)
    solution, _ = eqx.filter_jit(tidhy.infer)(model, observations, tidhy.Inference(solver))
    assert (solution.result == tidhy.RESULTS.successful).all()
    steps = np.asarray(solution.num_steps[:, 0])
    assert steps.max() < 200 and len(set(steps.tolist())) > 1

    # The same iterations one by one, as a scan: the trace passes through the answer.
    cell = tidhy.LatentInference(model, tidhy.Inference(solver))
    state = tidhy.start_state(model, jnp.zeros((4, 3)))
    trace = tidhy.inference_trace(model, observations[:, 0], cell.inference, state=state, num_steps=int(steps.max()))
    for n, count in enumerate(steps):
        np.testing.assert_allclose(trace.latents[n, count - 1], solution.latents[n, 0], rtol=1e-4, atol=1e-5)
    print(f"stopped after {sorted(steps.tolist())} of 200 steps")


if __name__ == "__main__":
    main()
