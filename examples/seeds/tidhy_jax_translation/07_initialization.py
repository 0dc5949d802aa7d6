"""`model.init(rng, dummy_input, rng)`: shapes come from the constructor, no dummy input is needed.

The translation's zero biases make the hypernetwork's gradient explode near zero context, since a layer norm without a
bias does not see the size of its input. Biases here are not zero.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_dynamics import tidhy


def main() -> None:
    shapes = eqx.filter_eval_shape(lambda key: tidhy.TiDHy.original(100, 20, 10, 5, 64, key=key), jr.key(0))
    assert shapes.decoder.linear.weight.shape == (100, 20)  # nothing was computed

    network = tidhy.Hypernetwork(10, 5, 64, activation=tidhy.signed, key=jr.key(0))
    translated = eqx.tree_at(lambda n: n.mlp.first.bias, network, jnp.zeros(64))
    slopes = {}
    for size in (1e-1, 1e-2, 1e-3):
        context = size * jr.normal(jr.key(1), (10,))
        slopes[size] = [float(jnp.linalg.norm(jax.jacobian(n)(context))) for n in (translated, network)]
    print("context size: slope with zero biases, with ours:", {k: [round(v, 1) for v in s] for k, s in slopes.items()})
    assert slopes[1e-3][0] > 10 * slopes[1e-1][0] and slopes[1e-3][1] < 2 * slopes[1e-1][1]


if __name__ == "__main__":
    main()
