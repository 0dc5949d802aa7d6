"""A training step is a cell: `(batch, state) -> (metrics, state)`."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from ..parallel._mesh import DataParallel
from ..transform._select import Filter, select
from ._average import WeightAverage
from ._health import AbstractNanPolicy, RaiseOnNaN, conclude, examine, init_health, not_finite
from ._objective import Objective
from ._precision import Precision
from ._state import TrainState


@runtime_checkable
class Optimizer(Protocol):
    """Anything with optax's `init` and `update`."""

    @property
    def init(self) -> Callable: ...
    @property
    def update(self) -> Callable: ...


class TrainStep(eqx.Module):
    """One update of a model on one batch, as a cell; made by `make_step`."""

    objective: Objective
    optimizer: optax.GradientTransformationExtraArgs
    frozen: Filter
    nan_policy: AbstractNanPolicy | None
    average: WeightAverage | None
    placement: DataParallel | None
    donate: bool = eqx.field(static=True)

    def init(self, model: PyTree, *, key: PRNGKeyArray, statistics: PyTree = None) -> TrainState:
        """The state before the first step.

        **Arguments:**

        - `model`: any Equinox module; its floating arrays are trained, unless frozen.
        - `key`: root of all randomness of the run.
        - `statistics`: what the loss updates beside the gradient, such as the `eqx.nn.State` of a batch norm; the loss
          is then called as `loss_fn(model, batch, key, statistics)` and returns `(loss, metrics, statistics)`.

        **Raises:** `ValueError` if nothing is trainable or a filter chooses nothing.
        """
        model, statistics = jtu.tree_map(_as_array, (model, statistics))
        params, _ = self.split(model)
        with jax.numpy_dtype_promotion("standard"):
            opt_state = jtu.tree_map(_as_array, self.optimizer.init(params))
        return TrainState(
            model,
            opt_state,
            key,
            step=jnp.int32(0),
            epoch_start=jnp.int32(0),
            statistics=statistics,
            average=None if self.average is None else params,
            loss_scale=self.objective.precision.loss_scale,
            health=None if self.nan_policy is None else init_health(params),
        )

    def __call__(
        self, batch: PyTree, state: TrainState, *, key: PRNGKeyArray | None = None
    ) -> tuple[dict[str, Array], TrainState]:
        """Metrics of the model on `batch` before the update, and the state after it.

        **Raises:** while tracing, before anything is computed: `ValueError` if the loss is not a scalar, the batch
        cannot be split, or the optimizer state is another model's.
        """
        key = jr.fold_in(state.key, state.step) if key is None else key
        batch = batch if self.placement is None else self.placement.split(batch)
        params, rest = self.split(state.model)
        self._check(state, params)
        grads, metrics, statistics = self.objective.gradient(
            params, rest, batch, key, state.statistics, state.loss_scale
        )

        def loss(params: PyTree) -> Array:  # for line searches
            return self.objective.value(params, rest, batch, key, state.statistics)[0]

        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            updates, opt_state = self.optimizer.update(
                grads, state.opt_state, params, value=metrics["loss"], grad=grads, value_fn=loss
            )
            new_params = jtu.tree_map(lambda p, u: (p + u).astype(p.dtype), params, updates)
        average = None if self.average is None else self.average(state.average, new_params, state.step)
        updated = (eqx.combine(new_params, rest), opt_state, statistics, average)
        new = self._guard(state, updated, not_finite(metrics["loss"], grads))
        return (metrics, new) if self.placement is None else self.placement.replicate((metrics, new))

    def split(self, model: PyTree) -> tuple[PyTree, PyTree]:
        """What is trained, and the rest, as two trees of the model's structure with None in place of the other."""
        trained = jtu.tree_map(_is_trained, model)
        if self.frozen is not None:
            trained = jtu.tree_map(
                lambda t, frozen: t and not frozen, trained, select(model, self.frozen, name="frozen")
            )
        if not any(jtu.tree_leaves(trained)):
            raise ValueError(f"`model` ({type(model).__name__}) has no floating array to train, or all are `frozen`.")
        return eqx.partition(model, trained)

    def check(self, state: TrainState) -> None:
        """Raise as `nan_policy` wants if `state` was halted by values that are not finite; waits for the device."""
        if self.nan_policy is not None and state.health is not None and state.health.halted:
            conclude(self.nan_policy, self.split(state.model)[0], state)

    def recover(self, state: TrainState) -> TrainState:
        """A halted state, able to run again; nothing of what was seen is remembered."""
        health = None if self.nan_policy is None else init_health(self.split(state.model)[0])
        return eqx.tree_at(lambda s: s.health, state, health, is_leaf=lambda node: node is None)

    def _guard(self, state: TrainState, updated: tuple, where: Bool[Array, " num_values"]) -> TrainState:
        """The state after a good step; after a bad one the old state, moved on by a step unless the run has ended."""
        good, scale = ~where.any(), state.loss_scale
        health, applied, running = None, jnp.bool_(True), jnp.bool_(True)
        if scale is not None:
            scale, applied = scale.adjust(good), good
        if self.nan_policy is not None and state.health is not None:
            # A scale that can still be lowered explains the overflow.
            excused = False if state.loss_scale is None else state.loss_scale.value > 1
            health = examine(self.nan_policy, state.health, where, state.step, excused=excused)
            applied, running = health.applied, ~health.halted
        old = (state.model, state.opt_state, state.statistics, state.average)
        if scale is not None or health is not None:
            updated = jtu.tree_map(lambda n, o: jnp.where(applied, n, o) if eqx.is_array(n) else n, updated, old)
        model, opt_state, statistics, average = updated
        step = state.step + running.astype(jnp.int32)
        # A step on its own belongs to no epoch: `fit` says so where there is one.
        return TrainState(model, opt_state, state.key, step, step, statistics, average, scale, health)

    def _check(self, state: TrainState, params: PyTree) -> None:
        with jax.numpy_dtype_promotion("standard"):
            expected = eqx.filter_eval_shape(self.optimizer.init, params)
        _check_same("opt_state", "optimizer and model", expected, state.opt_state)
        if self.average is not None:
            _check_same("average", "step (`average=`)", params, state.average)
        for name, has, wants in (
            ("loss_scale", state.loss_scale is not None, self.objective.precision.loss_scale is not None),
            ("health", state.health is not None, self.nan_policy is not None),
        ):
            if has != wants:
                raise ValueError(f"`state.{name}` does not fit this step; make the state with this step's `init`.")


