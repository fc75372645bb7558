"""Batches whose order depends on the seed alone: a run can begin at any step."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dilated_lib.data.labelled import Sample

__all__ = ["batches"]

Batch = tuple[list[int], list[Sample]]


def batches(
    data: Dataset[Sample],
    size: int,
    *,
    seed: int,
    steps: range,
    part: int = 0,
    parts: int = 1,
    workers: int = 0,
) -> DataLoader[tuple[int, Sample]]:
    """Return a loader of batches: indices and samples, one batch for each step.

    The data set is shuffled anew, by the seed, whenever it has been gone through. The
    order depends on the seed and the step alone, so a run that was killed can go on
    with the batches that it would have had.

    Args:
        data: The samples.
        size: Samples in a batch, over all processes together.
        seed: The seed of the order.
        steps: The steps whose batches are wanted.
        part: The number of this process, from 0.
        parts: The number of processes; each gets its own part of every batch.
        workers: Processes that read samples ahead.

    >>> from dilated_lib.data.scenes import ShapeScenes
    >>> loader = batches(ShapeScenes(4), 2, seed=0, steps=range(2))
    >>> sorted(index for indices, samples in loader for index in indices)
    [0, 1, 2, 3]
    """
    return DataLoader(
        _Indexed(data),
        batch_sampler=_Order(len(data), size, seed, steps, part, parts),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_apart,
        persistent_workers=workers > 0,
    )


class _Indexed(Dataset[tuple[int, Sample]]):
    def __init__(self, data: Dataset[Sample]) -> None:
        self.data = data

    def __getitem__(self, index: int) -> tuple[int, Sample]:
        return index, self.data[index]


class _Order(Sampler[list[int]]):
    def __init__(
        self, count: int, size: int, seed: int, steps: range, part: int, parts: int
    ) -> None:
        self.count, self.size, self.seed, self.steps = count, size, seed, steps
        self.share = range(part * size // parts, (part + 1) * size // parts)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0)
        for step in self.steps:
            indices = []
            for place in self.share:
                turn, position = divmod(step * self.size + place, self.count)
                if turn != epoch:
                    draw = torch.Generator().manual_seed(1_000_003 * self.seed + turn)
                    epoch, order = turn, torch.randperm(self.count, generator=draw)
                indices.append(int(order[position]))
            yield indices


def _apart(pairs: list[tuple[int, Sample]]) -> Batch:
    """Keep the samples of a batch in a list, since they may differ in size."""
    return [index for index, _ in pairs], [sample for _, sample in pairs]
