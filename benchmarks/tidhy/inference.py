"""How low does one inference get the objective, and how fast? Solvers side by side on 256 problems.

    python benchmarks/tidhy/inference.py

Upstream's default sizes (8 latents, 8 context latents, 8 components, 32 hidden, 20 channels), float32. The first row
is the solver and the settings that upstream's later JAX code ships (`r2_sparse`); the bars are relative to it.
Measured per solver: median and mean objective, time of one compiled call (minimum of repeats), mean and largest number
of iterations.
"""

import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro

from eqx_dynamics import tidhy


@dataclasses.dataclass(frozen=True)
class Config:
    num_problems: int = 256
    repeats: int = 10
    seed: int = 0


def calibration(repeats: int = 10) -> float:
    """Milliseconds of one 1024 x 1024 float32 matrix product: how fast the machine is at this moment."""
    x = jnp.ones((1024, 1024))
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(x))
    return 1e3 * min(timed(lambda: product(x)) for _ in range(repeats))


def timed(call) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def make_problems(config: Config) -> tuple[tidhy.TiDHy, jax.Array, tidhy.InferenceState]:
    """A model, and observations one noisy step after random latents, with the context moved since."""
    keys = jr.split(jr.key(config.seed), 6)
    model = tidhy.TiDHy.original(20, 8, 8, 8, 32, version="nnx", key=keys[0])
    basis = model.transition.transition_basis
    biases = (0.1 * jr.normal(keys[5], (32,)), jnp.zeros(32), jnp.full(8, 0.3))
    # Upstream's initial biases are zero, up to the lift that keeps the mixture alive: that is what its solver meets.
    model = eqx.tree_at(
        lambda m: (
            m.decoder.linear.bias,
            m.hypernetwork.mlp.first.bias,
            m.hypernetwork.mlp.second.bias,
            m.hypernetwork.mlp.third.bias,
            m.transition.basis,
        ),
        model,
        (
            jnp.zeros(20),
            *biases,
            2 * basis,
        ),
    )
    latents = 0.5 * jr.normal(keys[1], (config.num_problems, 8))
    context = 0.3 * jr.normal(keys[2], (config.num_problems, 8))
    moved = context + 0.5 * jr.normal(keys[3], context.shape)
    clean = jax.vmap(lambda r, h: model.decoder(model.predict(r, h)))(latents, moved)
    observations = clean + 0.05 * jr.normal(keys[4], clean.shape)
    return model, observations, tidhy.InferenceState(tidhy.LatentState(latents, context), jnp.ones(len(latents), bool))


SOLVERS = {
    "upstream (lr .01, tol .01, 250)": tidhy.SgdNesterov(learning_rate=0.01, max_steps=250, sign_of_zero=1),
    "SGD without stopping, 5000": tidhy.SgdNesterov(learning_rate=0.01, max_steps=5000, tolerance=0.0),
    "ProximalGradient": tidhy.ProximalGradient(),
    "ReducedGaussNewton, 3 steps": tidhy.ReducedGaussNewton(3),
    "ReducedGaussNewton": tidhy.ReducedGaussNewton(),
    "ReducedGaussNewton, 10 steps": tidhy.ReducedGaussNewton(10),
}


def main(config: Config) -> None:
    print(f"calibration: 1024 x 1024 float32 matrix product in {calibration():.1f} ms")
    model, observations, state = make_problems(config)
    calls, solvers = {}, dict(SOLVERS)
    first = eqx.filter_jit(tidhy.infer)(
        model, observations[:, None], tidhy.Inference(SOLVERS["upstream (lr .01, tol .01, 250)"]), state=state
    )[0]
    equal = round(float(first.num_steps.mean()))
    solvers["ProximalGradient, equal iterations"] = tidhy.ProximalGradient(max_steps=equal, tolerance=0.0)
    for name, solver in solvers.items():
        compiled = eqx.filter_jit(
            lambda x, s, solver=solver: tidhy.infer(model, x, tidhy.Inference(solver), state=s)[0]
        )
        calls[name] = lambda compiled=compiled: compiled(observations[:, None], state)
        calls[name]()
    times = {name: [] for name in calls}
    for _ in range(config.repeats):  # interleaved, so that a busy moment hits all of them
        for name, call in calls.items():
            times[name].append(timed(call))
    upstream = None
    for name, call in calls.items():
        solution = call()
        objective, steps = np.asarray(solution.objective), np.asarray(solution.num_steps)
        best = 1e3 * min(times[name])
        upstream = upstream or (np.median(objective), best)
        print(
            f"{name:36s} median {np.median(objective):8.4f} ({np.median(objective) / upstream[0]:5.2f}x)  "
            f"mean {objective.mean():8.4f}  {best:8.1f} ms ({best / upstream[1]:5.2f}x)  "
            f"iterations {steps.mean():6.1f} (max {steps.max()})"
        )


if __name__ == "__main__":
    main(tyro.cli(Config))
