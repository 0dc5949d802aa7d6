"""From context latents to mixture weights."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._mlp import NormedMLP
from ._types import RealScalar, check_sizes


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
        final_bias_lift: RealScalar = 0.0,
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
        check_sizes(context_size=context_size, num_components=num_components, hidden_size=hidden_size)
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

    def check_l1(self, name: str) -> None:
        """**Raises:** `ValueError` where the L1 norm of the mixture weights is 1 whatever they are."""
        if self.activation is jax.nn.softmax:
            raise ValueError(
                f"`{name}` does nothing to weights that a softmax makes sum to one. Use `ComponentCount` or "
                "`SelectiveWeights`, or another `activation`."
            )


def small_product(
    matrix: Float[Array, " inner rows"], other: Float[Array, " inner *columns"]
) -> Float[Array, " rows *columns"]:
    """`matrix.T @ other` as a sum of outer products, written out: one fused loop over a whole batch of them.

    A batch of products this small is slower as calls, and as multiplications followed by a reduction (measured for 256
    products of 8 by 8 matrices: 12, 14 and 5 microseconds).
    """
    if matrix.shape[0] > 32:
        return matrix.T @ other
    shape = (-1, *(1,) * (other.ndim - 1))
    terms = [jnp.reshape(row, shape) * other[n][None] for n, row in enumerate(matrix)]
    return sum(terms[1:], terms[0])


class Linearizer(eqx.Module):
    r"""Value and Jacobian of a `Hypernetwork`, for parameters that stay the same over very many contexts.

    With $W_1$, $b_1$ centred over hidden units, $c = W_1 s(h) + b_1$, $\nu = (\mathrm{mean}(c^2) + \epsilon)^{-1/2}$,
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

    def __call__(
        self, context_latents: Float[Array, " context"]
    ) -> tuple[Float[Array, " weights_and_gains"], Float[Array, "weights_and_gains context"]]:
        """Pre-activations and their Jacobian at one context."""
        norm, third = self.network.mlp.norm, self.network.mlp.third
        assert norm.weight is not None and norm.bias is not None and third.bias is not None
        squashed, slope = context_latents, jnp.ones_like(context_latents)
        if self.network.squash is not None:
            squashed, slope = jax.jvp(self.network.squash, (context_latents,), (slope,))
        centered = self.weight @ squashed + self.bias
        inverse = jax.lax.rsqrt(jnp.mean(centered**2) + norm.eps)
        normed = inverse * centered
        scaled = norm.weight * normed + norm.bias
        slopes = jnp.exp(jnp.minimum(scaled, 0.0))  # of ELU, which is this minus one below zero (`expm1` is slow)
        hidden = jnp.where(scaled > 0, scaled, slopes - 1)
        gain = inverse * norm.weight * slopes
        outputs = third.weight @ hidden + third.bias
        whole = jnp.reshape(gain @ self.table, (outputs.shape[0], -1))
        left, right = third.weight @ (gain * normed) / normed.shape[0], normed @ self.weight
        return outputs, (whole - left[:, None] * right[None, :]) * slope[None, :]
