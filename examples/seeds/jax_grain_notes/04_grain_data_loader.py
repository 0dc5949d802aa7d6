"""Grain's DataLoader: a source, a sampler, transformations; executed, with today's names.

In the notes `grain.IndexSampler` and `grain.ShardOptions` are old names (now `grain.samplers.*` and
`grain.sharding.*`), `ArrayRecord` is `grain.sources.ArrayRecordDataSource`, and Parquet is an iterable data set
(`grain.experimental.ParquetIterDataset`, needs pyarrow), no source. The flat-map example stands under Filter; a
`FlatMapTransform` also needs `max_fan_out`. Build new pipelines on the Dataset API (next script): a DataLoader gives a
different stream for every number of workers.
"""

import os
import pickle
import tempfile
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter


class Words:
    """A custom source: picklable, with random access, and a repr that does not change between runs."""

    texts = ("jax on", "cells", "graphs on edges", "spikes", "one step on")

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str:
        return self.texts[index]

    def __repr__(self) -> str:
        return "Words()"


class Lines:
    """A custom source on a file: its handle is not pickled (each worker opens its own), and `with` closes it."""

    def __init__(self, path: str):
        self.path, self.file = path, None

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> str:
        self.file = self.file or open(self.path)  # noqa: SIM115  (closed by `__exit__`)
        self.file.seek(0)
        return self.file.read().split("\n")[index]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "file": None}

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def read_sources(folder: str) -> None:
    """A file of one's own, and an ArrayRecord."""
    path = os.path.join(folder, "lines.txt")
    with open(path, "w") as file:
        file.write("one\ntwo\nthree")
    with Lines(path) as lines:
        assert lines[2] == "three"
        copy = pickle.loads(pickle.dumps(lines))  # what happens on the way to a worker
        with copy:
            assert copy.file is None and copy[0] == "one"
    assert lines.file is copy.file is None

    path = os.path.join(folder, "data.arrayrecord")
    writer = ArrayRecordWriter(path, "group_size:1")
    for number in range(3):
        writer.write(bytes([number]))
    writer.close()
    records: Any = grain.sources.ArrayRecordDataSource(path)
    assert [records[n] for n in range(len(records))] == [b"\0", b"\1", b"\2"]


class Split(grain.experimental.FlatMapTransform):
    """One element to several."""

    max_fan_out = 4

    def flat_map(self, element: str) -> Any:
        yield from element.split()


class IsShort(grain.transforms.Filter):
    """Keeps or drops an element."""

    def filter(self, element: str) -> bool:
        return len(element) <= 3


class Length(grain.transforms.Map):
    """One element to one element."""

    def map(self, element: str) -> Any:
        return len(element)


def make_loader(operations: list[Any], num_epochs: int) -> grain.DataLoader:
    sampler = grain.samplers.IndexSampler(
        num_records=len(Words()),
        num_epochs=num_epochs,
        shard_options=grain.sharding.ShardOptions(shard_index=0, shard_count=1, drop_remainder=True),
        shuffle=True,
        seed=42,
    )
    return grain.DataLoader(data_source=Words(), sampler=sampler, operations=operations, worker_count=0)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        read_sources(folder)
    whole = list(make_loader([], num_epochs=2))
    assert sorted(whole[:5]) == sorted(whole[5:]) == sorted(Words.texts)  # every record once an epoch
    assert whole == list(make_loader([], num_epochs=2))  # deterministic

    short = list(make_loader([Split(), IsShort()], num_epochs=1))
    assert sorted(short) == ["jax", "on", "on", "on", "one"]
    batches = list(make_loader([Length(), grain.transforms.Batch(2, drop_remainder=True)], num_epochs=1))
    assert [b.shape for b in batches] == [(2,), (2,)] and all(isinstance(b, np.ndarray) for b in batches)
    print(f"two epochs of {len(Words())} records; {len(short)} short words; batches {[b.tolist() for b in batches]}")


if __name__ == "__main__":
    main()
