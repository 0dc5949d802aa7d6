"""The dictionary of linear dynamics that the mixture weights combine."""

import abc

import equinox as eqx
import jax.nn.initializers as jinit
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ._types import RealScalar, check_sizes


class AbstractTransition(eqx.Module):
    r"""$\bar r = \sum_m w_m V_m r + b \odot \beta$, with components $V_m$ and an optional dynamic bias $\beta$."""

    bias: eqx.AbstractVar[Float[Array, " latents"] | None]

    @property
    @abc.abstractmethod
    def transition_basis(self) -> Float[Array, "components latents latents"]:
        """The matrices $V_m$."""

    @abc.abstractmethod
    def propagate(self, latents: Float[Array, " latents"]) -> Float[Array, "latents components"]:
        r"""The columns $V_m r$, so that $\bar r$ is this matrix times $w$: computed once per time step."""

    @property
    def gain_size(self) -> int:
        """How many gains the hypernetwork has to supply: one per latent with a dynamic bias, else none."""
        return 0 if self.bias is None else self.bias.shape[0]

    def columns(self, latents: Float[Array, " latents"]) -> Float[Array, "latents weights_and_gains"]:
        r"""`propagate`, followed by $\mathrm{diag}(\beta)$ if there is a bias: what weights and gains combine."""
        columns = self.propagate(latents)
        return columns if self.bias is None else jnp.concatenate([columns, jnp.diag(self.bias)], axis=1)

    def combine(self, weights_and_gains: Float[Array, " weights_and_gains"]) -> Float[Array, "latents latents"]:
        r"""The effective transition $V(w) = \sum_m w_m V_m$."""
        basis = self.transition_basis
        return jnp.tensordot(weights_and_gains[: basis.shape[0]], basis, axes=1)


class FullRankTransition(AbstractTransition):
    r"""Unconstrained components, initialised orthonormal as vectors: each of unit Frobenius norm.

    With `use_offsets` every component is affine, $V_m r + c_m$: systems whose fixed point differs between regimes need
    it, and unlike the published dynamic bias it leaves the context no way around the components.
    """

    basis: Float[Array, "components latents latents"]
    offsets: Float[Array, "components latents"] | None
    bias: Float[Array, " latents"] | None

    def __init__(
        self,
        num_components: int,
        latent_size: int,
        *,
        use_bias: bool = False,
        use_offsets: bool = False,
        scale: RealScalar = 1.0,
        identity: RealScalar = 0.0,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `use_bias`: dynamic bias $\\beta$.
        - `use_offsets`: an offset $c_m$ per component, zero at the start.
        - `scale`: Frobenius norm of the random part of each component at the start.
        - `identity`: this times the identity is added to each: slow dynamics are near it.
        """
        check_sizes(num_components=num_components, latent_size=latent_size)
        basis_key, bias_key = jr.split(key)
        flat = jinit.orthogonal(scale)(basis_key, (num_components, latent_size**2))
        random = jnp.reshape(flat, (num_components, latent_size, latent_size))
        self.basis = random + identity * jnp.eye(latent_size)[None]
        self.offsets = jnp.zeros((num_components, latent_size)) if use_offsets else None
        self.bias = jinit.glorot_normal()(bias_key, (1, latent_size))[0] if use_bias else None

    @property
    def transition_basis(self) -> Float[Array, "components latents latents"]:
        return self.basis

    def propagate(self, latents: Float[Array, " latents"]) -> Float[Array, "latents components"]:
        columns = jnp.einsum("mij,j->im", self.basis, latents)
        return columns if self.offsets is None else columns + self.offsets.T


class LowRankTransition(AbstractTransition):
    """Components $V_m = U_m W_m^T$ of low rank.

    Two different factors can rotate the latents. With `symmetric`, $W_m = U_m$ as published: positive semi-definite, so
    no oscillation can be represented.
    """

    left: Float[Array, "components latents rank"]
    right: Float[Array, "components latents rank"] | None
    bias: Float[Array, " latents"] | None

    def __init__(
        self,
        num_components: int,
        latent_size: int,
        rank: int = 2,
        *,
        symmetric: bool = False,
        use_bias: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:** `rank`: columns of each factor; `symmetric`: tie the factors, as published."""
        check_sizes(num_components=num_components, latent_size=latent_size, rank=rank)
        left_key, right_key, bias_key = jr.split(key, 3)
        shape = (num_components, latent_size * rank)
        factor_shape = (num_components, latent_size, rank)
        self.left = jnp.reshape(jinit.orthogonal()(left_key, shape), factor_shape)
        self.right = None if symmetric else jnp.reshape(jinit.orthogonal()(right_key, shape), factor_shape)
        self.bias = jinit.glorot_normal()(bias_key, (1, latent_size))[0] if use_bias else None

    @property
    def transition_basis(self) -> Float[Array, "components latents latents"]:
        right = self.left if self.right is None else self.right
        return jnp.einsum("mik,mjk->mij", self.left, right)

    def propagate(self, latents: Float[Array, " latents"]) -> Float[Array, "latents components"]:
        right = self.left if self.right is None else self.right
        return jnp.einsum("mik,mk->im", self.left, jnp.einsum("mjk,j->mk", right, latents))
