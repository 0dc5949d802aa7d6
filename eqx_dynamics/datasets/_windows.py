"""Windows over recordings."""

import numpy as np
from jaxtyping import Shaped


def stack_windows(
    recording: Shaped[np.ndarray, "*trials time features"], length: int, *, stride: int | None = None
) -> Shaped[np.ndarray, "windows length features"]:
    """Windows of equal length, one every `stride` steps; of every trial, never across two.

    **Arguments:** `length`: time steps per window; `stride`: time steps between starts, default `length` (no overlap).

    **Returns:** `1 + (time - length) // stride` windows per trial; the last exact one is kept.

    **Raises:** `ValueError` if the window is longer than the recording or the stride is not positive.
    """
    stride = length if stride is None else stride
    if recording.ndim not in (2, 3):
        raise ValueError(
            f"`recording` must have shape (time, features) or (trials, time, features); got {recording.shape}."
        )
    time = recording.shape[-2]
    if not 1 <= length <= time:
        raise ValueError(
            f"`length` must be between 1 and the recording's {time} time steps; got {length}. Use shorter windows."
        )
    if stride < 1:
        raise ValueError(f"`stride` must be at least 1; got {stride}.")
    starts = np.arange(0, time - length + 1, stride)
    index = starts[:, None] + np.arange(length)[None]
    return np.asarray(recording)[..., index, :].reshape(-1, length, recording.shape[-1])


def delay_embed(
    recording: Shaped[np.ndarray, "*trials time features"], lags: int
) -> Shaped[np.ndarray, "*trials later wide"]:
    """Every time step beside the `lags - 1` before it, oldest first: `lags` times the features, `lags - 1` steps fewer.

    **Raises:** `ValueError` unless `lags` lies between 1 and the number of time steps.
    """
    time = recording.shape[-2]
    if not 1 <= lags <= time:
        raise ValueError(f"`lags` must be between 1 and the recording's {time} time steps; got {lags}.")
    return np.concatenate([recording[..., n : time - lags + 1 + n, :] for n in range(lags)], axis=-1)
