"""The four "known limitations": GradNorm simplified, milestones differ, no state between calls, no progress bar.

1. GradNorm, true and as published, is a state of three weights (`BalancedLoss`), one inference per step.
2. Milestones: halvings inside inference as published (`num_halvings`), any optax schedule outside.
3. State is carried across windows (`StatefulLoss`), which the original only pretended to do.
4. A progress bar runs beside compiled chunks of steps.
"""

import io

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from eqx_dynamics import tidhy
from eqx_dynamics.training import ProgressBar, fit, make_step


def main() -> None:
    model = tidhy.TiDHy.recommended(6, 4, 3, 3, 7, key=jr.key(0))
    recording = jr.normal(jr.key(1), (4, 24, 6)).cumsum(1) / 3
    windows = [recording[:, n : n + 8] for n in (0, 8, 16)]
    loss_fn = tidhy.TiDHyLoss(tidhy.Inference())

    balanced = tidhy.BalancedLoss(loss_fn, tidhy.GradNorm(learning_rate=0.05))
    schedule = optax.piecewise_constant_schedule(1e-2, {10: 0.5, 20: 0.5})
    step = make_step(balanced, optax.adam(schedule))
    state = step.init(model, key=jr.key(2), statistics=balanced.init_state())
    screen = io.StringIO()
    bar = ProgressBar(stream=screen)
    state, history = fit(state, step, windows * 10, steps=30, steps_per_dispatch=10, callbacks=(bar,))
    weights = np.asarray(state.statistics.weights)
    assert abs(weights.sum() - 3) < 1e-4 and np.ptp(weights) > 0.05 and np.isfinite(history["loss"]).all()

    stateful = tidhy.StatefulLoss(loss_fn)
    step = make_step(stateful, optax.sgd(0.0))
    state = step.init(model, key=jr.key(2), statistics=stateful.init_state(model, 4))
    state, _ = fit(state, step, windows, steps=3, steps_per_dispatch=1)
    _, final = tidhy.infer(model, recording)
    assert jnp.allclose(state.statistics.last.latents, final.last.latents, rtol=1e-3, atol=1e-4)
    print(f"task weights after 30 steps {weights.round(2)}; three windows end where the whole recording ends")


if __name__ == "__main__":
    main()
