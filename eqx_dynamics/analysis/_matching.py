"""Recovered against true timescales and frequencies: one to one, and beside what chance would give."""

from typing import Literal

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray
from scipy.optimize import linear_sum_assignment

from ._arrays import AnyArray


Metric = Literal["ratio", "difference"]


class Matching(eqx.Module):
    """The best one-to-one matching of recovered to true values, and its null distribution.

    - `found`: the partner of every true value, NaN where candidates ran out; `index`: which candidate, or -1.
    - `cost`: mean distance; `null_costs`: mean distances of the null draws, each matched as well as can be.
    - `p_value`: share of null draws that match at least as well, counting the data as one of them.
    """

    true: Float[np.ndarray, "*groups modes"]
    found: Float[np.ndarray, "*groups modes"]
    index: Int[np.ndarray, "*groups modes"]
    cost: float
    null_costs: Float[np.ndarray, " draws"]
    p_value: float
    metric: Metric = eqx.field(static=True)

    @property
    def error(self) -> float:
        """Typical error: a factor (1 is perfect) for `"ratio"`, a difference in the unit of the values otherwise."""
        return self._say(self.cost)

    @property
    def null_error(self) -> float:
        """The same for the median of the null draws."""
        return self._say(float(np.median(self.null_costs)))

    def _say(self, cost: float) -> float:
        return float(np.exp(cost)) if self.metric == "ratio" else cost

    def __str__(self) -> str:
        kind = "off by a factor of" if self.metric == "ratio" else "off by"
        return (
            f"{self.true.size} true values {kind} {self.error:.3g} on average; "
            f"chance {self.null_error:.3g} (median of {len(self.null_costs)} draws), p = {self.p_value:.3g}"
        )


def match_modes(
    true: Float[AnyArray, "*groups modes"],
    found: Float[AnyArray, "*groups candidates"],
    *,
    metric: Metric = "ratio",
    null: Float[AnyArray, "draws *groups candidates"] | None = None,
    null_range: tuple[float, float] | None = None,
    num_draws: int = 1000,
    key: PRNGKeyArray | None = None,
) -> Matching:
    r"""Match candidates to true values, no candidate twice, with the least total distance (Hungarian algorithm).

    The distance is $|\ln(a / b)|$ for `"ratio"` (timescales) and $|a - b|$ for `"difference"` (frequencies). Taking the
    nearest of many candidates, as the published analysis does, "recovers" anything: hence the one-to-one matching and
    the null distribution, which has as many candidates as were found.

    **Arguments:**

    - `true`, `found`: one row per group (a regime, say) or a single row; NaN candidates (zero modes) are left out. An
      infinite candidate counts as 100 times the longest true value.
    - `null`: candidates of null draws, for instance of the same analysis with regimes shifted in time. Without it,
      `num_draws` sets of candidates are drawn from `null_range` (log-uniformly for `"ratio"`), with `key`.
    - `null_range`: by default the range of all true values and finite candidates together.

    Where candidates run out, a true value costs as much as the whole range of true values, for `"ratio"` at least a
    factor of 10.

    **Raises:** `ValueError` for true values that are not finite (and positive, for `"ratio"`), no candidates at all, or
    neither `null` nor `key`.
    """
    truth, candidates = np.asarray(true, np.float64), np.asarray(found, np.float64)
    if truth.size == 0 or not np.all(np.isfinite(truth)) or (metric == "ratio" and not np.all(truth > 0)):
        raise ValueError("`true` must be finite, and positive for ratios, and not empty.")
    if np.all(np.isnan(candidates)):
        raise ValueError("`found` must hold at least one candidate; got zero modes only.")
    if metric == "ratio" and np.any(candidates <= 0):
        raise ValueError("`found` must be positive to be compared by ratio.")
    if null is None:
        if key is None:
            raise ValueError("`match_modes` needs a `key` to draw its null distribution, or the draws as `null`.")
        null_candidates = _draw_null(truth, candidates, metric, null_range, num_draws, key)
    else:
        null_candidates = np.asarray(null, np.float64)
    index, cost = _match(truth, candidates, metric)
    null_costs = np.array([_match(truth, draw, metric)[1] for draw in null_candidates])
    padded = np.concatenate([candidates, np.full((*candidates.shape[:-1], 1), np.nan)], axis=-1)
    partners = np.take_along_axis(padded, index, axis=-1)  # index -1 is the NaN at the end
    p_value = (1 + np.sum(null_costs <= cost)) / (1 + len(null_costs))
    return Matching(truth, partners, index, cost, null_costs, float(p_value), metric)


def _draw_null(
    truth: np.ndarray,
    candidates: np.ndarray,
    metric: Metric,
    null_range: tuple[float, float] | None,
    num_draws: int,
    key: PRNGKeyArray,
) -> np.ndarray:
    values = np.concatenate([truth.ravel(), candidates[np.isfinite(candidates)]])
    low, high = (values.min(), values.max()) if null_range is None else null_range
    if not low < high or (metric == "ratio" and low <= 0):
        raise ValueError(f"`null_range` must be an interval, and positive for ratios; got ({low}, {high}).")
    uniform = np.asarray(jr.uniform(key, (num_draws, *candidates.shape)), np.float64)
    draws = low * (high / low) ** uniform if metric == "ratio" else low + (high - low) * uniform
    return np.where(np.isnan(candidates), np.nan, draws)  # as many candidates as were found


def _match(truth: np.ndarray, candidates: np.ndarray, metric: Metric) -> tuple[np.ndarray, float]:
    """Index of every true value's candidate (-1 for none), and the mean distance over all groups."""
    ratio = metric == "ratio"
    scale = np.log if ratio else np.asarray
    span = np.ptp(scale(truth))
    absent = max(span, np.log(10.0)) if ratio else (span or np.abs(truth).max())
    rows = truth.reshape(-1, truth.shape[-1])
    options = np.minimum(candidates, 100 * np.abs(truth).max()).reshape(len(rows), -1)
    index, costs = np.full(rows.shape, -1), np.full(rows.shape, absent)
    for n, (row, option) in enumerate(zip(rows, options, strict=True)):
        kept = np.flatnonzero(~np.isnan(option))
        distance = np.abs(scale(row)[:, None] - scale(option[kept])[None])
        padding = np.full((len(row), max(0, len(row) - len(kept))), absent)
        chosen, columns = linear_sum_assignment(np.concatenate([distance, padding], axis=1))
        real = columns < len(kept)
        index[n, chosen[real]] = kept[columns[real]]
        costs[n, chosen[real]] = distance[chosen[real], columns[real]]
    return index.reshape(truth.shape), float(costs.mean())
