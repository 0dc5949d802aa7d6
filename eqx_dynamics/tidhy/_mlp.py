"""The one network shape of the model: decoder, hypernetwork and context prior are all this perceptron."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.nn.initializers as jinit
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray


class NormedMLP(eqx.Module):
    r"""Linear, LayerNorm, ELU, Linear, Linear: $W_3 (W_2\, \mathrm{ELU}(\mathrm{LN}(W_1 x + b_1)) + b_2) + b_3$.

    The two last maps have no nonlinearity between them, as published.
    """

    first: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    second: eqx.nn.Linear | None
    third: eqx.nn.Linear

    def __init__(
        self,
        in_size: int,
        hidden_size: int,
        out_size: int,
        *,
        use_final_bias: bool = True,
        norm_eps: float = 1e-5,
        key: PRNGKeyArray,
    ):
        """**Arguments:** `norm_eps`: added to the variance (1e-5 in PyTorch, 1e-6 in Flax). Weights are Xavier-normal,
        biases uniform in $\\pm 1/\\sqrt{\\text{fan in}}$.

        The biases must not be zero: $\\mathrm{LN}(W x)$ without a bias does not change when $x$ is scaled, so its
        derivative grows like $1/\\lVert x \\rVert$ and inference that starts near $x = 0$ explodes.
        """
        keys = jr.split(key, 3)
        self.first = xavier_linear(in_size, hidden_size, key=keys[0])
        self.norm = eqx.nn.LayerNorm(hidden_size, eps=norm_eps)
        self.second = xavier_linear(hidden_size, hidden_size, key=keys[1])
        self.third = xavier_linear(hidden_size, out_size, use_bias=use_final_bias, key=keys[2])

    def __call__(
        self, x: Float[Array, " in_size"], activation: Callable[[Array], Array] = jax.nn.elu
    ) -> Float[Array, " out_size"]:
        hidden = activation(self.norm(self.first(x)))
        return self.third(hidden if self.second is None else self.second(hidden))

    def fold(self) -> "NormedMLP":
        """The same function with the two last maps multiplied into one: a third of the work, wherever it is called
        often with the same weights."""
        if self.second is None:
            return self
        weight = self.third.weight @ self.second.weight
        assert self.second.bias is not None
        bias = self.third.weight @ self.second.bias + (0.0 if self.third.bias is None else self.third.bias)
        third = eqx.tree_at(lambda m: (m.weight, m.bias), self.third, (weight, bias), is_leaf=lambda x: x is None)
        return eqx.tree_at(lambda m: (m.second, m.third), self, (None, third))


def fold(tree: Any) -> Any:
    """`tree` with every `NormedMLP` in it folded."""
    is_mlp = lambda node: isinstance(node, NormedMLP)  # noqa: E731
    return jtu.tree_map(lambda node: node.fold() if isinstance(node, NormedMLP) else node, tree, is_leaf=is_mlp)


def xavier_linear(in_size: int, out_size: int, *, use_bias: bool = True, key: PRNGKeyArray) -> eqx.nn.Linear:
    """A linear map with Xavier-normal weight and a non-zero uniform bias."""
    bias_key, weight_key = jr.split(key)
    linear = eqx.nn.Linear(in_size, out_size, use_bias=use_bias, key=bias_key)
    weight = jinit.glorot_normal(in_axis=1, out_axis=0)(weight_key, (out_size, in_size), linear.weight.dtype)
    return eqx.tree_at(lambda module: module.weight, linear, weight)
