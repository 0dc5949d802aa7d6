"""From latents to the natural parameters of an observation."""

import abc

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from ._mlp import NormedMLP, xavier_linear
from ._types import check_sizes


class AbstractDecoder(eqx.Module):
    """A map from the latents of one time step to one observation's natural parameters."""

    @abc.abstractmethod
    def __call__(self, latents: Float[Array, " latents"]) -> Float[Array, " observations"]: ...


class LinearDecoder(AbstractDecoder):
    r"""$g(r) = C r + b$."""

    linear: eqx.nn.Linear

    def __init__(self, latent_size: int, observation_size: int, *, key: PRNGKeyArray):
        """**Arguments:** `latent_size`, `observation_size`: lengths of $r$ and of one observation."""
        check_sizes(latent_size=latent_size, observation_size=observation_size)
        self.linear = xavier_linear(latent_size, observation_size, key=key)

    def __call__(self, latents: Float[Array, " latents"]) -> Float[Array, " observations"]:
        return self.linear(latents)


class MLPDecoder(AbstractDecoder):
    r"""Linear, LayerNorm, ELU, Linear, Linear from latents to observations."""

    mlp: NormedMLP

    def __init__(
        self, latent_size: int, observation_size: int, hidden_size: int, *, norm_eps: float = 1e-5, key: PRNGKeyArray
    ):
        """**Arguments:** `hidden_size`: width of both hidden layers; `norm_eps`: of the layer norm."""
        check_sizes(latent_size=latent_size, observation_size=observation_size, hidden_size=hidden_size)
        self.mlp = NormedMLP(latent_size, hidden_size, observation_size, norm_eps=norm_eps, key=key)

    def __call__(self, latents: Float[Array, " latents"]) -> Float[Array, " observations"]:
        return self.mlp(latents)
