"""Whether models trained from several seeds found the same thing."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np
from jaxtyping import Float
from scipy.spatial import procrustes

from ._alignment import align
from ._arrays import AnyArray, to_float64
from ._matching import match_modes
from ._splits import AbstractSplit, BlockedSplit


class Consistency(eqx.Module):
    """Agreement of every pair of runs; diagonals are one.

    - `correlations`: mean held-out canonical correlation of the latents: blind to any linear map between them.
    - `similarity`: 1 minus the Procrustes disparity: blind to rotation, reflection and one scale only.
    - `timescales`: typical factor between matched timescales (1 is agreement), or None.
    """

    correlations: Float[np.ndarray, "runs runs"]
    similarity: Float[np.ndarray, "runs runs"]
    timescales: Float[np.ndarray, "runs runs"] | None

    def __str__(self) -> str:
        pairs = np.triu_indices(len(self.correlations), 1)

        def say(name: str, table: np.ndarray) -> str:
            values = table[pairs]
            return f"{name} {values.mean():.3f} (from {values.min():.3f} to {values.max():.3f})"

        parts = [say("held-out CCA", self.correlations), say("Procrustes similarity", self.similarity)]
        if self.timescales is not None:
            parts.append(say("factor between timescales", self.timescales))
        return f"{len(pairs[0])} pairs of runs: " + "; ".join(parts)


def consistency(
    latents: Sequence[Float[AnyArray, "time latents"]] | Float[AnyArray, "runs time latents"],
    *,
    timescales: Sequence[Float[AnyArray, " modes"]] | None = None,
    split: AbstractSplit = BlockedSplit(),
) -> Consistency:
    """Compare the latents that several runs inferred from one recording, pair by pair.

    **Arguments:** `timescales`: of each run, matched one to one, those of the run with fewer; only finite ones count.

    **Raises:** `ValueError` for fewer than two runs, latents whose shapes differ, or a run of which nothing changes.
    """
    runs = [to_float64(run, "latents") for run in latents]
    if len(runs) < 2:
        raise ValueError(f"`latents` must come from at least two runs; got {len(runs)}.")
    if len({run.shape for run in runs}) > 1:
        raise ValueError(f"`latents` must have one shape; got {[run.shape for run in runs]}.")
    if timescales is not None and len(timescales) != len(runs):
        raise ValueError(f"`timescales` must have one entry for each of {len(runs)} runs; got {len(timescales)}.")
    varies = [np.ptp(run, axis=0) > 0 for run in runs]
    if not all(varying.any() for varying in varies):
        raise ValueError("`latents` of a run never change: it has collapsed.")
    if timescales is not None and not all(len(_finite(values)) for values in timescales):
        raise ValueError("`timescales` must hold at least one finite value for every run.")
    shape = (len(runs), len(runs))
    correlations, similarity, factors = np.ones(shape), np.ones(shape), np.ones(shape)
    for i in range(len(runs)):
        for j in range(i):
            correlations[i, j] = correlations[j, i] = align(runs[i], runs[j][:, varies[j]], split).correlations.mean()
            similarity[i, j] = similarity[j, i] = 1 - procrustes(runs[i], runs[j])[2]
            if timescales is not None:
                fewer, more = sorted((_finite(timescales[i]), _finite(timescales[j])), key=len)
                match = match_modes(fewer, more, null=more[None])
                factors[i, j] = factors[j, i] = match.error
    return Consistency(correlations, similarity, None if timescales is None else factors)


def _finite(timescales: Float[AnyArray, " modes"]) -> Float[np.ndarray, " kept"]:
    values = np.asarray(timescales, np.float64)
    return values[np.isfinite(values)]
