"""Grain's DataLoader: a source, a sampler, transformations; executed, with today's names.

In the notes `grain.IndexSampler` and `grain.ShardOptions` are old names (now `grain.samplers.*` and
`grain.sharding.*`), and the flat-map example stands under Filter; a `FlatMapTransform` also needs `max_fan_out`. Build
new pipelines on the Dataset API (next script): a DataLoader gives a different stream for every number of workers.
"""

from typing import Any

import grain
import numpy as np


class Words:
    """A custom source: picklable, with random access, and a repr that does not change between runs."""

    texts = ("jax on", "cells", "graphs on edges", "spikes", "one step on")

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str:
        return self.texts[index]

    def __repr__(self) -> str:
        return "Words()"


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
