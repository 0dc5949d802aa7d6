"""Two interacting mice: the CalMS21 files of pose and behaviour."""

import os
import pathlib
import pickle
from typing import Any, BinaryIO

import numpy as np

from ._recording import Recording


def calms21(path: str | os.PathLike[str]) -> Recording:
    """The sequences of a CalMS21 `.npy` file: 28 coordinates, 30 frames a second, with behaviour labels.

    Channels are ordered mouse (resident, intruder), coordinate (x, y), key point (nose, ears, neck, hips, tail base),
    in pixels. Each video sequence is one trial with its own annotations; short ones are kept with theirs. (Upstream
    drops the poses of short sequences but not their labels, so all later labels are shifted.)

    Download the file from the Caltech release and convert it with the script that comes with it; sequences without
    annotations (the unlabelled part) give a recording without labels.

    **Raises:** `ValueError` if the file is not laid out like this, or holds objects other than arrays, numbers,
    strings, lists and dictionaries: a pickle could otherwise run any code.

    ??? cite "Reference"
        Sun et al., The multi-agent behavior dataset: mouse dyadic social interactions, NeurIPS datasets track, 2021.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        content = _load_object(file, path.name)
    groups = content.values() if isinstance(content, dict) else ()
    sequences = [s for group in groups if isinstance(group, dict) for s in group.values()]
    if not sequences or not all(isinstance(s, dict) and np.ndim(s.get("keypoints", 0)) == 4 for s in sequences):
        raise ValueError(f"`{path.name}` must map annotators to sequences with `keypoints` of four axes: not CalMS21.")
    trials = []
    for number, sequence in enumerate(sequences):
        keypoints = np.asarray(sequence["keypoints"])
        if keypoints.shape[1:] != (2, 2, 7):
            raise ValueError(
                f"`{path.name}`, sequence {number}: keypoints must be (frames, 2, 2, 7); got {keypoints.shape}."
            )
        trials.append(keypoints.reshape(len(keypoints), 28).astype(np.float32))
    labels, names = None, ()
    if all("annotations" in s for s in sequences):
        labels = [np.asarray(s["annotations"], np.int32) for s in sequences]
        vocabulary = sequences[0].get("metadata", {}).get("vocab", {})
        names = tuple(sorted(vocabulary, key=vocabulary.__getitem__))
    return Recording.from_trials(trials, labels, label_names=names, time_step=1 / 30)


def _load_object(file: BinaryIO, name: str) -> Any:
    """The dictionary that `np.save` wrapped in an array of one object, read without running its code."""
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0}.get(version, np.lib.format.read_array_header_2_0)
        shape, _, dtype = read_header(file)
    except ValueError as error:
        raise ValueError(f"`{name}` is not an .npy file.") from error
    if shape != () or dtype != np.dtype(object):
        raise ValueError(f"`{name}` must hold one dictionary; got an array of {dtype} of shape {shape}.")
    return np.asarray(_Unpickler(file).load(), object).item()


class _Unpickler(pickle.Unpickler):
    """Builds NumPy arrays and numbers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer"}
        if module.partition(".")[0] == "numpy" and name in known:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise ValueError(f"The file asks for {module}.{name}: not a CalMS21 file.")
