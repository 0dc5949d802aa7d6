"""The document's wish list, item by item: compiled, GradNorm, checkpoints, devices, mixed precision, schedules.

GradNorm is in `13_known_limitations.py`, devices in `04_devices.py`; the rest is here.
"""

import tempfile

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from eqx_dynamics import tidhy
from eqx_dynamics.training import Checkpoint, Precision, fit, make_schedule, make_step


def main() -> None:
    model = tidhy.TiDHy.recommended(6, 4, 3, 3, 7, key=jr.key(0))
    windows = jr.normal(jr.key(1), (4, 8, 6)).cumsum(1) / 3
    rate = make_schedule("cosine", 1e-2, steps=12, warmup=2)
    step = make_step(tidhy.TiDHyLoss(tidhy.Inference()), optax.adamw(rate))

    straight, _ = fit(step.init(model, key=jr.key(2)), step, [windows] * 12, steps=12, steps_per_dispatch=3)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(folder, save_iterator=False)
        data = [windows] * 12
        fit(step.init(model, key=jr.key(2)), step, data, steps=6, steps_per_dispatch=3, callbacks=(checkpoint,))
        resumed = checkpoint.restore(step.init(model, key=jr.key(2)))
        assert int(resumed.step) == 6
        resumed, _ = fit(resumed, step, data, steps=6, steps_per_dispatch=3)
    for one, other in zip(jax.tree.leaves(straight.model), jax.tree.leaves(resumed.model), strict=True):
        if eqx.is_array(one):
            np.testing.assert_array_equal(one, other)  # to the last bit

    # Gradient descent holds in bfloat16; eigendecompositions do not exist there.
    sgd = tidhy.Inference(tidhy.SgdNesterov(learning_rate=0.01, max_steps=30))
    loss_fn = tidhy.TiDHyLoss(sgd)
    exact = float(eqx.filter_jit(loss_fn)(model, windows, None)[0])
    half = make_step(loss_fn, optax.sgd(0.0), precision=Precision(jnp.bfloat16))
    metrics, _ = eqx.filter_jit(half)(windows, half.init(model, key=jr.key(0)))
    rounded = float(metrics["loss"])
    assert abs(rounded / exact - 1) < 0.1
    print(f"resumed run equals the straight one; loss {exact:.2f} in float32, {rounded:.2f} in bfloat16")


if __name__ == "__main__":
    main()
