"""All that changes while training, as one pytree."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Int, PRNGKeyArray, PyTree


class TrainState(eqx.Module):
    r"""The state of a training run: hand it to a step to continue, to a checkpoint to keep.

    Nothing else changes while training, so two runs from equal states over equal batches are equal bit for bit: the key
    of step $n$ is `jax.random.fold_in(key, n)`, and the order of an in-memory epoch depends on `key` and on the step at
    which that epoch began. Training 100 steps is training 60 and then 40.

    - `model`: any Equinox module.
    - `opt_state`: the optimizer's state, shaped as the trainable leaves of `model`.
    - `key`: the root key of the run; never consumed.
    - `step`: batches seen so far.
    - `epoch_start`: the step at which the current pass over in-memory data began.
    - `statistics`: what the loss itself updates (`eqx.nn.State` of a batch norm, a recurrent state carried between
      batches, ...), or None.
    - `average`: running average of the trainable leaves, if the step keeps one.
    - `loss_scale`: a `DynamicLossScale`, or None if the precision uses none.
    - `health`: a `Health`, what was seen of values that are not finite, or None if the step does not look.
    """

    model: PyTree
    opt_state: PyTree
    key: PRNGKeyArray
    step: Int[Array, ""]
    epoch_start: Int[Array, ""]
    statistics: PyTree = None
    average: PyTree = None
    loss_scale: Any = None
    health: Any = None

    @property
    def averaged_model(self) -> Any:
        """The model with its running average in place of the trainable leaves; `model` itself if none is kept."""
        return self.model if self.average is None else eqx.combine(self.average, self.model)
