"""Looking at a model between dispatches."""

from collections.abc import Callable
from typing import Any, no_type_check

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree

from .._scan import scan
from ._data import ArrayData
from ._dispatch import Dispatch
from ._objective import check_metrics
from ._state import TrainState


class Evaluate(eqx.Module):
    """Calls `fn(model)` every so often; what `fit` makes of a plain function.

    The model is `state.averaged_model` in inference mode (`eqx.nn.inference_mode`); where the state has statistics,
    `fn(model, statistics)` is called.
    """

    fn: Callable
    every: int = eqx.field(static=True)

    def __init__(self, fn: Callable, *, every: int = 1):
        """**Arguments:**

        - `fn`: `model -> dict of scalars`; compiled by `fit`.
        - `every`: epochs between evaluations, or dispatches if `fit` counts `steps`. The end is always evaluated.

        **Raises:** `ValueError` if `every` is not positive.
        """
        if every < 1:
            raise ValueError(f"`every` must be at least 1; got {every}.")
        self.fn, self.every = fn, every

    def __call__(self, state: TrainState) -> dict[str, Array]:
        """The metrics of the model in `state`."""
        model = eqx.nn.inference_mode(state.averaged_model)
        metrics = self.fn(model) if state.statistics is None else self.fn(model, state.statistics)
        check_metrics(metrics, "evaluate")
        return {name: jnp.asarray(value) for name, value in metrics.items()}


class OverData(eqx.Module):
    r"""Means of metrics over all examples of a data set, as an `evaluate` function for `fit`.

    $\frac1n \sum_b |b|\, m(b)$ over the batches $b$ in order, the last one smaller if need be: every example counts
    exactly once.
    """

    metric_fn: Callable
    data: ArrayData
    prefix: str = eqx.field(static=True)

    def __init__(self, metric_fn: Callable, data: ArrayData, *, prefix: str = "val_"):
        """**Arguments:**

        - `metric_fn`: `(model, batch) -> dict of scalars`, each a mean over the batch; `(model, batch, statistics)`
          where the state has statistics.
        - `data`: `ArrayData`; its `shuffle` and `last` are ignored.
        - `prefix`: put before each name.
        """
        self.metric_fn, self.data, self.prefix = metric_fn, data, prefix

    def __call__(self, model: PyTree, statistics: PyTree = None) -> dict[str, Array]:
        """The means, by name."""
        size, total = self.data.batch_size, self.data.num_examples
        full = total // size

        def mean(batch: PyTree) -> dict[str, Array]:
            metrics = self.metric_fn(model, batch, *([] if statistics is None else [statistics]))
            check_metrics(metrics, "metric_fn")
            return {self.prefix + name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

        def one(x: Array, state: None, *, key: Any = None) -> tuple[dict[str, Array], None]:
            return mean(self.data.take(x)), None

        rows = jnp.arange(full * size).reshape(full, size)
        sums = jtu.tree_map(lambda m: m.sum(0) * size, scan(one, rows, None, unroll=1)[0])
        if total > full * size:
            rest = mean(self.data.take(jnp.arange(full * size, total)))
            sums = jtu.tree_map(lambda s, m: s + m * (total - full * size), sums, rest)
        return jtu.tree_map(lambda s: s / total, sums)


@eqx.filter_jit
def _evaluate(evaluate: Evaluate, state: TrainState) -> dict[str, Array]:
    return evaluate(state)


class Evaluation:
    """`evaluate`, checked without computing anything, and when it is due."""

    def __init__(self, evaluate: Callable | Evaluate | None, state: TrainState):
        self._evaluate = Evaluate(evaluate) if callable(evaluate) and not isinstance(evaluate, Evaluate) else evaluate
        # Twice, since a function that answers otherwise the second time would be frozen at its first answer.
        shapes, again = (
            {} if self._evaluate is None else eqx.filter_eval_shape(self._evaluate, state) for _ in range(2)
        )
        self.names: tuple[str, ...] = tuple(sorted(shapes))
        if tuple(sorted(again)) != self.names:
            raise ValueError(f"`evaluate` must keep its structure; it gave {list(self.names)}, then {sorted(again)}.")
        if "loss" in shapes:
            raise ValueError("`evaluate` may not return a metric named `loss`, the training loss; use a prefix.")

    def check_names(self, trained: dict[str, Array]) -> None:
        """**Raises:** `ValueError` if a metric of training has the name of one of these: they would be mixed."""
        both = sorted(trained.keys() & set(self.names))
        if both:
            raise ValueError(
                f"`evaluate` and `loss_fn` may not both return metrics named {both}; name one of them otherwise, "
                "with a prefix such as `val_`."
            )

    @no_type_check  # between two dispatches a check would cost more than the call
    def is_due(self, dispatch: Dispatch) -> bool:
        """Whether to evaluate after this dispatch."""
        if self._evaluate is None or not dispatch.ends_entry:
            return False
        return dispatch.is_last or dispatch.entry % self._evaluate.every == 0

    def __call__(self, state: TrainState) -> dict[str, Array]:
        """The metrics of the model in `state`."""
        return {} if self._evaluate is None else _evaluate(self._evaluate, state)
