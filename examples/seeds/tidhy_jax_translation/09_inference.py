"""The document's inference loop beside solvers that know the problem: the same 1,024 time steps from the same states.

A time step has several local minima, so no solver is best at every one. At most of them, and on average, the others end
lower than the loop; Gauss-Newton is within half a percent of where it ends after a fifth of its steps.
"""

import equinox as eqx
import jax.random as jr
import numpy as np

from eqx_dynamics import tidhy


SOLVERS = {
    "gradient descent, as translated": tidhy.SgdNesterov(learning_rate=0.01, max_steps=250),
    "proximal gradient": tidhy.ProximalGradient(),
    "reduced Gauss-Newton, 8 steps": tidhy.ReducedGaussNewton(),
    "reduced Gauss-Newton": tidhy.ReducedGaussNewton(max_steps=50),
}


def main() -> None:
    infer = eqx.filter_jit(tidhy.infer)
    cases = []
    for model_key, data_key in map(jr.split, jr.split(jr.key(0), 4)):
        model = tidhy.TiDHy.original(20, 8, 8, 8, 32, version="nnx", key=model_key)
        observations = jr.normal(data_key, (256, 5, 20)).cumsum(1)
        _, before = infer(model, observations[:, :-1], tidhy.Inference(tidhy.ProximalGradient()))
        cases.append((model, observations[:, -1:], before))

    objective: dict[str, np.ndarray] = {}
    steps: dict[str, float] = {}
    for name, solver in SOLVERS.items():
        solutions = [infer(model, last, tidhy.Inference(solver), state=before)[0] for model, last, before in cases]
        results = [(solution.objective[:, 0], solution.num_steps[:, 0]) for solution in solutions]
        objective[name], taken = map(np.concatenate, zip(*results, strict=True))
        steps[name] = taken.mean()
        lower = np.mean(objective[name] < objective[next(iter(SOLVERS))])
        print(f"{name:32s} {objective[name].mean():7.3f} after {steps[name]:4.1f} steps, lower at {lower:4.0%}")
    descent, proximal, short, newton = objective.values()
    for other in (proximal, newton):
        assert other.mean() < descent.mean()
        assert np.mean(other < descent) > 0.6  # 0.5 would be chance; 0.05 is three standard errors
    assert short.mean() < 1.005 * descent.mean()
    assert steps["reduced Gauss-Newton, 8 steps"] < 0.25 * steps["gradient descent, as translated"]


if __name__ == "__main__":
    main()
