"""Opens the configured source and settles what is trained, validated and tested on."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from mlvlab_jax.data.source import OpenedData
from mlvlab_jax.data.stream import Split, permute
from mlvlab_jax.data.versions import DataVersion, read_versions
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES, Spec
from mlvlab_jax.types import ImageSpec

#: Keeps the held-out part apart from the orders of the epochs, which use small numbers.
_HOLD_OUT_STREAM = 2**63


@dataclasses.dataclass(frozen=True)
class Data:
    """Splits to train, validate and test on; `test` and `validation` may be absent."""

    splits: Mapping[str, Split]
    spec: ImageSpec
    class_names: tuple[str, ...]
    identity: Mapping[str, str]
    versions: tuple[DataVersion, ...] = ()

    @property
    def train(self) -> Split:
        """The training split."""
        return self.splits["train"]


def open_data(source: Spec, *, validation_fraction: float, seed: int) -> Data:
    """Opens `source`; without a validation split of its own, a part of the training split is held out.

    Args:
        source: Which source.
        validation_fraction: Share of the training split to hold out; 0 leaves validation absent.
        seed: Decides which examples are held out.

    Raises:
        DataError: Missing or unusable data, splits of different image sizes, or nothing left to train on.
    """
    opened: OpenedData = SOURCES.build(source)
    specs = {name: split.spec for name, split in opened.splits.items()}
    if len(set(specs.values())) > 1:
        raise DataError(f"data {source.name!r}: splits differ in image shape: {specs}; expected one shape")
    splits = {name: Split(split, np.arange(len(split))) for name, split in opened.splits.items()}
    if "validation" not in splits and validation_fraction > 0:
        splits |= _hold_out(splits["train"], validation_fraction, seed, place=source.name)
    return Data(splits, next(iter(specs.values())), opened.class_names, opened.identity, read_versions(opened.paths))


def _hold_out(train: Split, fraction: float, seed: int, *, place: str) -> dict[str, Split]:
    order = permute(len(train), seed=seed, epoch=_HOLD_OUT_STREAM)
    count = round(len(train) * fraction)
    if count == 0 or count == len(train):
        raise DataError(
            f"data {place!r}: holding out {fraction:g} of {len(train)} training examples leaves an empty split; "
            "change pipeline.validation_fraction"
        )
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    return {"train": Split(train.source, train.ids[kept]), "validation": Split(train.source, train.ids[held])}
