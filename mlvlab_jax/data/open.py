"""Opens the configured source and settles what is trained, validated and tested on."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np

from mlvlab_jax.config.schema import PipelineConfig, PreprocessSpec
from mlvlab_jax.data.balance import sample_classes_evenly, weigh_classes
from mlvlab_jax.data.decode import fit_pixels
from mlvlab_jax.data.order import Part, Split, permute
from mlvlab_jax.data.quarantine import read_left_out
from mlvlab_jax.data.records import DecodedSource, MixedSource, load_pixels
from mlvlab_jax.data.resize import check_filter
from mlvlab_jax.data.shape import DataShape
from mlvlab_jax.data.source import ArraySource, Mixed, OpenedData, Source, Stored, check_labels
from mlvlab_jax.data.versions import DataVersion, read_versions
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.files import sha256_file
from mlvlab_jax.plugins import SOURCES, Spec
from mlvlab_jax.types import ImageSpec

#: Keeps the held-out part apart from the orders of the epochs, which use small numbers.
_HOLD_OUT_STREAM = 2**63
_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Data:
    """Splits to train, validate and test on; `test` and `validation` may be absent.

    preprocess is complete: with the size and the channels that hold for this data.
    """

    splits: Mapping[str, Split]
    preprocess: PreprocessSpec
    class_names: tuple[str, ...]
    identity: Mapping[str, str]
    versions: tuple[DataVersion, ...] = ()

    @property
    def train(self) -> Split:
        """The training split."""
        return self.splits["train"]

    @property
    def multi_label(self) -> bool:
        """Whether an example may have several classes, or none."""
        return self.train.label_sets is not None

    @property
    def spec(self) -> ImageSpec:
        """Shape of every image."""
        return self.train.source.spec

    @property
    def shape(self) -> DataShape:
        """What a network must know of it."""
        return DataShape(self.spec, len(self.class_names), self.train.epoch_size, self.multi_label)


def open_data(source: Spec, pipeline: PipelineConfig, *, seed: int) -> Data:
    """Opens `source`; without a validation split of its own, a part of the training split is held out.

    Args:
        source: Which source.
        pipeline: How images are preprocessed, how much may be held in memory, how much is held out.
        seed: Decides which examples are held out.

    Raises:
        ConfigError: Images of several sizes and no size to bring them to, or a filter that is not installed.
        DataError: Missing or unusable data, or nothing left to train on.
    """
    opened: OpenedData = SOURCES.build(source)
    preprocess = complete_preprocess(pipeline.preprocess, opened, source.name)
    max_bytes = pipeline.max_memory_mib * 2**20

    def read(name: str, stored: Stored) -> Source:
        return to_pixels(stored, preprocess, max_bytes=max_bytes, place=f"{source.name}[{name}]")

    splits, identity = _make_splits(opened, pipeline, read, seed=seed, place=source.name)
    splits["train"] = _balance(splits["train"], pipeline, opened.class_names)
    return Data(splits, preprocess, opened.class_names, identity, read_versions(opened.paths))


def _balance(train: Split, pipeline: PipelineConfig, class_names: tuple[str, ...]) -> Split:
    if pipeline.class_weights is not None:
        train = weigh_classes(train, pipeline.class_weights, class_names)
    if pipeline.class_sampling == "balanced":
        train = sample_classes_evenly(train, num_classes=len(class_names))
    return dataclasses.replace(train, repeats=pipeline.repeats)


def describe_data(source: Spec, pipeline: PipelineConfig, *, seed: int) -> DataShape:
    """The shape of what `open_data` would open; no image is decoded.

    Raises:
        ConfigError: As of `open_data`.
        DataError: Missing data, or nothing left to train on.
    """
    opened: OpenedData = SOURCES.build(source)
    preprocess = complete_preprocess(pipeline.preprocess, opened, source.name)
    splits, _ = _make_splits(opened, pipeline, lambda name, stored: cast(Source, stored), seed=seed, place=source.name)
    height, width = cast(tuple[int, int], preprocess.size)
    image = ImageSpec(height, width, cast(int, preprocess.channels))
    return DataShape(image, len(opened.class_names), splits["train"].epoch_size, opened.label_sets is not None)


def _make_splits(
    opened: OpenedData, pipeline: PipelineConfig, read: Callable[[str, Stored], Source], *, seed: int, place: str
) -> tuple[dict[str, Split], dict[str, str]]:
    """The splits without what is left out and with what is held out, and the identity of all that decided them."""
    left_out: dict[str, np.ndarray] = {}
    identity = dict(opened.identity)
    if pipeline.quarantine is not None:
        left_out = read_left_out(Path(pipeline.quarantine).expanduser(), opened.splits)
        identity["quarantine"] = sha256_file(Path(pipeline.quarantine).expanduser())
    splits = {}
    for name, stored in opened.splits.items():
        weights = opened.weights.get(name)
        weights = None if weights is None else (weights / weights.mean()).astype(np.float32)
        columns, ids = opened.columns.get(name, {}), np.arange(len(stored))
        split = Split(name, read(name, stored), ids, _parts(stored), weights, columns, opened.label_sets)
        splits[name] = _leave_out(split, left_out.get(name), opened.class_names)
    if "validation" not in splits and pipeline.validation_fraction > 0:
        splits |= _hold_out(splits["train"], pipeline.validation_fraction, seed, place=place)
    return {name: splits[name] for name in _SPLITS if name in splits}, identity


def complete_preprocess(preprocess: PreprocessSpec, opened: OpenedData, source: str) -> PreprocessSpec:
    """`preprocess` with the size and channels that hold for this data.

    Raises:
        ConfigError: Images of several sizes and no size to bring them to, a filter that is not installed, or stored
            pixels that have been through another preprocessing, which serving the model would not repeat.
    """
    check_filter(preprocess)
    image = opened.image
    if preprocess.size is None and image is None:
        raise ConfigError(
            f"{source!r} reads images of any size; expected the size to bring them to, for example size: [224, 224]",
            path="pipeline.preprocess.size",
        )
    size = preprocess.size or (image.height, image.width) if image else preprocess.size
    channels = preprocess.channels or (1 if image and image.channels == 1 else 3)
    complete = dataclasses.replace(preprocess, size=size, channels=channels)
    if opened.preprocess is not None:
        _check_preprocess(complete, opened.preprocess, source)
    return complete


def _leave_out(split: Split, listed: np.ndarray | None, class_names: tuple[str, ...]) -> Split:
    """`split` without the examples `listed`, int64 (n); the labels of the others are checked."""
    if listed is not None and len(listed):
        ids = np.setdiff1d(split.ids, listed, assume_unique=True)
        if len(ids) == 0:
            raise DataError(
                f"split {split.name!r}: pipeline.quarantine lists all of its {len(split)} examples; expected some "
                "to be left; repair the data"
            )
        split = split.subset(split.name, ids)
    if isinstance(split.source, ArraySource):
        num_labels = len(class_names if split.label_sets is None else split.label_sets)
        check_labels(split.source.labels, ids=split.ids, num_labels=num_labels, place=split.source.place)
    return split


def _check_preprocess(asked: PreprocessSpec, stored: PreprocessSpec, source: str) -> None:
    for field in ("size", "channels", "resize", "filter", "max_jpeg_enlargement"):
        value, expected = getattr(asked, field), getattr(stored, field)
        if value != expected:
            raise ConfigError(
                f"{value!r}, but the pixels of {source!r} were stored with {expected!r}; write the stored value, or "
                "pack the data again",
                path=f"pipeline.preprocess.{field}",
            )


def to_pixels(stored: Stored, preprocess: PreprocessSpec, *, max_bytes: int, place: str) -> Source:
    """A split as pixels of the size and channels of `preprocess`, in memory where it takes at most `max_bytes`."""
    if isinstance(stored, ArraySource):
        return _fit(stored, preprocess)
    if isinstance(stored, Mixed):
        sources = [to_pixels(part, preprocess, max_bytes=max_bytes, place=place) for part in stored.parts]
        for part, labels in zip(sources, stored.labels, strict=True):
            if isinstance(part, ArraySource):
                check_labels(part.labels, ids=np.arange(len(part)), num_labels=len(labels), place=part.place)
        return MixedSource(sources, stored.labels)
    pixels = stored if isinstance(stored, Source) else DecodedSource(stored, preprocess)
    fits = len(pixels) * int(np.prod(pixels.spec)) <= max_bytes
    return load_pixels(pixels, place=place) if fits else pixels


def _parts(stored: Stored) -> tuple[Part, ...] | None:
    """The parts of a mixture with shares; what rounding leaves over goes to the first."""
    if not isinstance(stored, Mixed) or stored.shares is None:
        return None
    ends = np.cumsum([len(part) for part in stored.parts]).tolist()
    counts = [round(share * stored.epoch_size) for share in stored.shares]
    counts[0] += stored.epoch_size - sum(counts)
    ranges = zip([0, *ends], ends, counts, strict=False)
    return tuple(Part(np.arange(start, end), count) for start, end, count in ranges)


def _fit(source: ArraySource, preprocess: PreprocessSpec) -> ArraySource:
    if (source.spec[:2], source.spec.channels) == (preprocess.size, preprocess.channels):
        return source
    pixels = source.fetch(np.arange(len(source))).image
    return ArraySource(np.stack([fit_pixels(image, preprocess) for image in pixels]), source.labels, place=source.place)


def _hold_out(train: Split, fraction: float, seed: int, *, place: str) -> dict[str, Split]:
    order = permute(len(train), seed=seed, epoch=_HOLD_OUT_STREAM)
    count = round(len(train) * fraction)
    if count == 0 or count == len(train):
        raise DataError(
            f"data {place!r}: holding out {fraction:g} of {len(train)} training examples leaves an empty split; "
            "change pipeline.validation_fraction"
        )
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    return {
        "train": train.subset("train", train.ids[kept]),
        "validation": train.subset("validation", train.ids[held]),
    }
