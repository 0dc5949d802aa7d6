"""From context latents to mixture weights."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._mlp import NormedMLP


# Activations that bend at zero. The solver that follows context latents into such a bend must know it.
_KINKED = (jax.nn.relu, jax.nn.leaky_relu)


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
        - `squash`: applied to $h$ first, entry by entry, for instance `jnp.tanh`; None leaves it unbounded.
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
        return self.activate(self.mlp(context_latents if self.squash is None else self.squash(context_latents)))

    def activate(self, outputs: Float[Array, " weights_and_gains"]) -> Float[Array, " weights_and_gains"]:
        """`activation` of the weights, `gain_activation` of the gains."""
        weights, gains = outputs[: self.num_components], outputs[self.num_components :]
        return jnp.concatenate([self.activation(weights), self.gain_activation(gains)])

    @property
    def has_kinks(self) -> bool:
        """Whether weights or gains bend where their pre-activation is zero (ReLU and leaky ReLU)."""
        return self.activation in _KINKED or self.gain_activation in _KINKED


class Linearization(eqx.Module):
    r"""A hypernetwork near one context: $w(h + \delta) \approx$ `mixture + jacobian @ delta`."""

    outputs: Float[Array, " weights_and_gains"]
    output_jacobian: Float[Array, "weights_and_gains context"]
    mixture: Float[Array, " weights_and_gains"]
    jacobian: Float[Array, "weights_and_gains context"]


class Linearizer(eqx.Module):
    r"""Value and Jacobian of a `Hypernetwork`, for parameters that stay the same over very many contexts.

    With $W_1$ and $b_1$ centred over hidden units, $c = W_1 s(h) + b_1$, $\nu = 1 / \sqrt{\mathrm{mean}(c^2) + \epsilon}$,
    $n = \nu c$ and $d = \nu \gamma \odot \mathrm{ELU}'(\gamma \odot n + \beta)$, the pre-activations have the
    Jacobian $(W_3 \mathrm{diag}(d) W_1 - W_3 (d \odot n) (W_1^T n)^T / K)\, \mathrm{diag}(s'(h))$. The first product is
    $d$ times a table that depends on parameters only: one matrix product for all contexts, where differentiating
    forwards would carry one tangent per context latent through every hidden unit.
    """

    network: Hypernetwork
    weight: Float[Array, "hidden context"]
    bias: Float[Array, " hidden"]
    table: Float[Array, "hidden products"]

    def __init__(self, network: Hypernetwork):
        """**Arguments:** `network`: of which one `NormedMLP.fold` is taken, if it is not folded yet."""
        network = eqx.tree_at(lambda n: n.mlp, network, network.mlp.fold())
        first, third = network.mlp.first, network.mlp.third
        assert first.bias is not None
        self.network = network
        self.weight = first.weight - jnp.mean(first.weight, axis=0, keepdims=True)
        self.bias = first.bias - jnp.mean(first.bias)
        products = third.weight.T[:, :, None] * self.weight[:, None, :]
        self.table = jnp.reshape(products, (products.shape[0], -1))

    def __call__(self, context_latents: Float[Array, " context"]) -> Linearization:
        """The linearization at one context."""
        network, (norm, third) = self.network, (self.network.mlp.norm, self.network.mlp.third)
        assert norm.weight is not None and norm.bias is not None and third.bias is not None
        squashed, slope = context_latents, None
        if network.squash is not None:
            squashed, slope = jax.jvp(network.squash, (context_latents,), (jnp.ones_like(context_latents),))
        centered = self.weight @ squashed + self.bias
        inverse = jax.lax.rsqrt(jnp.mean(centered**2) + norm.eps)
        normed = inverse * centered
        scaled = norm.weight * normed + norm.bias
        hidden = jax.nn.elu(scaled)
        gain = inverse * norm.weight * jnp.where(scaled > 0, 1.0, hidden + 1.0)
        outputs = third.weight @ hidden + third.bias
        jacobian = jnp.reshape(gain @ self.table, (outputs.shape[0], -1))
        along = (third.weight @ (gain * normed)) / normed.shape[0]
        jacobian = jacobian - along[:, None] * (normed @ self.weight)[None, :]
        if slope is not None:
            jacobian = jacobian * slope[None, :]

        def push(tangent: Float[Array, " weights_and_gains"]) -> tuple[Array, Array]:
            return jax.jvp(network.activate, (outputs,), (tangent,))

        mixture, activated = jax.vmap(push, in_axes=1, out_axes=(None, 1))(jacobian)
        return Linearization(outputs, jacobian, mixture, activated)
