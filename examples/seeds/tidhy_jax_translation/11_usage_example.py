"""The document's usage example: `evaluate_record`. There it raises; here it returns one consistent record."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from eqx_dynamics import tidhy


def main() -> None:
    model = tidhy.TiDHy.original(100, 20, 10, 5, 64, key=jr.key(0))
    observations = jnp.ones((8, 12, 100))
    record, state = eqx.filter_jit(tidhy.record)(model, observations)
    assert record.latents.shape == (8, 12, 20) and record.transitions.shape == (8, 12, 20, 20)
    # "predicted" is what was known before the observation; everything else was inferred with it.
    later = jnp.einsum("btij,btj->bti", record.predicted_transitions[:, 1:], record.latents[:, :-1])
    assert jnp.allclose(record.predicted_latents[:, 1:], later, rtol=1e-3, atol=1e-4)
    ahead = tidhy.forecast(model, state, 5)
    assert ahead.observations.shape == (8, 5, 100)
    print(f"recorded {record.latents.shape[1]} steps of {record.latents.shape[0]} sequences, forecast 5 more")


if __name__ == "__main__":
    main()
