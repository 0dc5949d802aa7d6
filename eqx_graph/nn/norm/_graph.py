"""Graph normalisation with a learned share of the mean."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._linear import check_features, check_sizes
from ._groups import groups_of


class GraphNorm(eqx.Module):
    r"""Norm over a graph, $\gamma\, z / \sqrt{\mathrm{E}[z^2] + \epsilon} + \beta$ $z = x - \alpha\, \mathrm{E}[x]$.

    Means run over the nodes of a graph, for every feature on its own; $\alpha$ (`mean_scale`) is learned.

    ??? cite "Reference"
        Cai et al., GraphNorm: A Principled Approach to Accelerating Graph Neural Network Training, ICML 2021, eq. 5.
    """

    weight: Float[Array, " features"]
    bias: Float[Array, " features"]
    mean_scale: Float[Array, " features"]
    eps: float | Float[Array, ""]

    def __init__(self, in_features: int, *, eps: float | Float[Array, ""] = 1e-5):
        r"""**Arguments:**

        - `in_features`: features per node.
        - `eps`: $\epsilon$, added to the variance.
        """
        check_sizes(in_features=in_features)
        self.weight = jnp.ones(in_features)
        self.bias = jnp.zeros(in_features)
        self.mean_scale = jnp.ones(in_features)
        self.eps = eps

    @jax.named_scope("eqx_graph.GraphNorm")
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        batch: Int[Array | np.ndarray, " num_nodes"] | None = None,
        batch_size: int | None = None,
    ) -> Float[Array, "num_nodes features"]:
        """**Arguments:**

        - `x`: node features.
        - `batch`: graph of every node; padding nodes belong to a graph of their own.
        - `batch_size`: number of graphs (static); saves a sort of `batch` under jit.

        **Returns:** normalised features. **Raises:** `ValueError` for wrong sizes.
        """
        check_features(x, self.weight.shape[0])
        groups = groups_of(batch, batch_size, x.shape[0])
        centred = x - groups.at_nodes(groups.mean(x)) * self.mean_scale[None]
        scale = jax.lax.rsqrt(groups.mean(centred**2) + self.eps)
        return self.weight[None] * centred * groups.at_nodes(scale) + self.bias[None]
