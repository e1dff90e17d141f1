"""Batches. Training batch t is a function of (seed, t) alone; evaluation meets every example exactly once.

Shuffling permutes indices and comes before sharding, so the order does not depend on the number of processes or
threads, and going on at step t needs no saved iterator. An unreadable example of a training batch is replaced by one
drawn from (seed, epoch, its index); the others stay where they are. In evaluation it is masked.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypedDict

import grain
import numpy as np

from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.order import Split, order_epoch
from mlvlab_jax.data.quarantine import BadExample, refuse_bad
from mlvlab_jax.data.reader_processes import read_by_processes
from mlvlab_jax.errors import DataError
from mlvlab_jax.types import HostBatch

_MAX_REDRAWS = 32


@dataclasses.dataclass(frozen=True)
class Shard:
    """This process's place among the processes that read one batch together."""

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> slice:
        """The part of a global batch this process reads."""
        size = batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)


@dataclasses.dataclass(frozen=True)
class Readers:
    """How batches are read ahead: threads, or processes in their place, and how many batches are kept ready."""

    num_threads: int = 2
    num_processes: int = 0
    prefetch_batches: int = 4

    @classmethod
    def of(cls, pipeline: PipelineConfig) -> "Readers":
        """As configured."""
        return cls(pipeline.num_threads, pipeline.num_processes, pipeline.prefetch_batches)


class _Read(NamedTuple):
    """A batch, and what could not be read on the way to it."""

    batch: HostBatch
    bad: tuple[BadExample, ...]


class Choice(TypedDict):
    """The examples of a batch, without their pixels: `example_id` and `epoch` of a `HostBatch`."""

    example_id: np.ndarray
    epoch: np.ndarray


