"""Recordings of your own: NPZ and HDF5 files of arrays."""

import os
import pathlib
import zipfile

import numpy as np

from .._extras import need
from ._recording import Recording


def read_arrays(
    path: str | os.PathLike[str],
    *,
    observations: str = "observations",
    labels: str | None = None,
    lengths: str | None = None,
    label_names: tuple[str, ...] = (),
    time_step: float = 1.0,
) -> Recording:
    """A recording from the arrays of one `.npz`, `.h5` or `.hdf5` file (HDF5 needs the extra `hdf5`).

    **Arguments:**

    - `observations`: name of the array, `(trials, time, channels)` or `(time, channels)`; NaN where missing.
    - `labels`: name of an integer array, `(trials,)` or `(trials, time)`; `lengths`: of one, `(trials,)`, if trials are
      padded. HDF5 names may be paths, `"session/observations"`.
    - `label_names`, `time_step`: go into the `Recording`.

    **Raises:** `ValueError` naming the file for an unknown suffix, a broken file, a missing array (with those there
    are), labels that are no integers, or shapes that do not fit.
    """
    path = pathlib.Path(path)
    names = [name for name in (observations, labels, lengths) if name is not None]
    try:
        arrays = _read(path, names)
    except FileNotFoundError:
        raise
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"`{path.name}` cannot be read as {path.suffix}: {error}") from error
    values = arrays[observations]
    if values.ndim not in (2, 3) or not np.issubdtype(values.dtype, np.number):
        raise ValueError(
            f"`{path.name}`: {observations!r} must be numbers of shape (trials, time, channels) or (time, channels); "
            f"got {values.dtype} {values.shape}."
        )
    values = values if values.ndim == 3 else values[None]
    length = np.full(len(values), values.shape[1]) if lengths is None else arrays[lengths]
    if length.shape != (len(values),) or not np.all((length >= 1) & (length <= values.shape[1])):
        raise ValueError(f"`{path.name}`: {lengths!r} must hold {len(values)} lengths from 1 to {values.shape[1]}.")
    of_trials = None
    if labels is not None:
        of_trials = arrays[labels]
        if not np.issubdtype(of_trials.dtype, np.integer):
            raise ValueError(f"`{path.name}`: {labels!r} must be whole numbers from 0; got {of_trials.dtype}.")
        of_trials = of_trials.astype(np.int32)
        of_trials = of_trials if of_trials.ndim == 1 else [row[:n] for row, n in zip(of_trials, length, strict=False)]
    trials = [trial[:n] for trial, n in zip(values, length, strict=True)]
    return Recording.from_trials(trials, of_trials, label_names=label_names, time_step=time_step)


def _read(path: pathlib.Path, names: list[str]) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        if path.exists() and not zipfile.is_zipfile(path):
            raise ValueError(f"`{path.name}` is not an .npz file.")
        with np.load(path, allow_pickle=False) as file:
            return _pick(path, names, file, file.files)
    if path.suffix in (".h5", ".hdf5"):
        with need("h5py", extra="hdf5", user="read_arrays").File(path, "r") as file:
            there: list[str] = []
            file.visit(there.append)
            return _pick(path, names, file, there)
    raise ValueError(f"`path` must end in .npz, .h5 or .hdf5; got {path.name!r}.")


def _pick(path: pathlib.Path, names: list[str], file, there: list[str]) -> dict[str, np.ndarray]:
    for name in names:
        if name not in there:
            raise ValueError(f"`{path.name}` has no array {name!r}; it has {sorted(there)}.")
    return {name: np.asarray(file[name]) for name in names}
