"""The `.ts` text format of the UEA archive, and two recordings in it that ship with the package."""

import gzip
import importlib.resources
import os
import pathlib
import zlib

import numpy as np

from ._recording import Recording


def read_ts(path: str | os.PathLike[str], *, time_step: float = 1.0) -> Recording:
    """A `.ts` or `.ts.gz` file: one trial a line, channels divided by colons, the class name last.

    Trials may differ in length; `?` and `NaN` are missing values. Labels count the classes as the header lists them.

    **Arguments:** `time_step`: in seconds; the format does not say.

    **Returns:** a `Recording` in float32.

    **Raises:** `ValueError` naming the file and line for time stamps, unknown classes, words that are no numbers, or
    channels that differ in number or length.

    ??? cite "Reference"
        Bagnall et al., The UEA multivariate time series classification archive, 2018, arXiv:1811.00075.
    """
    path = pathlib.Path(path)
    raw = path.read_bytes()
    try:
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"`{path.name}` is no text, or not what its suffix says: {error}") from error
    header, first = _header(lines, path.name)
    if header.get("timestamps", ["false"])[0].lower() == "true":
        raise ValueError(f"`{path.name}` has time stamps, which are not supported: `@timeStamps` must be false.")
    is_labelled, *names = header.get("classlabel", ["false"])
    has_labels = is_labelled.lower() == "true"
    trials, labels = [], []
    for number, line in enumerate(lines[first:], start=first + 1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"`{path.name}`, line {number}"
        channels = line.strip().split(":")
        if has_labels:
            label = channels.pop().strip()
            if label not in names:
                raise ValueError(f"{where}: class {label!r} is not one of {names}.")
            labels.append(names.index(label))
        try:
            series = [np.array([_number(x) for x in channel.split(",")], np.float32) for channel in channels]
        except ValueError as error:
            raise ValueError(f"{where}: {error}.") from error
        if len({len(channel) for channel in series}) != 1 or (trials and len(series) != trials[0].shape[1]):
            raise ValueError(f"{where}: channels must agree in number and length; got {[len(c) for c in series]}.")
        trials.append(np.stack(series, axis=-1))
    if not trials:
        raise ValueError(f"`{path.name}` holds no trials after `@data`.")
    return Recording.from_trials(
        trials, np.array(labels, np.int32) if has_labels else None, label_names=tuple(names), time_step=time_step
    )


def _header(lines: list[str], name: str) -> tuple[dict[str, list[str]], int]:
    """Words after every `@key`, and the line where the data begin."""
    header = {}
    for number, line in enumerate(lines):
        if line.strip().lower() == "@data":
            return header, number + 1
        if line.startswith("@"):
            key, *words = line[1:].split()
            header[key.lower()] = words
    raise ValueError(f"`{name}` has no line `@data`: not a .ts file.")


def _number(word: str) -> float:
    return float("nan") if word.strip() == "?" else float(word)


def basic_motions() -> tuple[Recording, Recording]:
    """Four students standing, running, walking and playing badminton: 40 + 40 trials of 100 steps of 0.1 s.

    Channels are a smart watch's 3-D accelerometer and 3-D gyroscope.

    **Returns:** training and test trials; labels 0 to 3.

    ??? cite "Reference"
        Bagnall et al., arXiv:1811.00075, 2018. Source of the files: `BasicMotions/SOURCE.md`.
    """
    return _shipped("BasicMotions", time_step=0.1)


def japanese_vowels() -> tuple[Recording, Recording]:
    """Nine speakers saying /ae/: 270 + 370 trials of 7 to 29 steps of 6.4 ms, 12 LPC cepstrum coefficients.

    **Returns:** training and test trials, both padded to 29 steps; labels 0 to 8 are the speakers 1 to 9.

    ??? cite "Reference"
        Kudo, Toyama, Shimbo, Pattern Recognition Letters 20, 1999. Source of the files: `JapaneseVowels/SOURCE.md`.
    """
    return _shipped("JapaneseVowels", time_step=0.0064)


def _shipped(name: str, *, time_step: float) -> tuple[Recording, Recording]:
    with importlib.resources.as_file(importlib.resources.files("eqx_dynamics.datasets") / name) as folder:
        train, test = (read_ts(folder / f"{name}_{part}.ts.gz", time_step=time_step) for part in ("TRAIN", "TEST"))
    longest = max(train.mask.shape[1], test.mask.shape[1])
    return train.pad(longest), test.pad(longest)
