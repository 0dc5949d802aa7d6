"""The two `einsum`s of the document, and why inference does not use them.

$V = \\sum_m w_m V_m$ and $\\bar r = V r$ cost M R^2 each time the weights change. While one time step is inferred, r is
fixed: the columns V_m r are computed once, and a new prediction costs M R.
"""

import jax.numpy as jnp
import jax.random as jr

from eqx_dynamics import tidhy


def main() -> None:
    transition = tidhy.FullRankTransition(3, 4, key=jr.key(0))
    weights, latents = jr.normal(jr.key(1), (3,)), jr.normal(jr.key(2), (4,))
    matrix = jnp.einsum("m,mij->ij", weights, transition.basis)
    predicted = jnp.einsum("ij,j->i", matrix, latents)
    assert jnp.allclose(transition.combine(weights), matrix, atol=1e-6)
    assert jnp.allclose(transition.columns(latents) @ weights, predicted, atol=1e-5)

    rotating = tidhy.LowRankTransition(1, 2, rank=2, key=jr.key(3)).transition_basis[0]
    published = tidhy.LowRankTransition(1, 2, rank=2, symmetric=True, key=jr.key(3)).transition_basis[0]
    assert jnp.allclose(published, published.T) and not jnp.allclose(rotating, rotating.T)
    print("both orders agree; the published low-rank matrix is symmetric and cannot rotate, U W^T can")


if __name__ == "__main__":
    main()
