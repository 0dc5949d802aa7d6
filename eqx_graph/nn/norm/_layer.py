"""Layer normalisation, by graph or by node."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._linear import check_features, check_sizes
from ._groups import groups_of


class LayerNorm(eqx.Module):
    r"""Layer normalisation, $y = \gamma\, (x - \mathrm{E}[x]) / \sqrt{\mathrm{Var}[x] + \epsilon} + \beta$.

    Mean and (biased) variance run over all features of all nodes of a graph (`mode="graph"`), or over the features of
    a node (`"node"`).

    ??? cite "Reference"
        Ba et al., Layer Normalization, arXiv 1607.06450, 2016, eq. 4. As in PyTorch Geometric 2.8, without `batch` the
        graph mode divides by the standard deviation plus $\epsilon$.
    """

    weight: Float[Array, " features"] | None
    bias: Float[Array, " features"] | None
    eps: float | Float[Array, ""]
    in_features: int = eqx.field(static=True)
    mode: Literal["graph", "node"] = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        *,
        eps: float | Float[Array, ""] = 1e-5,
        affine: bool = True,
        mode: Literal["graph", "node"] = "graph",
    ):
        r"""**Arguments:**

        - `in_features`: features per node.
        - `eps`: $\epsilon$, added to the variance.
        - `affine`: learn $\gamma$ (1 at first) and $\beta$ (0 at first).
        - `mode`: `"graph"` or `"node"`.

        **Raises:** `ValueError` for an unknown mode.
        """
        check_sizes(in_features=in_features)
        if mode not in ("graph", "node"):
            raise ValueError(f"`mode` must be 'graph' or 'node'; got {mode!r}.")
        self.weight = jnp.ones(in_features) if affine else None
        self.bias = jnp.zeros(in_features) if affine else None
        self.eps = eps
        self.in_features = in_features
        self.mode = mode

    @jax.named_scope("eqx_graph.LayerNorm")
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
        check_features(x, self.in_features)
        if self.mode == "node":
            centred = x - jnp.mean(x, axis=-1, keepdims=True)
            y = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + self.eps)
        elif batch is None:
            centred = x - jnp.mean(x)
            var = jnp.mean(centred**2)
            deviation = jnp.where(var > 0, jnp.sqrt(jnp.where(var > 0, var, 1.0)), 0.0)
            y = centred / (deviation + self.eps)
        else:
            groups = groups_of(batch, batch_size, x.shape[0])
            centred = x - groups.at_nodes(jnp.mean(groups.mean(x), axis=-1, keepdims=True))
            var = jnp.mean(groups.mean(centred**2), axis=-1, keepdims=True)
            y = centred * groups.at_nodes(jax.lax.rsqrt(var + self.eps))
        if self.weight is not None and self.bias is not None:
            y = y * self.weight[None] + self.bias[None]
        return y
