"""A running average of the weights."""

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, Int, PyTree


class WeightAverage(eqx.Module):
    r"""Exponential moving average of the trainable leaves, $\bar w \leftarrow d_n \bar w + (1 - d_n) w$.

    $d_n = \min(d, (1 + n) / (10 + n))$ at step $n$, so that early weights are forgotten quickly; $\bar w$ starts at the
    initial weights. It is kept in `state.average`; `fit` evaluates `state.averaged_model`.

    ??? cite "Reference"
        Polyak and Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control Optim. 30, 1992;
        the ramp of $d_n$ is that of TensorFlow's `ExponentialMovingAverage`.
    """

    decay: float | Float[Array, ""] = 0.999

    def __check_init__(self):
        if isinstance(self.decay, float) and not 0 <= self.decay < 1:
            raise ValueError(f"`decay` must lie in [0, 1); got {self.decay}.")

    def __call__(self, average: PyTree, params: PyTree, step: Int[Array, ""]) -> PyTree:
        """The average after an update at `step`."""
        n = step.astype(jnp.float32)
        decay = jnp.minimum(self.decay, (1 + n) / (10 + n))
        return jtu.tree_map(lambda a, p: a + ((1 - decay).astype(p.dtype) * (p - a)), average, params)
