"""All that changes while training, as one pytree."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Int, PRNGKeyArray, PyTree


class TrainState(eqx.Module):
    r"""The state of a training run: hand it to a step to continue, to a checkpoint to keep.

    Nothing else changes while training, so two runs from equal states over equal batches are equal bit for bit: the key
    of step $n$ is `jax.random.fold_in(key, n)`, and the order of an in-memory epoch depends on `key` and `step` alone.

    - `model`: any Equinox module.
    - `opt_state`: the optimizer's state, shaped as the trainable leaves of `model`.
    - `key`: the root key of the run; never consumed.
    - `step`: batches seen so far.
    - `statistics`: what the loss itself updates (`eqx.nn.State` of a batch norm, a recurrent state carried between
      batches, ...), or None.
    - `average`: running average of the trainable leaves, if the step keeps one.
    - `loss_scale`: state of the dynamic loss scale, if the precision uses one.
    - `health`: what was seen of values that are not finite.
    """

    model: PyTree
    opt_state: PyTree
    key: PRNGKeyArray
    step: Int[Array, ""]
    statistics: Any = None
    average: PyTree = None
    loss_scale: Any = None
    health: Any = None

    @property
    def averaged_model(self) -> PyTree:
        """The model with its running average in place of the trainable leaves; `model` itself if none is kept."""
        return self.model if self.average is None else eqx.combine(self.average, self.model)
