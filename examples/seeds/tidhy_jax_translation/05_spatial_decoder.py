"""The decoder returns natural parameters; the likelihood, an object, knows what they mean.

The document's decoder applies a sigmoid if `loss_type == "BCE"`, and its inference then uses squared error whatever the
loss type. Logits and a likelihood object cannot disagree, and stay finite where rounded probabilities do not.
"""

import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_dynamics import tidhy


def main() -> None:
    decoder = tidhy.LinearDecoder(4, 6, key=jr.key(0))
    natural = decoder(jnp.ones(4))
    assert jnp.allclose(tidhy.Bernoulli().mean(natural), jax.nn.sigmoid(natural))
    assert (tidhy.Poisson().mean(natural) > 0).all() and (tidhy.Poisson("log").mean(natural) > 0).all()

    extreme, observed = jnp.array([-200.0, 200.0]), jnp.array([1.0, 0.0])
    naive = -observed * jnp.log(jax.nn.sigmoid(extreme)) - (1 - observed) * jnp.log(1 - jax.nn.sigmoid(extreme))
    stable = tidhy.Bernoulli().nll(extreme, observed)
    assert not jnp.isfinite(naive).all() and jnp.allclose(stable, 200.0)
    print(f"cross-entropy at logits +-200: {naive} from probabilities, {stable} from logits")


if __name__ == "__main__":
    main()
