"""Jumping knowledge: the results of all layers, combined at every node."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .._linear import project, uniform


Mode = Literal["cat", "max", "lstm"]


class BiLSTM(eqx.Module):
    """One bidirectional LSTM layer with torch's parameters, over the first axis."""

    weight_ih_l0: Float[Array, "gates in"]
    weight_hh_l0: Float[Array, "gates hidden"]
    bias_ih_l0: Float[Array, " gates"]
    bias_hh_l0: Float[Array, " gates"]
    weight_ih_l0_reverse: Float[Array, "gates in"]
    weight_hh_l0_reverse: Float[Array, "gates hidden"]
    bias_ih_l0_reverse: Float[Array, " gates"]
    bias_hh_l0_reverse: Float[Array, " gates"]

    def __init__(self, in_features: int, hidden_features: int, *, key: PRNGKeyArray):
        r"""**Arguments:** sizes, and `key` for draws from $U(\pm 1 / \sqrt{\text{hidden}})$."""
        gates, keys = 4 * hidden_features, iter(jr.split(key, 8))

        def draw(*shape: int) -> Array:
            return uniform(next(keys), shape, hidden_features**-0.5)

        self.weight_ih_l0, self.weight_hh_l0 = draw(gates, in_features), draw(gates, hidden_features)
        self.bias_ih_l0, self.bias_hh_l0 = draw(gates), draw(gates)
        self.weight_ih_l0_reverse, self.weight_hh_l0_reverse = draw(gates, in_features), draw(gates, hidden_features)
        self.bias_ih_l0_reverse, self.bias_hh_l0_reverse = draw(gates), draw(gates)

    def __call__(self, xs: Float[Array, "steps rows in"]) -> Float[Array, "steps rows both"]:
        """Hidden states of the two directions, side by side."""
        bias = self.bias_ih_l0 + self.bias_hh_l0
        bias_back = self.bias_ih_l0_reverse + self.bias_hh_l0_reverse
        ahead = _lstm(xs, self.weight_ih_l0, self.weight_hh_l0, bias, reverse=False)
        back = _lstm(xs, self.weight_ih_l0_reverse, self.weight_hh_l0_reverse, bias_back, reverse=True)
        return jnp.concatenate([ahead, back], axis=-1)


def _lstm(xs: Array, weight_ih: Array, weight_hh: Array, bias: Array, *, reverse: bool) -> Array:
    zeros = jnp.zeros((xs.shape[1], weight_hh.shape[1]), xs.dtype)

    def step(carry: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
        hidden, cell = carry
        i, f, g, o = jnp.split(x @ weight_ih.T + hidden @ weight_hh.T + bias[None], 4, axis=-1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    return jax.lax.scan(step, (zeros, zeros), xs, reverse=reverse)[1]


class JumpingKnowledge(eqx.Module):
    r"""Combination of a node's representations $x^{(1)}, \dots, x^{(T)}$ from all layers.

    `"cat"` puts them side by side, `"max"` takes the elementwise maximum, `"lstm"` weighs them by attention scores that
    a bidirectional LSTM computes.

    ??? cite "Reference"
        Xu et al., Representation Learning on Graphs with Jumping Knowledge Networks, ICML 2018, section 4.
    """

    lstm: BiLSTM | None
    att: eqx.nn.Linear | None
    mode: Mode = eqx.field(static=True)

    def __init__(
        self,
        mode: Mode,
        features: int | None = None,
        num_layers: int | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ):
        """**Arguments:**

        - `mode`: `"cat"`, `"max"` or `"lstm"`.
        - `features`, `num_layers`, `key`: features per layer, number of layers, and draws, for `"lstm"`.

        **Raises:** `ValueError` for an unknown mode, or missing arguments of `"lstm"`.
        """
        if mode not in ("cat", "max", "lstm"):
            raise ValueError(f"`mode` must be 'cat', 'max' or 'lstm'; got {mode!r}.")
        self.mode = mode
        self.lstm = self.att = None
        if mode == "lstm":
            if features is None or num_layers is None or key is None:
                raise ValueError("`features`, `num_layers` and `key` must be given with mode='lstm'.")
            k_lstm, k_att = jr.split(key)
            hidden = num_layers * features // 2
            self.lstm = BiLSTM(features, hidden, key=k_lstm)
            self.att = eqx.nn.Linear(2 * hidden, 1, key=k_att)

    @jax.named_scope("eqx_graph.JumpingKnowledge")
    def __call__(self, xs: Sequence[Float[Array, "num_nodes features"]]) -> Float[Array, "num_nodes out"]:
        """**Arguments:** `xs`: the layers' results. **Returns:** one row per node."""
        if len({x.shape[: 1 if self.mode == "cat" else 2] for x in xs}) != 1:
            raise ValueError(f"`xs` must hold arrays of one shape, at least one; got {[x.shape for x in xs]}.")
        if self.mode == "cat":
            return jnp.concatenate(xs, axis=-1)
        stack = jnp.stack(xs)
        if self.lstm is None or self.att is None:
            return jnp.max(stack, axis=0)
        hidden = self.lstm(stack)
        scores = project(self.att, hidden.reshape(-1, hidden.shape[-1])).reshape(stack.shape[:2])
        return jnp.sum(stack * jax.nn.softmax(scores, axis=0)[..., None], axis=0)
