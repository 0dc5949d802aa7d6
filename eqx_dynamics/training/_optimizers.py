"""Optimizers for parts of a model, and learning rates by name."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from jaxtyping import PyTree

from ..transform._select import Filter, choose, leaf_paths, select


ScheduleName: TypeAlias = Literal["constant", "linear", "cosine", "exponential", "inverse_sqrt"]


def optimizer_groups(groups: Mapping[Filter, Any]) -> optax.GradientTransformationExtraArgs:
    """One optimizer for each group of leaves.

        optimizer_groups({"encoder": optax.adam(1e-4), "**.bias": optax.sgd(1e-2), ...: optax.adamw(1e-3)})

    **Arguments:**

    - `groups`: filter (see `eqx_dynamics.transform.select`) to optax transformation. The filter `...` means the leaves
      that no other group claims. `optax.set_to_zero()` freezes a group; `make_step(..., frozen=)` also saves its
      gradient.

    **Returns:** an optax transformation whose state is a tuple, one entry per group, in order.

    **Raises:** `ValueError` from `init` if a filter chooses no trained leaf, two groups claim one leaf, or a leaf
    belongs to none.
    """
    filters = tuple(groups)
    if not filters:
        raise ValueError("`groups` must hold at least one filter with its optimizer; got none.")
    transforms = tuple(optax.with_extra_args_support(transform) for transform in groups.values())

    def init(params: PyTree) -> tuple[Any, ...]:
        masks = _claims(params, filters)
        return tuple(t.init(eqx.filter(params, mask)) for t, mask in zip(transforms, masks, strict=True))

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> tuple[PyTree, tuple[Any, ...]]:
        parts, states = [], []
        for transform, group_state, mask in zip(transforms, state, _claims(updates, filters), strict=True):
            group_params = None if params is None else eqx.filter(params, mask)
            group_extra = _extra_of_group(extra, params, mask)
            part, new = transform.update(eqx.filter(updates, mask), group_state, group_params, **group_extra)
            parts.append(part)
            states.append(new)
        return eqx.combine(*parts), tuple(states)

    return optax.GradientTransformationExtraArgs(init, update)


def _extra_of_group(extra: dict[str, Any], params: PyTree, mask: PyTree[bool]) -> dict[str, Any]:
    """What line searches ask for, as a function of the leaves of a group."""
    mine = dict(extra)
    if "grad" in extra:
        mine["grad"] = eqx.filter(extra["grad"], mask)
    if "value_fn" in extra:
        others = eqx.filter(params, mask, inverse=True)
        mine["value_fn"] = lambda part: extra["value_fn"](eqx.combine(part, others))
    return mine


def leaf_mask(which: Filter) -> Callable[[PyTree], PyTree[bool]]:
    """A filter as the `mask` of an optax transformation: `optax.adamw(1e-3, mask=leaf_mask("**.weight"))`.

    **Arguments:** `which`: see `eqx_dynamics.transform.select`.

    **Returns:** a function from parameters to bools.
    """
    return lambda params: select(params, which)


def make_schedule(
    decay: ScheduleName | Callable[[Any], Any],
    peak: float | int = 1.0,
    *,
    steps: int | None = None,
    warmup: int = 0,
    end: float | int = 0.0,
) -> Callable[[Any], Any]:
    r"""A learning rate that rises linearly from 0 to `peak` in `warmup` steps, then decays.

    With $t \in [0, 1]$ the fraction of the remaining `steps - warmup` steps: `"constant"` $p$; `"linear"`
    $p + (e - p) t$; `"cosine"` $e + (p - e)(1 + \cos \pi t) / 2$; `"exponential"` $p (e / p)^t$; `"inverse_sqrt"`
    $p \sqrt{w / n}$ at step $n$ with $w = \max(\text{warmup}, 1)$.

    **Arguments:**

    - `decay`: a name, or any optax schedule, which then starts after the warm-up.
    - `peak`: the largest rate, $p$; ignored for a schedule object but for the warm-up, which rises to its first value.
    - `steps`: length of the whole run; needed by `"linear"`, `"cosine"` and `"exponential"`.
    - `warmup`: steps of linear rise, 0 for none.
    - `end`: the rate at the end, $e$; positive for `"exponential"`.

    **Returns:** an optax schedule, step to rate: hand it to an optimizer as its learning rate.

    **Raises:** `ValueError` for missing or unusable numbers.

    ??? cite "Reference"
        Loshchilov and Hutter, SGDR, ICLR 2017, eq. 5 (cosine); Vaswani et al., NeurIPS 2017, eq. 3 (inverse root).
    """
    if warmup < 0 or (steps is not None and steps <= warmup):
        raise ValueError(f"`warmup` must lie between 0 and `steps`; got warmup={warmup}, steps={steps}.")
    if isinstance(decay, str) and decay in ("linear", "cosine", "exponential") and steps is None:
        raise ValueError(f"`steps` is needed by the {decay!r} schedule: it says when the rate reaches `end`.")
    if not (peak >= 0 and end >= 0):
        raise ValueError(f"`peak` and `end` must not be negative: they are rates; got {peak} and {end}.")
    if decay == "exponential" and not (end > 0 and peak > 0):
        raise ValueError(f"`end` and `peak` must be positive for an exponential decay; got {end} and {peak}.")
    rest = 1 if steps is None else steps - warmup
    match decay:
        case "constant":
            after = optax.constant_schedule(peak)
        case "linear":
            after = optax.linear_schedule(peak, end, rest)
        case "cosine":
            from_one_to_zero = optax.cosine_decay_schedule(1.0, rest)
            after = lambda step: end + (peak - end) * from_one_to_zero(step)  # noqa: E731
        case "exponential":
            after = optax.exponential_decay(peak, rest, end / peak, end_value=end)
        case "inverse_sqrt":
            first = max(warmup, 1)
            after = lambda step: peak * jnp.sqrt(first / jnp.maximum(step + warmup, first))  # noqa: E731
        case str():
            raise ValueError(f"`decay` must be a schedule or one of {ScheduleName.__args__}; got {decay!r}.")
        case _:
            after = decay
            peak = float(after(0))
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def _claims(params: PyTree, filters: tuple[Filter, ...]) -> list[PyTree[bool]]:
    """For each filter the leaves of its group; every leaf belongs to exactly one."""
    leaves, treedef = jtu.tree_flatten(params)
    owners: list[int | None] = [None] * len(leaves)
    paths = leaf_paths(params)
    for n, which in enumerate(filters):
        if which is ...:
            continue
        for position in jtu.tree_leaves(choose(params, which, name="groups").template):
            other = owners[position]
            if other is not None:
                raise ValueError(
                    f"`groups` must not claim a leaf twice; `{paths[position]}` belongs to {filters[other]!r} and to "
                    f"{which!r}."
                )
            owners[position] = n
    if ... in filters:
        owners = [filters.index(...) if owner is None else owner for owner in owners]
    unclaimed = [path for path, owner in zip(paths, owners, strict=True) if owner is None]
    if unclaimed:
        raise ValueError(
            f"`groups` must claim every trained leaf; {', '.join(f'`{path}`' for path in unclaimed[:4])} "
            f"({len(unclaimed)} in all) belong to none. Add a group for the filter `...`, all others."
        )
    if ... in filters and filters.index(...) not in owners:
        raise ValueError(
            "`groups` has an optimizer for `...`, the leaves that no other group claims, but none is left."
        )
    return [jtu.tree_unflatten(treedef, [owner == n for owner in owners]) for n in range(len(filters))]
