"""Grain's Dataset API: chained transformations that keep random access.

The notes' example misses `.source` and a parenthesis. Their rule on filters is right and is asserted here: filtered
data have no length, so batch after `to_iter_dataset()`.
"""

import grain
import numpy as np


def main() -> None:
    dataset = grain.MapDataset.source(list(range(8))).shuffle(seed=42).map(lambda x: x * 10).batch(batch_size=2)
    batches = [b.tolist() for b in dataset]
    assert sorted(np.concatenate(batches)) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert np.asarray(dataset[2]).tolist() == batches[2]  # random access after every transformation: debug one element
    assert len(dataset) == 4

    even = grain.MapDataset.range(10).filter(lambda x: x % 2 == 0)
    assert [even[i] for i in range(4)] == [0, None, 2, None]  # a filtered element is a hole
    try:
        list(even.batch(2))
        raise AssertionError("holes cannot be batched by position")
    except ValueError:
        grouped = [b.tolist() for b in even.to_iter_dataset().batch(2)]
    assert grouped == [[0, 2], [4, 6], [8]]

    # Every epoch of `repeat` is shuffled anew; slices shard; datasets mix in proportion.
    stream = grain.MapDataset.range(6).seed(0).shuffle().repeat(2)
    first, second = list(stream)[:6], list(stream)[6:]
    assert sorted(first) == sorted(second) and first != second
    assert list(grain.MapDataset.range(10)[1::2]) == [1, 3, 5, 7, 9]
    mixed = grain.MapDataset.mix([grain.MapDataset.range(6), grain.MapDataset.range(100, 106)], weights=[2, 1])
    assert np.sum(np.asarray(list(mixed)[:6]) < 100) == 4
    print(f"batches {batches}; even numbers in pairs {grouped}")


if __name__ == "__main__":
    main()
