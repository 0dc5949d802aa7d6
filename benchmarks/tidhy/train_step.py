"""What one training step costs, what compiling it costs, how often it compiles, and what eight seeds at once cost.

    python benchmarks/tidhy/train_step.py

8 latents, 8 context latents, 8 components, 32 hidden, 20 channels, 32 windows of 50 steps, float32, AdamW. Upstream's
later JAX code took 80 ms for such a step, its mixture a ReLU, where a 1024 x 1024 float32 matrix product takes 12 ms.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.random as jr
import optax
import tyro
from inference import calibration, timed

from eqx_dynamics import tidhy
from eqx_dynamics.training import TrainState, TrainStep, make_step


@dataclasses.dataclass(frozen=True)
class Config:
    batch: int = 32
    time: int = 50
    repeats: int = 10
    ensemble: int = 8
    ladder: tuple[int, ...] = (50, 100)


def settings() -> dict[str, tuple[tidhy.Inference, Callable]]:
    """Upstream's solver and ours, and what mixes."""
    sgd = tidhy.Inference(tidhy.SgdNesterov(learning_rate=0.01, max_steps=250, sign_of_zero=1))
    return {
        "SgdNesterov, ReLU": (sgd, jax.nn.relu),
        "SgdNesterov": (sgd, jax.nn.softmax),
        "ProximalGradient": (tidhy.Inference(tidhy.ProximalGradient(max_steps=20)), jax.nn.softmax),
        "ReducedGaussNewton, ReLU": (tidhy.Inference(), jax.nn.relu),
        "ReducedGaussNewton": (tidhy.Inference(), jax.nn.softmax),
    }


def make_state(step: TrainStep, activation: Callable, key: jax.Array) -> TrainState:
    return step.init(tidhy.TiDHy.recommended(20, activation=activation, key=key), key=key)


def main(config: Config) -> None:
    print(f"calibration: 1024 x 1024 float32 matrix product in {calibration():.1f} ms")
    observations = jr.normal(jr.key(1), (config.batch, config.time, 20)).cumsum(1) / 5
    calls = {}
    for name, (inference, activation) in settings().items():
        step = make_step(tidhy.TiDHyLoss(inference), optax.adamw(1e-3))
        state, num_traces = make_state(step, activation, jr.key(0)), []

        def traced(batch, state, step=step, num_traces=num_traces):
            num_traces.append(batch.shape)
            return step(batch, state)

        run = eqx.filter_jit(traced)
        compile_s = timed(lambda run=run, state=state: run(observations, state))
        for _ in range(3):
            _, state = run(observations, state)
        calls[name] = lambda run=run, state=state: run(observations, state)
        print(f"{name}: first call (compilation) {compile_s:.1f} s, {len(num_traces)} trace(s) in 4 steps")
        if not name.startswith("ReducedGaussNewton"):
            continue
        if name == "ReducedGaussNewton":
            for length in config.ladder * 2:
                longer = jr.normal(jr.key(2), (config.batch, length, 20))
                _, state = run(longer, state)
            print(
                f"{name}: {len(num_traces)} traces for lengths {sorted({config.time, *config.ladder})}, each seen twice"
            )
        make = eqx.filter_vmap(lambda key, step=step, activation=activation: make_state(step, activation, key))
        states = make(jr.split(jr.key(3), config.ensemble))
        many = eqx.filter_jit(eqx.filter_vmap(step, in_axes=(None, eqx.if_array(0))))
        compile_s = timed(lambda many=many, states=states: many(observations, states))
        print(f"{name}, ensemble of {config.ensemble}: first call {compile_s:.1f} s")
        calls[f"{name}, ensemble"] = lambda many=many, states=states: many(observations, states)
    times = {name: [] for name in calls}
    for _ in range(config.repeats):
        for name, call in calls.items():
            times[name].append(timed(call))
    best = {name: 1e3 * min(values) for name, values in times.items()}
    for name, value in best.items():
        print(f"{name:34s} {value:8.1f} ms per step")
    for mixture in ("", ", ReLU"):
        fraction = best["ReducedGaussNewton" + mixture] / best["SgdNesterov" + mixture]
        print(f"Gauss-Newton against SGD{mixture}: {fraction:.2f}x")
        ratio = best[f"ReducedGaussNewton{mixture}, ensemble"] / best["ReducedGaussNewton" + mixture]
        print(f"{config.ensemble} seeds against one{mixture}: {ratio:.2f}x")
    print(f"calibration again: {calibration():.1f} ms")


if __name__ == "__main__":
    main(tyro.cli(Config))
