"""Batch normalisation over the nodes of a batch of graphs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._linear import check_features, check_sizes


class RunningStatistics(eqx.Module):
    """What `BatchNorm` keeps between batches."""

    running_mean: Float[Array, " features"]
    running_var: Float[Array, " features"]
    num_batches_tracked: Int[Array, ""]


class BatchNorm(eqx.Module):
    r"""Batch normalisation, $y = \gamma\, (x - \mathrm{E}[x]) / \sqrt{\mathrm{Var}[x] + \epsilon} + \beta$ per feature.

    In training, mean and (biased) variance are those of the nodes present, `mask` leaving padding out; in inference
    (`eqx.nn.inference_mode`) the running ones. These live in an `eqx.nn.State`:

        model, state = eqx.nn.make_with_state(Model)(key=key)
        x, state = norm(x, state, mask=graph.node_mask)

    ??? cite "Reference"
        Ioffe and Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift,
        ICML 2015, algorithm 1. Numbers as in PyTorch: the running variance is the unbiased one.
    """

    weight: Float[Array, " features"] | None
    bias: Float[Array, " features"] | None
    state_index: eqx.nn.StateIndex | None
    eps: float | Float[Array, ""]
    momentum: float | Float[Array, ""] | None
    inference: bool
    in_features: int = eqx.field(static=True)
    allow_single_element: bool = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        *,
        eps: float | Float[Array, ""] = 1e-5,
        momentum: float | Float[Array, ""] | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        allow_single_element: bool = False,
        inference: bool = False,
    ):
        r"""**Arguments:**

        - `in_features`: features per node.
        - `eps`: $\epsilon$, added to the variance.
        - `momentum`: weight of the newest batch in the running statistics; None for the plain mean of all batches.
        - `affine`: learn $\gamma$ (1 at first) and $\beta$ (0 at first).
        - `track_running_stats`: keep running statistics; if False, inference uses the batch's own.
        - `allow_single_element`: use the running statistics where a batch has one node (an error if False).
        - `inference`: start in inference mode.

        **Raises:** `ValueError` for `allow_single_element` without `track_running_stats`.
        """
        check_sizes(in_features=in_features)
        if allow_single_element and not track_running_stats:
            raise ValueError(
                "`allow_single_element` needs `track_running_stats=True`, whose statistics it falls back on."
            )
        self.weight = jnp.ones(in_features) if affine else None
        self.bias = jnp.zeros(in_features) if affine else None
        start = RunningStatistics(jnp.zeros(in_features), jnp.ones(in_features), jnp.zeros((), jnp.int32))
        self.state_index = eqx.nn.StateIndex(start) if track_running_stats else None
        self.eps = eps
        self.momentum = momentum
        self.inference = inference
        self.in_features = in_features
        self.allow_single_element = allow_single_element

    @jax.named_scope("eqx_graph.BatchNorm")
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        state: eqx.nn.State | None = None,
        *,
        mask: Bool[Array | np.ndarray, " num_nodes"] | None = None,
    ) -> tuple[Float[Array, "num_nodes features"], eqx.nn.State | None]:
        """**Arguments:**

        - `x`: node features.
        - `state`: holds the running statistics; may be None with `track_running_stats=False`.
        - `mask`: False for nodes that do not count (padding); their rows of the result are 0.

        **Returns:** `(y, state)`, the state with running statistics updated if training.

        **Raises:** `ValueError` if `state` is missing, for a wrong number of features, or for a batch of one node.
        """
        check_features(x, self.in_features)
        if self.state_index is not None and state is None:
            raise ValueError(
                "`state` must be given to a BatchNorm that tracks running statistics; got None. Build the model with "
                "`eqx.nn.make_with_state` and pass its state."
            )
        single = x.shape[0] == 1 and self.allow_single_element
        if self.state_index is not None and state is not None and (self.inference or single):
            kept = state.get(self.state_index)
            mean, var = jax.lax.stop_gradient((kept.running_mean, kept.running_var))
            return self._scale(x, mean, var, mask), state
        if x.shape[0] == 1:
            raise ValueError(
                "`x` must have more than one node for batch statistics; got 1. Use larger batches, inference mode, or "
                "`allow_single_element=True`."
            )
        mean, var, count = _statistics(x, mask)
        if self.state_index is not None and state is not None and not self.inference:
            state = state.set(self.state_index, self._update(state.get(self.state_index), mean, var, count))
        return self._scale(x, mean, var, mask), state

    def _scale(self, x: Array, mean: Array, var: Array, mask: Array | np.ndarray | None) -> Array:
        x = x if mask is None else jnp.where(jnp.asarray(mask)[:, None], x, 0.0)
        y = (x.astype(mean.dtype) - mean[None]) * jax.lax.rsqrt(var + self.eps)[None]
        y = y.astype(x.dtype)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight[None] + self.bias[None]
        return y if mask is None else jnp.where(jnp.asarray(mask)[:, None], y, 0.0)

    def _update(self, kept: RunningStatistics, mean: Array, var: Array, count: Array) -> RunningStatistics:
        mean, var = jax.lax.stop_gradient((mean, var * (count / jnp.maximum(count - 1.0, 1.0))))
        number = kept.num_batches_tracked + 1
        share = 1.0 / number.astype(mean.dtype) if self.momentum is None else self.momentum
        share = jnp.where(count > 0, jnp.asarray(share, mean.dtype), 0.0)
        return RunningStatistics(
            ((1.0 - share) * kept.running_mean + share * mean).astype(kept.running_mean.dtype),
            ((1.0 - share) * kept.running_var + share * var).astype(kept.running_var.dtype),
            number,
        )


def _statistics(x: Array, mask: Array | np.ndarray | None) -> tuple[Array, Array, Array]:
    """Mean and biased variance of every feature over the nodes that count, and their number; at least in float32."""
    x = x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)
    if mask is None and x.shape[0] > 0:
        count = jnp.asarray(x.shape[0], x.dtype)
        return jnp.mean(x, axis=0), jnp.var(x, axis=0), count
    keep = jnp.zeros((0, 1), bool) if mask is None else jnp.asarray(mask)[:, None]
    x = jnp.where(keep, x, 0.0)
    count = jnp.sum(keep, dtype=x.dtype)
    number = jnp.maximum(count, 1.0)
    mean = jnp.sum(x, axis=0) / number
    var = jnp.sum(jnp.where(keep, (x - mean[None]) ** 2, 0.0), axis=0) / number
    return mean, var, count
