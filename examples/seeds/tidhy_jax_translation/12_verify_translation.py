"""The document's last code block, "verify the translation is correct", carried out.

Its claim that all implementations are equivalent was never checked, and is false for its own code. Here a stored case
of the PyTorch original (numbers only) is met to float64 rounding: prediction, one inference with its number of
iterations, loss.
"""

import json
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from eqx_dynamics import tidhy


def main() -> None:
    root = pathlib.Path(tidhy.__file__).parents[2]
    file = root / "tests" / "reference" / "tidhy" / "tidhy_pt.npz"
    npz = np.load(file)
    s = json.loads(str(npz["__meta__"]))["cases"]["linear"]
    with jax.enable_x64(True):
        sizes = (s["input_dim"], s["r_dim"], s["r2_dim"], s["mix_dim"], s["hyper_hid_dim"])
        weights = {k.removeprefix("linear/w/"): npz[k] for k in npz if k.startswith("linear/w/")}
        model = tidhy.load_original(tidhy.TiDHy.original(*sizes, key=jr.key(0)), weights)
        solver = tidhy.SgdNesterov(
            learning_rate=s["lr_r"],
            max_steps=s["max_iter"],
            tolerance=s["tol"],
            num_halvings=10,
            absolute_below=0.0,
            coupling=tidhy.Coupling("batch_mean", "batch"),
        )
        inference = tidhy.Inference(solver, tidhy.Objective(temporal=float(s["temp_weight"])), tidhy.ZeroStart())
        latents, context = (jnp.asarray(npz[f"linear/inf/in/{name}"]) for name in ("r_p", "r2_p"))
        state = tidhy.InferenceState(tidhy.LatentState(latents, context), jnp.ones(len(latents), bool))
        x = jnp.asarray(npz["linear/inf/in/x"])[:, None]
        solution, _ = eqx.filter_jit(tidhy.infer)(model, x, inference, state=state)
        loss, _ = eqx.filter_jit(tidhy.TiDHyLoss(inference))(model, jnp.asarray(npz["X"]), None)
        predicted = jax.vmap(model.predict)(latents, context)
    np.testing.assert_allclose(predicted, npz["linear/temporal_prediction/r_hat"], rtol=1e-10)
    np.testing.assert_allclose(solution.latents[:, 0], npz["linear/inf/out/r"], rtol=1e-8, atol=1e-12)
    assert int(solution.num_steps[0, 0]) == int(npz["linear/inf/n_iter"])
    np.testing.assert_allclose(loss, npz["linear/forward/loss"], rtol=1e-10)
    print(f"loss {float(loss):.12f}, as PyTorch; {int(solution.num_steps[0, 0])} iterations, as PyTorch")


if __name__ == "__main__":
    main()
