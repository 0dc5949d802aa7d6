"""The training loop, with one learning rate per part: this time they act.

In the code that followed the document three masked optimisers all ran on all parameters. `optimizer_groups` gives each
part its own, and says so if a part has none.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import optax

from eqx_dynamics import tidhy
from eqx_dynamics.training import fit, make_schedule, make_step, optimizer_groups


def main() -> None:
    model = tidhy.TiDHy.recommended(6, 4, 3, 3, 7, key=jr.key(0))
    windows = [jr.normal(jr.key(1), (4, 8, 6)).cumsum(1)] * 20
    rate = make_schedule("cosine", 1e-2, steps=20)
    groups = {"decoder": optax.adam(rate), "transition": optax.adam(rate), "hypernetwork": optax.set_to_zero()}
    step = make_step(tidhy.TiDHyLoss(tidhy.Inference()), optimizer_groups(groups), clip=500.0)
    state, history = fit(step.init(model, key=jr.key(2)), step, windows, steps=20, steps_per_dispatch=5)
    assert history["loss"][-1] < history["loss"][0]
    moved = jnp.abs(state.model.transition.transition_basis - model.transition.transition_basis).max()
    assert moved > 1e-3 and eqx.tree_equal(state.model.hypernetwork, model.hypernetwork)
    twice = optimizer_groups({"decoder": optax.sgd(1.0), "decoder.linear": optax.sgd(1.0), ...: optax.sgd(1.0)})
    try:
        make_step(tidhy.TiDHyLoss(tidhy.Inference()), twice).init(model, key=jr.key(0))
    except ValueError as error:
        assert "twice" in str(error)
    else:
        raise AssertionError("a leaf in two groups must be an error")
    print(f"loss {history['loss'][0]:.1f} -> {history['loss'][-1]:.1f}; the hypernetwork, at rate zero, did not move")


if __name__ == "__main__":
    main()
