"""Which examples make up a split, and the order in which training meets them: a function of (seed, epoch) alone."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from mlvlab_jax.data.columns import Column
from mlvlab_jax.data.source import Examples, Source


@dataclasses.dataclass(frozen=True)
class Part:
    """Examples `ids`, int64 (n), of a mixture, of which every epoch takes `count`."""

    ids: np.ndarray
    count: int


@dataclasses.dataclass(frozen=True)
class Split:
    """The examples `ids`, int64 (n), of a source, in this order.

    name: What a person calls the split.
    parts: Of a mixture; together they hold `ids`. None: an epoch is every example once.
    weights: float32, by index in the source: how much an example counts in the training loss. None: all 1.
    columns: what else is known of the examples, by name.
    label_sets: as of `OpenedData`.
    repeats: how often in a row each example of an epoch comes, each time augmented anew.
    """

    name: str
    source: Source
    ids: np.ndarray
    parts: tuple[Part, ...] | None = None
    weights: np.ndarray | None = None
    columns: Mapping[str, Column] = dataclasses.field(default_factory=dict)
    label_sets: np.ndarray | None = None
    repeats: int = 1

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def epoch_size(self) -> int:
        """Examples in one epoch of training."""
        return len(self.ids) if self.parts is None else sum(part.count for part in self.parts)

    def fetch(self, ids: np.ndarray) -> Examples:
        """The examples at `ids`, int (b), of the source; an error it did not expect says which of them it met."""
        try:
            return self.source.fetch(ids)
        except Exception as error:
            if len(ids) > 1:
                for at in range(len(ids)):
                    self.fetch(ids[at : at + 1])
            error.add_note(f"while reading split {self.name!r}, {self.list_names(ids)}")
            raise

    def list_names(self, ids: np.ndarray) -> str:
        """Some examples in words: what a person would look for to find them."""
        names = ", ".join(self.source.name(index) for index in ids[:3].tolist())
        return f"examples {names}" + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")

    def subset(self, name: str, ids: np.ndarray) -> "Split":
        """The split of `ids` alone, int64, sorted; parts give as large a share of a smaller epoch.

        A part that loses all its examples has no place in the mixture any more.
        """
        if self.parts is None:
            return dataclasses.replace(self, name=name, ids=ids)
        kept = [(np.intersect1d(part.ids, ids), part.count) for part in self.parts]
        shrunk = tuple(Part(some, round(count * len(ids) / len(self.ids))) for some, count in kept if len(some))
        return dataclasses.replace(self, name=name, ids=ids, parts=shrunk)


def permute(num_examples: int, *, seed: int, epoch: int, part: int = 0) -> np.ndarray:
    """Order of the examples in one epoch: int64 (n), a function of its arguments alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, part])).permutation(num_examples)


def order_epoch(split: Split, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """One epoch of a split.

    Each part of a mixture goes through its own examples again and again, each time in another order, and continues in
    the next epoch where it was: over time every example of a part is seen equally often. With repeats an epoch is as
    long as without, and has so many times fewer examples.

    Returns:
        Examples, int64 (epoch_size), and a number of each that tells its appearances apart, int32 (epoch_size): how
        often it had been seen before, where there are no repeats.

    References:
        M. Berman et al., "MultiGrain: a unified image embedding for classes and instances", 2019 (repeats).
    """
    ids, passes = _order_once(split, seed=seed, epoch=epoch)
    if split.repeats == 1:
        return ids, passes
    kept = -(-len(ids) // split.repeats)
    turns = np.tile(np.arange(split.repeats, dtype=np.int32), kept)
    repeated = [np.repeat(each[:kept], split.repeats) for each in (ids, passes)]
    return repeated[0][: len(ids)], (repeated[1] * split.repeats + turns)[: len(ids)]


def _order_once(split: Split, *, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    if split.parts is None:
        return split.ids[permute(len(split), seed=seed, epoch=epoch)], np.full(len(split), epoch, np.int32)
    ids, passes = [], []
    for number, part in enumerate(split.parts, start=1):
        rounds, offsets = np.divmod(np.arange(epoch * part.count, (epoch + 1) * part.count), len(part.ids))
        for one in np.unique(rounds):
            order = permute(len(part.ids), seed=seed, epoch=int(one), part=number)
            ids.append(part.ids[order[offsets[rounds == one]]])
        passes.append(rounds)
    mixed = permute(split.epoch_size, seed=seed, epoch=epoch)
    return np.concatenate(ids)[mixed], np.concatenate(passes)[mixed].astype(np.int32)
