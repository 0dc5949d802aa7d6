"""Section 2.1-2.2: a batch of models made, called and differentiated; the original's printed gradients are reproduced.

The original sets a global seed inside the mapped constructor; here the key is the constructor's argument.
"""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from eqx_dynamics.transform import ensemble, grad


# Printed by the original, (member, in, out); Equinox stores weights as (out, in).
PRINTED_WEIGHTS = [
    [[0.38410592, -1.3700708, 1.0667006], [1.5859954, -0.24795905, -1.3676361]],
    [[-1.3518977, -0.8566778, -1.5469979], [0.87259007, 1.465411, 0.07184158]],
    [[0.8410974, -1.5966035, 0.4221514], [-0.1764095, -1.3065816, 0.64682233]],
    [[-0.51042235, 1.0864646, 0.5021799], [-0.337543, -0.894522, 1.131219]],
    [[0.5159668, 0.62981915, 1.1093888], [1.084107, -0.3580393, 0.30819336]],
]
PRINTED_BIAS_GRADIENTS = [
    [0.12934685, -0.34907067, -0.17345807],
    [-0.19724102, -0.05216891, -0.33002084],
    [-0.04470828, -0.5204247, 0.0091965],
    [-0.2463954, -0.10774099, 0.0844532],
    [0.08000985, -0.09709602, 0.05567762],
]


def batch_loss(models: eqx.nn.Linear, x: Array, y: Array) -> Array:
    """Model i on example i."""
    predictions = eqx.filter_vmap(lambda model, x: model(x))(models, x)
    return jnp.mean((y - predictions) ** 2)


def main() -> None:
    models = ensemble(lambda key: eqx.nn.Linear(2, 3, key=key), jr.split(jr.key(0), 5))
    assert models.weight.shape == (5, 3, 2) and models.bias is not None and models.bias.shape == (5, 3)
    assert not jnp.allclose(models.weight[0], models.weight[1])

    weights = jnp.swapaxes(jnp.array(PRINTED_WEIGHTS), 1, 2)
    models = eqx.tree_at(lambda m: (m.weight, m.bias), models, (weights, jnp.zeros((5, 3))))
    grads = grad(batch_loss)(models, jnp.ones((5, 2)), jnp.ones((5, 3)))
    print("Gradients:", grads.bias, sep="\n")
    printed = jnp.array(PRINTED_BIAS_GRADIENTS)
    assert jnp.allclose(grads.bias, printed, atol=1e-7)
    assert jnp.allclose(grads.weight, jnp.stack([printed, printed], axis=2), atol=1e-7)

    # One input for all members.
    same = eqx.filter_vmap(lambda model, x: model(x), in_axes=(eqx.if_array(0), None))(models, jnp.ones(2))
    assert same.shape == (5, 3)


if __name__ == "__main__":
    main()
