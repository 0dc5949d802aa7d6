"""Does training ever produce a NaN? Twenty seeds, a thousand steps each, default settings, one compiled program.

    python benchmarks/tidhy/stability.py

`TiDHy.recommended` as it is initialised, `Inference()`, AdamW, no clipping, no NaN policy (it would hide one), on the
published SLDS benchmark. Printed: losses, whether every loss and every parameter of every seed is finite, and how many
time steps of inference diverged.
"""

import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
import tyro
from inference import calibration

from eqx_dynamics import tidhy
from eqx_dynamics.datasets import SwitchingLinearSystem, stack_windows
from eqx_dynamics.training import make_step


@dataclasses.dataclass(frozen=True)
class Config:
    num_seeds: int = 20
    steps: int = 1000
    window: int = 25
    batch_size: int = 8
    learning_rates: tuple[float, ...] = (1e-3, 1e-2)
    per_call: int = 100


def main(config: Config) -> None:
    print(f"{config}\ncalibration: 1024 x 1024 float32 matrix product in {calibration():.1f} ms")
    recording = SwitchingLinearSystem(key=jr.key(0)).sample(5000, key=jr.key(1)).observations
    windows = jnp.asarray(stack_windows(np.asarray(recording), config.window))
    for rate in config.learning_rates:
        step = make_step(tidhy.TiDHyLoss(tidhy.Inference()), optax.adamw(rate), nan_policy=None)
        many = eqx.filter_vmap(step, in_axes=(None, eqx.if_array(0)))

        @eqx.filter_jit
        def run(state, key, many=many):
            arrays, static = eqx.partition(state, eqx.is_array)

            def body(arrays, key):
                chosen = windows[jr.choice(key, windows.shape[0], (config.batch_size,), replace=False)]
                metrics, new = many(chosen, eqx.combine(arrays, static))
                return eqx.filter(new, eqx.is_array), (metrics["loss"], metrics["diverged"])

            arrays, outputs = jax.lax.scan(body, arrays, jr.split(key, config.per_call))
            return eqx.combine(arrays, static), outputs

        def init(key: jax.Array, step=step):
            return step.init(tidhy.TiDHy.recommended(recording.shape[-1], key=key), key=key)

        state, start, losses, diverged = (
            eqx.filter_jit(eqx.filter_vmap(init))(jr.split(jr.key(2), config.num_seeds)),
            time.perf_counter(),
            [],
            [],
        )
        for number in range(config.steps // config.per_call):
            state, (loss, part) = run(state, jr.fold_in(jr.key(3), number))
            losses.append(np.asarray(loss))
            diverged.append(np.asarray(part))
        first, last = losses[0][0], losses[-1][-10:].mean(0)
        is_finite = np.isfinite(np.concatenate(losses)).all() and all(
            bool(jnp.isfinite(leaf).all()) for leaf in jtu.tree_leaves(eqx.filter(state, eqx.is_inexact_array))
        )
        print(
            f"learning rate {rate}: {config.num_seeds} seeds x {config.steps} steps in "
            f"{time.perf_counter() - start:.0f} s; everything finite: {is_finite}; diverged "
            f"{np.concatenate(diverged).mean():.1%} of time steps; loss "
            f"{first.mean():.1f} (worst {first.max():.1f}) -> {last.mean():.1f} (worst {last.max():.1f})"
        )
        assert is_finite


if __name__ == "__main__":
    main(tyro.cli(Config))
