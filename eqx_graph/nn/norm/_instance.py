"""Instance normalisation: every graph and feature on its own."""

from typing import overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._linear import check_features, check_sizes
from ._batch import RunningStatistics
from ._groups import Groups, groups_of


class InstanceNorm(eqx.Module):
    r"""Instance normalisation, $\gamma\, (x - \mathrm{E}[x]) / \sqrt{\mathrm{Var}[x] + \epsilon} + \beta$.

    Mean and (biased) variance run over the nodes of a graph, for every feature on its own. With
    `track_running_stats` they are kept in an `eqx.nn.State`, and inference uses these.

    ??? cite "Reference"
        Ulyanov et al., Instance Normalization: The Missing Ingredient for Fast Stylization, arXiv 1607.08022, 2017,
        eq. 2. As in PyTorch, `num_batches_tracked` stays 0.
    """

    weight: Float[Array, " features"] | None
    bias: Float[Array, " features"] | None
    state_index: eqx.nn.StateIndex | None
    eps: float | Float[Array, ""]
    momentum: float | Float[Array, ""]
    inference: bool
    in_features: int = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        *,
        eps: float | Float[Array, ""] = 1e-5,
        momentum: float | Float[Array, ""] = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        inference: bool = False,
    ):
        r"""**Arguments:**

        - `in_features`: features per node.
        - `eps`: $\epsilon$, added to the variance.
        - `momentum`: weight of the newest batch in the running statistics (means over its graphs).
        - `affine`: learn $\gamma$ (1 at first) and $\beta$ (0 at first).
        - `track_running_stats`: keep running statistics for inference.
        - `inference`: start in inference mode.
        """
        check_sizes(in_features=in_features)
        self.weight = jnp.ones(in_features) if affine else None
        self.bias = jnp.zeros(in_features) if affine else None
        start = RunningStatistics(jnp.zeros(in_features), jnp.ones(in_features), jnp.zeros((), jnp.int32))
        self.state_index = eqx.nn.StateIndex(start) if track_running_stats else None
        self.eps = eps
        self.momentum = momentum
        self.inference = inference
        self.in_features = in_features

    @overload
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        batch: Int[Array | np.ndarray, " num_nodes"] | None = None,
        batch_size: int | None = None,
        *,
        mask: Bool[Array | np.ndarray, " num_nodes"] | None = None,
    ) -> Float[Array, "num_nodes features"]: ...
    @overload
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        batch: Int[Array | np.ndarray, " num_nodes"] | None = None,
        batch_size: int | None = None,
        *,
        mask: Bool[Array | np.ndarray, " num_nodes"] | None = None,
        state: eqx.nn.State,
    ) -> tuple[Float[Array, "num_nodes features"], eqx.nn.State]: ...
    @jax.named_scope("eqx_graph.InstanceNorm")
    def __call__(
        self,
        x: Float[Array, "num_nodes features"],
        batch: Int[Array | np.ndarray, " num_nodes"] | None = None,
        batch_size: int | None = None,
        *,
        mask: Bool[Array | np.ndarray, " num_nodes"] | None = None,
        state: eqx.nn.State | None = None,
    ) -> Float[Array, "num_nodes features"] | tuple[Float[Array, "num_nodes features"], eqx.nn.State]:
        """**Arguments:**

        - `x`: node features.
        - `batch`: graph of every node; padding nodes belong to a graph of their own.
        - `batch_size`: number of graphs (static); saves a sort of `batch` under jit.
        - `mask`: False for padding nodes; graphs of nothing else do not enter the running statistics.
        - `state`: holds the running statistics, with `track_running_stats`.

        **Returns:** normalised features; `(y, state)` if `state` is given.

        **Raises:** `ValueError` for wrong sizes, or a missing `state` with `track_running_stats`.
        """
        check_features(x, self.in_features)
        if self.state_index is not None and state is None:
            raise ValueError(
                "`state` must be given to an InstanceNorm that tracks running statistics; got None. Build the model "
                "with `eqx.nn.make_with_state` and pass its state."
            )
        groups = groups_of(batch, batch_size, x.shape[0])
        if self.state_index is not None and state is not None and self.inference:
            kept = jax.lax.stop_gradient(state.get(self.state_index))
            y = (x - kept.running_mean[None]) * jax.lax.rsqrt(kept.running_var + self.eps)[None]
        else:
            mean = groups.mean(x)
            centred = x - groups.at_nodes(mean)
            var = groups.mean(centred**2)
            y = centred * groups.at_nodes(jax.lax.rsqrt(var + self.eps))
            if self.state_index is not None and state is not None:
                kept = self._update(state.get(self.state_index), groups, mean, var, mask)
                state = state.set(self.state_index, kept)
        if self.weight is not None and self.bias is not None:
            y = y * self.weight[None] + self.bias[None]
        return y if state is None else (y, state)

    def _update(
        self, kept: RunningStatistics, groups: Groups, mean: Array, var: Array, mask: Array | np.ndarray | None
    ) -> RunningStatistics:
        count = groups.num_nodes()[:, None].astype(mean.dtype)
        unbiased = var * count / jnp.maximum(count - 1.0, 1.0)
        is_real = jnp.ones((groups.size, 1), bool)
        if mask is not None:
            is_real = groups.mean(jnp.asarray(mask)[:, None].astype(mean.dtype)) > 0
        number = jnp.sum(is_real)
        share = jnp.where(number > 0, jnp.asarray(self.momentum, mean.dtype), 0.0)

        def moved(old, new):
            total = jax.lax.stop_gradient(jnp.sum(jnp.where(is_real, new, 0.0), axis=0))
            newest = total / jnp.maximum(number, 1).astype(total.dtype)
            return ((1.0 - share) * old.astype(newest.dtype) + share * newest).astype(old.dtype)

        return RunningStatistics(
            moved(kept.running_mean, mean), moved(kept.running_var, unbiased), kept.num_batches_tracked
        )