class _TrainBatches:
    """Random access to training batches: element t is the whole batch, which Grain then prefetches.

    The stream runs on across epochs, so no batch is short.
    """

    def __init__(self, split: Split, *, batch_size: int, num_steps: int, seed: int, shard: Shard) -> None:
        self._split = split
        self._batch_size = batch_size
        self._num_steps = num_steps
        self._seed = seed
        self._shard = shard
        self._orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, step: int) -> _Read:
        """The batch that makes update number `step` + 1."""
        ids, passes = self._order_of(step)
        image, label, bad = self._split.fetch(ids)
        found = [self._describe(ids[at], why) for at, why in bad.items()]
        for at in bad:
            image[at], label[at], ids[at], more = self._redraw(int(passes[at]), int(ids[at]))
            found += more
        weights = self._split.weights
        mask = np.ones(len(ids), np.float32) if weights is None else weights[ids]
        label = look_up(self._split, label)
        batch = HostBatch(image=image, label=label, example_id=ids.astype(np.int32), epoch=passes, mask=mask)
        return _Read(batch, tuple(found))

    def describe(self, step: int) -> str:
        """Element `step` in words."""
        return f"the batch of update {step + 1} ({self._split.list_names(self._order_of(step)[0])})"

    def choose(self, step: int, bad: Mapping[int, str]) -> tuple[Choice, list[BadExample]]:
        """Which examples element `step` holds, and which were replaced, where `bad` says why each unreadable one is."""
        ids, passes = self._order_of(step)
        replaced = [at for at, index in enumerate(ids.tolist()) if index in bad] if bad else []
        found = [self._describe(ids[at], bad[int(ids[at])]) for at in replaced]
        for at in replaced:
            _, _, ids[at], more = self._redraw(int(passes[at]), int(ids[at]))
            found += more
        return Choice(example_id=ids.astype(np.int32), epoch=passes), found

    def _order_of(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Example at each of this process's rows of a batch, and how often it had been seen before."""
        rows = self._shard.rows(self._batch_size)
        position, end = (step * self._batch_size + row for row in (rows.start, rows.stop))
        ids, passes = [], []
        while position < end:
            epoch, offset = divmod(position, self._split.epoch_size)
            order, seen = self._order(epoch)
            part = slice(offset, offset + end - position)
            ids.append(order[part])
            passes.append(seen[part])
            position += len(ids[-1])
        return np.concatenate(ids), np.concatenate(passes)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """`order_epoch`, of which the last two are kept."""
        order = self._orders.get(epoch)
        if order is None:
            order = order_epoch(self._split, seed=self._seed, epoch=epoch)
            self._orders = {**{e: o for e, o in self._orders.items() if abs(e - epoch) == 1}, epoch: order}
        return order

    def _redraw(self, epoch: int, index: int) -> tuple[np.ndarray, int, int, list[BadExample]]:
        """Image, label and index of a readable example in place of `index`, and what was unreadable on the way."""
        draws = np.random.Generator(np.random.Philox(key=[self._seed, 2**62 + index], counter=[epoch, 0, 0, 0]))
        found: list[BadExample] = []
        for _ in range(_MAX_REDRAWS):
            ids = self._split.ids[draws.integers(len(self._split), size=1)]
            image, label, bad = self._split.fetch(ids)
            if not bad:
                return image[0], int(label[0]), int(ids[0]), found
            found.append(self._describe(ids[0], bad[0]))
        listed = "\n".join(f"  {example.name}: {example.reason}" for example in found[:5])
        raise DataError(
            f"split {self._split.name!r}: {_MAX_REDRAWS} examples drawn in place of an unreadable one could not be "
            f"read either, such as\n{listed}\nrepair the files, or run mlvlab validate"
        )

    def _describe(self, index: int, reason: str) -> BadExample:
        return BadExample(self._split.name, int(index), self._split.source.name(int(index)), reason)


class _EvalBatches:
    """Random access to evaluation batches in natural order; the last is padded with masked copies of an example."""

    def __init__(self, split: Split, *, batch_size: int, shard: Shard) -> None:
        self._split = split
        self._batch_size = batch_size
        self._shard = shard

    def __len__(self) -> int:
        return math.ceil(len(self._split) / self._batch_size)

    def __getitem__(self, index: int) -> _Read:
        """Batch number `index`."""
        ids, real = self._place(index)
        image, label, bad = self._split.fetch(ids)
        mask = real.astype(np.float32)
        mask[list(bad)] = 0
        epoch = np.zeros(len(ids), np.int32)
        label = look_up(self._split, label)
        batch = HostBatch(image=image, label=label, example_id=ids.astype(np.int32), epoch=epoch, mask=mask)
        name = self._split.source.name
        return _Read(
            batch, tuple(BadExample(self._split.name, int(ids[at]), name(int(ids[at])), why) for at, why in bad.items())
        )

    def describe(self, index: int) -> str:
        """Batch number `index` in words."""
        ids, real = self._place(index)
        return f"batch {index + 1} of split {self._split.name!r} ({self._split.list_names(ids[real])})"

    def _place(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Examples of this process's rows of a batch, and which of them are no padding."""
        positions = np.arange(index * self._batch_size, (index + 1) * self._batch_size)
        positions = positions[self._shard.rows(self._batch_size)]
        real = positions < len(self._split)
        return self._split.ids[np.where(real, positions, 0)], real


def train_choices(
    split: Split,
    *,
    bad: Mapping[int, str],
    batch_size: int,
    num_steps: int,
    seed: int,
    first_step: int,
    shard: Shard = Shard(),
    on_bad: Callable[[Sequence[BadExample]], None] = refuse_bad,
) -> Iterator[Choice]:
    """Which examples the batches of `train_stream` hold, for those who hold the pixels: by index why one is bad."""
    batches = _TrainBatches(split, batch_size=batch_size, num_steps=num_steps, seed=seed, shard=shard)
    for step in range(first_step, num_steps):
        choice, found = batches.choose(step, bad)
        on_bad(found)
        yield choice


def look_up(split: Split, label: np.ndarray) -> np.ndarray:
    """Labels as the loss sees them: int32 (b), or uint8 (b, k) where an example may have several classes."""
    return label if split.label_sets is None else split.label_sets[label]


def train_stream(
    split: Split,
    *,
    batch_size: int,
    num_steps: int,
    seed: int,
    first_step: int = 0,
    shard: Shard = Shard(),
    readers: Readers = Readers(),
    on_bad: Callable[[Sequence[BadExample]], None] = refuse_bad,
) -> Iterator[HostBatch]:
    """Batches of updates `first_step` + 1 to `num_steps`.

    Args:
        split: What to read.
        batch_size: Examples in a global batch; a multiple of `shard.count`.
        num_steps: Updates in the whole run.
        seed: Decides the order together with the step.
        first_step: Updates already made.
        shard: The rows of each batch this process reads.
        readers: Who reads ahead; no influence on what is read.
        on_bad: Told in the caller's thread what could not be read, before the batch it was met on the way to.

    Raises:
        DataError: Nothing readable is left.
    """
    batches = _TrainBatches(split, batch_size=batch_size, num_steps=num_steps, seed=seed, shard=shard)
    rest = grain.MapDataset.source(batches).slice(slice(first_step, num_steps))
    return _read_ahead(rest, split, readers, on_bad, lambda index: batches.describe(first_step + index))


def eval_stream(
    split: Split,
    *,
    batch_size: int,
    shard: Shard = Shard(),
    readers: Readers = Readers(),
    on_bad: Callable[[Sequence[BadExample]], None] = refuse_bad,
) -> Iterator[HostBatch]:
    """Batches that together hold every readable example of `split` once; arguments as of `train_stream`."""
    batches = _EvalBatches(split, batch_size=batch_size, shard=shard)
    return _read_ahead(grain.MapDataset.source(batches), split, readers, on_bad, batches.describe)


def _read_ahead(
    dataset: grain.MapDataset,
    split: Split,
    readers: Readers,
    on_bad: Callable[[Sequence[BadExample]], None],
    describe: Callable[[int], str],
) -> Iterator[HostBatch]:
    for batch, bad in _iterate(dataset, split, readers, describe):
        on_bad(bad)
        yield batch


def _iterate(
    dataset: grain.MapDataset, split: Split, readers: Readers, describe: Callable[[int], str]
) -> Iterator[_Read]:
    """Grain reads ahead in threads or processes; what is in memory is taken when asked for, which costs less."""
    if split.source.resident:
        return (dataset[index] for index in range(len(dataset)))
    buffer = max(readers.num_threads, readers.prefetch_batches)
    if readers.num_processes == 0:
        return iter(dataset.to_iter_dataset(grain.ReadOptions(readers.num_threads, buffer)))
    inline = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    each = max(1, buffer // readers.num_processes)
    return read_by_processes(inline, num_processes=readers.num_processes, buffer=each, describe=describe)
