"""One inference, by the document's loop and by solvers that know the problem: lower objective, fewer steps."""

import equinox as eqx
import jax.random as jr

from eqx_dynamics import tidhy


def main() -> None:
    model = tidhy.TiDHy.original(20, 8, 8, 8, 32, version="nnx", key=jr.key(0))
    observations = jr.normal(jr.key(1), (64, 5, 20)).cumsum(1)
    solvers = {
        "gradient descent, as translated": tidhy.SgdNesterov(learning_rate=0.01, max_steps=250),
        "proximal gradient": tidhy.ProximalGradient(),
        "reduced Gauss-Newton": tidhy.ReducedGaussNewton(),
    }
    objectives = {}
    for name, solver in solvers.items():
        solution, _ = eqx.filter_jit(tidhy.infer)(model, observations, tidhy.Inference(solver))
        objectives[name] = float(solution.objective[:, 1:].mean())
        print(f"{name:32s} objective {objectives[name]:7.3f} after {float(solution.num_steps.mean()):5.1f} steps")
    assert objectives["reduced Gauss-Newton"] < objectives["gradient descent, as translated"]
    assert objectives["proximal gradient"] < objectives["gradient descent, as translated"]


if __name__ == "__main__":
    main()
