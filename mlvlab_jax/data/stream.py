"""Batches. Training batch t is a function of (seed, t) alone; evaluation meets every example exactly once.

Shuffling permutes indices and comes before sharding, so the order does not depend on the number of processes or threads,
and going on at step t needs no saved iterator.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator

import grain
import numpy as np

from mlvlab_jax.data.source import ArraySource, Source
from mlvlab_jax.types import HostBatch


@dataclasses.dataclass(frozen=True)
class Split:
    """The examples `ids`, int64 (n), of a source, in this order."""

    source: Source
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True)
class Shard:
    """This process's place among the processes that read one batch together."""

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> slice:
        """The part of a global batch this process reads."""
        size = batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)


def permute(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Order of the examples in one epoch: int64 (n), a function of its arguments alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_examples)


class _TrainBatches:
    """Random access to training batches: element t is the whole batch, which Grain then prefetches.

    The stream runs on across epochs, so every example is seen equally often and no batch is short.
    """

    def __init__(self, split: Split, *, batch_size: int, num_steps: int, seed: int, shard: Shard) -> None:
        self._split = split
        self._batch_size = batch_size
        self._num_steps = num_steps
        self._shard = shard
        self._order = functools.lru_cache(maxsize=2)(functools.partial(permute, len(split), seed=seed))

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, step: int) -> HostBatch:
        """The batch that makes update number `step` + 1."""
        first = step * self._batch_size
        positions = np.arange(first, first + self._batch_size)[self._shard.rows(self._batch_size)]
        epochs, offsets = np.divmod(positions, len(self._split))
        ids = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            ids[chosen] = self._split.ids[self._order(epoch=int(epoch))[offsets[chosen]]]
        image, label = self._split.source.fetch(ids)
        mask = np.ones(len(ids), np.float32)
        return HostBatch(
            image=image, label=label, example_id=ids.astype(np.int32), epoch=epochs.astype(np.int32), mask=mask
        )


class _EvalBatches:
    """Random access to evaluation batches in natural order; the last is padded with masked copies of an example."""

    def __init__(self, split: Split, *, batch_size: int, shard: Shard) -> None:
        self._split = split
        self._batch_size = batch_size
        self._shard = shard

    def __len__(self) -> int:
        return math.ceil(len(self._split) / self._batch_size)

    def __getitem__(self, index: int) -> HostBatch:
        """Batch number `index`."""
        positions = np.arange(index * self._batch_size, (index + 1) * self._batch_size)
        positions = positions[self._shard.rows(self._batch_size)]
        real = positions < len(self._split)
        ids = self._split.ids[np.where(real, positions, 0)]
        image, label = self._split.source.fetch(ids)
        mask = real.astype(np.float32)
        epoch = np.zeros(len(ids), np.int32)
        return HostBatch(image=image, label=label, example_id=ids.astype(np.int32), epoch=epoch, mask=mask)


def train_stream(
    split: Split,
    *,
    batch_size: int,
    num_steps: int,
    seed: int,
    first_step: int = 0,
    shard: Shard = Shard(),  # noqa: B008 - frozen
    num_threads: int = 2,
    prefetch_batches: int = 4,
) -> Iterator[HostBatch]:
    """Batches of updates `first_step` + 1 to `num_steps`; from disk they are read ahead in threads.

    Args:
        split: What to read.
        batch_size: Examples in a global batch; a multiple of `shard.count`.
        num_steps: Updates in the whole run.
        seed: Decides the order together with the step.
        first_step: Updates already made.
        shard: The rows of each batch this process reads.
        num_threads: Threads that read and decode.
        prefetch_batches: Batches kept ready.
    """
    batches = _TrainBatches(split, batch_size=batch_size, num_steps=num_steps, seed=seed, shard=shard)
    rest = grain.MapDataset.source(batches).slice(slice(first_step, num_steps))
    return _read_ahead(rest, split, num_threads, prefetch_batches)


def eval_stream(
    split: Split,
    *,
    batch_size: int,
    shard: Shard = Shard(),  # noqa: B008 - frozen
    num_threads: int = 2,
    prefetch_batches: int = 4,
) -> Iterator[HostBatch]:
    """Batches that together hold every example of `split` once; arguments as of `train_stream`."""
    batches = _EvalBatches(split, batch_size=batch_size, shard=shard)
    return _read_ahead(grain.MapDataset.source(batches), split, num_threads, prefetch_batches)


def _read_ahead(
    dataset: grain.MapDataset, split: Split, num_threads: int, prefetch_batches: int
) -> Iterator[HostBatch]:
    """Reads in threads, or, from memory, in the caller's: there a batch costs less than handing it between threads."""
    if isinstance(split.source, ArraySource):
        return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(num_threads, prefetch_batches))
    return iter(dataset.to_iter_dataset(options))
