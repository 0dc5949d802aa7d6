"""Norms without running statistics and with little or nothing to learn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._unit import lengths, unit_rows
from ._groups import groups_of


class PairNorm(eqx.Module):
    r"""Pair norm, $s\, z_i / \sqrt{\epsilon + \mathrm{E} \lVert z \rVert^2}$, $z = x - \mathrm{E}[x]$ per graph.

    With `scale_individually`, $s\, z_i / (\epsilon + \lVert z_i \rVert)$.

    ??? cite "Reference"
        Zhao and Akoglu, PairNorm: Tackling Oversmoothing in GNNs, ICLR 2020, eqs. 10-11.
    """

    scale: float | Float[Array, ""] = 1.0
    scale_individually: bool = eqx.field(static=True, default=False)
    eps: float | Float[Array, ""] = 1e-5

    @jax.named_scope("eqx_graph.PairNorm")
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        batch: Int[Array | np.ndarray, " num_nodes"] | None = None,
        batch_size: int | None = None,
    ) -> Float[Array, "num_nodes features"]:
        """**Arguments:** as `GraphNorm`. **Returns:** normalised features."""
        groups = groups_of(batch, batch_size, x.shape[0])
        centred = x - groups.at_nodes(groups.mean(x))
        if self.scale_individually:
            return self.scale * centred / (self.eps + lengths(centred))
        square = groups.mean(jnp.sum(centred**2, axis=-1, keepdims=True))
        return self.scale * centred * groups.at_nodes(jax.lax.rsqrt(self.eps + square))


class GraphSizeNorm(eqx.Module):
    r"""$x_i / \sqrt{n}$ with the number $n$ of nodes of the graph.

    ??? cite "Reference"
        Dwivedi et al., Benchmarking Graph Neural Networks, JMLR 2023, section 3.
    """

    @jax.named_scope("eqx_graph.GraphSizeNorm")
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        batch: Int[Array | np.ndarray, " num_nodes"] | None = None,
        batch_size: int | None = None,
    ) -> Float[Array, "num_nodes features"]:
        """**Arguments:** as `GraphNorm`. **Returns:** scaled features."""
        groups = groups_of(batch, batch_size, x.shape[0])
        return x * groups.at_nodes(jax.lax.rsqrt(jnp.maximum(groups.num_nodes(), 1).astype(x.dtype)))[:, None]


class MeanSubtractionNorm(eqx.Module):
    r"""$x_i - \mathrm{E}[x]$, the mean over the nodes of the graph.

    ??? cite "Reference"
        Yang et al., Revisiting Over-smoothing in Deep GCNs, arXiv 2003.13663, 2020, section 4.
    """

    @jax.named_scope("eqx_graph.MeanSubtractionNorm")
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        batch: Int[Array | np.ndarray, " num_nodes"] | None = None,
        batch_size: int | None = None,
    ) -> Float[Array, "num_nodes features"]:
        """**Arguments:** as `GraphNorm`. **Returns:** centred features."""
        groups = groups_of(batch, batch_size, x.shape[0])
        return x - groups.at_nodes(groups.mean(x))


class MessageNorm(eqx.Module):
    r"""Message normalisation, $s\, \lVert x_i \rVert_p\, m_i / \lVert m_i \rVert_p$; a plain float $s$ is not learned.

    ??? cite "Reference"
        Li et al., DeeperGCN: All You Need to Train Deeper GCNs, arXiv 2006.07739, 2020, eq. 9.
    """

    scale: float | Float[Array, "1"]

    def __init__(self, learn_scale: bool = False):
        """**Arguments:** `learn_scale`: learn $s$ (1 at first)."""
        self.scale = jnp.ones(1) if learn_scale else 1.0

    @jax.named_scope("eqx_graph.MessageNorm")
    def __call__(
        self, x: Float[Array, "num_nodes features"], msg: Float[Array, "num_nodes features"], p: float = 2.0
    ) -> Float[Array, "num_nodes features"]:
        """**Arguments:** `x`: node features; `msg`: aggregated messages; `p`: order of the norms.

        **Returns:** scaled messages.
        """
        return unit_rows(msg, p) * lengths(x, p) * jnp.asarray(self.scale, x.dtype).reshape(1, 1)
