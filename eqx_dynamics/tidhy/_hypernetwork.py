"""From context latents to mixture weights."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._mlp import NormedMLP


def signed(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Mixture weights of either sign: the hypernetwork's output as it is."""
    return x


class Hypernetwork(eqx.Module):
    r"""Mixture weights $w$ (and bias gains $b$) from context latents $h$: $w = a(\mathrm{MLP}(s(h)))$.

    `activation` decides what a weight may be: `jax.nn.relu` (published: sparse, unbounded, but may die),
    `jax.nn.softplus` (positive), `jax.nn.softmax` (a probability vector) or `signed` (any real number).
    """

    mlp: NormedMLP
    activation: Callable = eqx.field(static=True)
    gain_activation: Callable = eqx.field(static=True)
    squash: Callable | None = eqx.field(static=True)
    num_components: int = eqx.field(static=True)

    def __init__(
        self,
        context_size: int,
        num_components: int,
        hidden_size: int,
        *,
        gain_size: int = 0,
        activation: Callable = jax.nn.relu,
        gain_activation: Callable = signed,
        squash: Callable | None = None,
        use_final_bias: bool = True,
        final_bias_lift: float = 0.0,
        norm_eps: float = 1e-5,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `context_size`, `num_components`, `hidden_size`: lengths of $h$, $w$ and of both hidden layers.
        - `gain_size`: length of $b$; zero without a dynamic bias.
        - `activation`, `gain_activation`: applied to the mixture weights and to the gains.
        - `squash`: applied to $h$ first, for instance `jnp.tanh`; None leaves it unbounded.
        - `use_final_bias`: the published dynamic-bias variant has none.
        - `final_bias_lift`: added to the initial output bias. A ReLU whose input starts below zero for every $h$ has no
          gradient, and with small `num_components` all may start so; a positive lift keeps them alive.
        """
        mlp = NormedMLP(
            context_size,
            hidden_size,
            num_components + gain_size,
            use_final_bias=use_final_bias,
            norm_eps=norm_eps,
            key=key,
        )
        if mlp.third.bias is not None:
            mlp = eqx.tree_at(lambda m: m.third.bias, mlp, mlp.third.bias + final_bias_lift)
        self.mlp = mlp
        self.activation = activation
        self.gain_activation = gain_activation
        self.squash = squash
        self.num_components = num_components

    def __call__(self, context_latents: Float[Array, " context"]) -> Float[Array, " weights_and_gains"]:
        """Mixture weights, followed by the gains if there are any."""
        outputs = self.mlp(context_latents if self.squash is None else self.squash(context_latents))
        weights, gains = outputs[: self.num_components], outputs[self.num_components :]
        return jnp.concatenate([self.activation(weights), self.gain_activation(gains)])