def make_step(
    loss_fn: Callable,
    optimizer: Optimizer,
    *,
    accumulate: int = 1,
    precision: Precision | None = None,
    clip: float | int | Optimizer | None = None,
    frozen: Filter = None,
    nan_policy: AbstractNanPolicy | None = RaiseOnNaN(),
    average: WeightAverage | None = None,
    mesh: Mesh | DataParallel | None = None,
    donate: bool = True,
) -> TrainStep:
    r"""A training step as a cell: gradient of `loss_fn`, update by `optimizer`.

    **Arguments:**

    - `loss_fn`: `(model, batch, key) -> loss` or `-> (loss, metrics)`, with a scalar loss and a dict of scalars.
      Arrays in a batch of tuples, lists and dicts share their first axis, the examples; what does not (a graph's nodes
      and edges, time before examples) goes in the fields of a class: a `Graph`, an `eqx.Module`, a `NamedTuple`.
    - `optimizer`: any optax transformation; `optimizer_groups` for one per group of leaves.
    - `accumulate`: split each batch into this many equal parts and sum their gradients: the same numbers as the whole
      batch for a loss that is a mean over examples, in a fraction of the memory.
    - `precision`: a `Precision`; default that of the model.
    - `clip`: largest global norm of the gradient, or an optax transformation to apply before the optimizer.
    - `frozen`: filter of leaves that are not trained; no gradient is computed for them. See
      `eqx_dynamics.transform.select`.
    - `nan_policy`: what follows a loss or gradient that is not finite: `RaiseOnNaN()`, `SkipOnNaN()`, `StopOnNaN()`, or
      None to train on without looking.
    - `average`: a `WeightAverage`, or None.
    - `mesh`: devices over which the first axis of each batch is split; see `eqx_dynamics.parallel.DataParallel`.
    - `donate`: let `fit` reuse the buffers of a state for the next one. The state that you hand to `fit` is copied
      first; one that a callback wants to keep beyond its call, it must copy.

    **Returns:** a `TrainStep`: `state = step.init(model, key=key)`, `metrics, state = step(batch, state)`.

    **Raises:** `TypeError` if `loss_fn` takes other arguments; `ValueError` if `accumulate` or `clip` is not positive;
    at the first step, before compute, if a batch has several leading sizes.
    """
    _check_arguments(loss_fn)
    if accumulate < 1:
        raise ValueError(f"`accumulate` must be at least 1; got {accumulate}.")
    if isinstance(clip, float | int):
        if not clip > 0:
            raise ValueError(f"`clip` must be positive; got {clip}.")
        clip = optax.clip_by_global_norm(clip)
    update = _as_optax(optimizer) if clip is None else optax.chain(_as_optax(clip), _as_optax(optimizer))
    placement = DataParallel(mesh) if isinstance(mesh, Mesh) else mesh
    return TrainStep(
        Objective(loss_fn, Precision() if precision is None else precision, accumulate),
        optax.with_extra_args_support(update),
        frozen,
        nan_policy,
        average,
        placement,
        donate,
    )


def _check_arguments(loss_fn: Callable) -> None:
    """Raise unless `loss_fn` can be called with three arguments, or with four."""
    try:
        signature = inspect.signature(loss_fn)
    except (TypeError, ValueError):  # a function that does not tell
        return
    for number in (3, 4):
        with contextlib.suppress(TypeError):
            signature.bind(*[None] * number)
            return
    raise TypeError(
        "`loss_fn` must take `(model, batch, key)`, and `statistics` behind them where the state has some; got a "
        f"function of {signature}."
    )


def _as_optax(optimizer: Any) -> optax.GradientTransformation:
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    return optax.GradientTransformation(optimizer.init, optimizer.update)


def _is_trained(leaf: Any) -> bool:
    """Floating arrays; a number is fixed, also one that NumPy computed, which Equinox takes for an array."""
    return eqx.is_inexact_array(leaf) and not isinstance(leaf, np.generic)


def _as_array(leaf: Any) -> Any:
    """NumPy arrays as JAX arrays, and no weak types: the state has one type from the first step on."""
    if not isinstance(leaf, jax.Array | np.ndarray) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    return jax.lax.convert_element_type(leaf, leaf.dtype)


def _check_same(name: str, owner: str, expected: PyTree, got: PyTree) -> None:
    remedy = f"It is the state of another {owner}; make it with this step's `init`."
    wanted, found = _shapes(expected), _shapes(got)
    for path in wanted | found:
        if wanted.get(path) != found.get(path):
            raise ValueError(
                f"`state.{name}{path}` must be {wanted.get(path, 'absent')}; got {found.get(path, 'nothing')}. {remedy}"
            )


def _shapes(tree: PyTree) -> dict[str, str]:
    """Dtype and shape of every array, or shape of one, by path."""
    return {
        jtu.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jtu.tree_leaves_with_path(tree)
        if eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)
    }
