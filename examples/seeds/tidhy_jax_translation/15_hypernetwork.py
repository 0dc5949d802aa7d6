"""The hypernetwork: linear, layer norm, ELU, linear, linear, then an activation that says what a weight may be.

The document calls its two versions "similar": Flax's layer norm adds 1e-6 to the variance where PyTorch's adds 1e-5,
and the published output is a ReLU, whose weights can die. Here both are arguments, with PyTorch's number as default.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from eqx_dynamics import tidhy


def by_hand(network: tidhy.Hypernetwork, context: np.ndarray, eps: float) -> np.ndarray:
    mlp = jax.device_get(eqx.filter(network.mlp, eqx.is_array))
    hidden = mlp.first.weight @ context + mlp.first.bias
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + eps) * mlp.norm.weight + mlp.norm.bias
    hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
    return mlp.third.weight @ (mlp.second.weight @ hidden + mlp.second.bias) + mlp.third.bias


def main() -> None:
    context = 1e-3 * np.asarray(jr.normal(jr.key(1), (3,)))
    weights = {}
    for eps in (1e-5, 1e-6):
        network = tidhy.Hypernetwork(3, 5, 8, activation=tidhy.signed, norm_eps=eps, key=jr.key(0))
        weights[eps] = network(jnp.asarray(context))
        np.testing.assert_allclose(weights[eps], by_hand(network, context, eps), rtol=1e-4, atol=1e-5)
    assert not np.allclose(weights[1e-5], weights[1e-6], rtol=1e-6)  # so their outputs differ, by a little

    outputs = weights[1e-5]
    allowed = {f.__name__: f(outputs) for f in (tidhy.signed, jax.nn.relu, jax.nn.softplus, jax.nn.softmax)}
    assert (allowed["signed"] < 0).any() and (allowed["relu"] == 0).any() and (allowed["softplus"] > 0).all()
    assert abs(float(allowed["softmax"].sum()) - 1) < 1e-6
    print({name: [round(float(w), 2) for w in value] for name, value in allowed.items()})


if __name__ == "__main__":
    main()
