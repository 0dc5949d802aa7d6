"""`jnp.where` in place of `if`: both sides are computed, so both must be safe to differentiate.

The document stops at the value. `where(x > 0, sqrt(x), 0)` is right in value and NaN in gradient at 0, since the
gradient of the side not taken is infinite and 0 * inf = NaN. Mask the INPUT of the unsafe function as well.
"""

import jax
import jax.numpy as jnp
import numpy as np

from eqx_graph.ops import segment_softmax


def naive(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


def safe(x: jax.Array) -> jax.Array:
    is_positive = x > 0
    return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, x, 1.0)), 0.0)


def main() -> None:
    x = jnp.array([-1.0, 0.0, 4.0])
    np.testing.assert_array_equal(naive(x), safe(x))
    bad, good = (jax.vmap(jax.grad(f))(x) for f in (naive, safe))
    assert np.isnan(np.asarray(bad)).any()
    np.testing.assert_allclose(good, [0.0, 0.0, 0.25])

    # The library does this wherever a segment can be empty or a value masked: rows without a segment, infinite logits.
    logits, ids = jnp.array([1.0, -jnp.inf, 2.0]), jnp.array([0, 0, 7])
    grad = jax.grad(lambda v: segment_softmax(v, ids, 3)[0])(logits)
    assert bool(jnp.isfinite(grad).all())
    print(f"gradient of the naive form {bad}, of the double where {good}")


if __name__ == "__main__":
    main()
