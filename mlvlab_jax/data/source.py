"""What a data source gives: splits of pixels held ready, or of encoded images that `records` decodes."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.columns import Column
from mlvlab_jax.errors import DataError
from mlvlab_jax.types import ImageSpec

_NOTHING_BAD: Mapping[int, str] = MappingProxyType({})


class Examples(NamedTuple):
    """Some examples of a split.

    image: uint8 (b, h, w, c), zeros where bad; label: int32 (b); bad: position -> why it could not be read.
    """

    image: np.ndarray
    label: np.ndarray
    bad: Mapping[int, str] = _NOTHING_BAD


@runtime_checkable
class Source(Protocol):
    """Random access to the pixels of one split."""

    @property
    def spec(self) -> ImageSpec:
        """Shape of every image."""

    @property
    def resident(self) -> bool:
        """Whether the pixels are in memory, so that a batch costs next to nothing."""

    def __len__(self) -> int:
        """Number of examples."""

    def fetch(self, ids: np.ndarray) -> Examples:
        """The examples at `ids`, int (b). Safe to call from several threads."""

    def name(self, index: int) -> str:
        """What a person would look for to find example `index`: a path, or its number."""


class Record(NamedTuple):
    """One stored image: the bytes of its file, or why they could not be had, and its label."""

    data: bytes
    label: int
    problem: str = ""


class Records(Protocol):
    """Random access to the stored images of one split, before any decoding."""

    def __len__(self) -> int:
        """Number of examples."""

    def read(self, ids: np.ndarray) -> Sequence[Record]:
        """The stored images at `ids`, int (b). Safe to call from several threads."""

    def name(self, index: int) -> str:
        """As of `Source`."""


@dataclasses.dataclass(frozen=True)
class OpenedData:
    """All a source has to say: its splits ("train" at least), class names, and what identifies its bytes.

    image: the shape all images have, or None where they have several.
    paths: files and folders it was read from, of which the data version is looked up; none for data made or shipped.
    weights: for some splits how much each example counts in the training loss, float (n), >= 0.
    label_sets: where an example has several classes, or none: uint8 (s, k), 1 for the classes that each label stands
    for; the labels of the splits are then its rows. None: a label is a class.
    preprocess: what the pixels of a `Source` have been through; a run's must not differ from it.
    columns: for some splits what else is known of each example, by name.
    """

    splits: Mapping[str, "Stored"]
    class_names: tuple[str, ...]
    identity: Mapping[str, str]
    image: ImageSpec | None
    paths: tuple[Path, ...] = ()
    weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    preprocess: PreprocessSpec | None = None
    columns: Mapping[str, Mapping[str, Column]] = dataclasses.field(default_factory=dict)
    label_sets: np.ndarray | None = None


class ArraySource:
    """A split held in memory.

    Args:
        image: uint8 (n, h, w, c), or (n, h, w) for one channel.
        label: integers (n).
        place: Where it came from, for messages.
        bad: Index -> why its image could not be read; its pixels are of no meaning then.
        names: Of the examples; without them an example is called by its number.

    Raises:
        DataError: Wrong dtype or shape, or the two lengths differ.
    """

    def __init__(
        self,
        image: np.ndarray,
        label: np.ndarray,
        *,
        place: str,
        bad: Mapping[int, str] = _NOTHING_BAD,
        names: Source | Records | None = None,
    ) -> None:
        image = image[..., None] if image.ndim == 3 else image
        if image.dtype != np.uint8 or image.ndim != 4:
            raise DataError(
                f"{place}: images are {image.dtype} {image.shape}; expected uint8 (n, height, width[, channels]); "
                "scale to 0..255 and convert"
            )
        if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
            raise DataError(f"{place}: labels are {label.dtype} {label.shape}{_odd(label)}; expected integers (n)")
        if len(image) != len(label):
            raise DataError(f"{place}: {len(image)} images but {len(label)} labels; expected one label an image")
        self._image = image
        self._label = label.astype(np.int64)
        self._bad = dict(bad)
        self.resident = True
        self.names = names
        self.place = place

    @property
    def spec(self) -> ImageSpec:
        """Shape of every image."""
        return ImageSpec(*self._image.shape[1:])

    @property
    def labels(self) -> np.ndarray:
        """All labels, int64 (n)."""
        return self._label

    def __len__(self) -> int:
        return len(self._image)

    def fetch(self, ids: np.ndarray) -> Examples:
        """Copies of the images and labels at `ids`."""
        bad = {at: self._bad[i] for at, i in enumerate(ids.tolist()) if i in self._bad} if self._bad else _NOTHING_BAD
        return Examples(self._image[ids], self._label[ids].astype(np.int32), bad)

    def name(self, index: int) -> str:
        """The file of example `index`, or its number."""
        return self.names.name(index) if self.names else f"{self.place}[{index}]"

    def compute_digest(self) -> str:
        """SHA-256 of the pixels and labels."""
        digest = hashlib.sha256(f"{self._image.shape}".encode())
        digest.update(np.ascontiguousarray(self._image).data)
        digest.update(self._label.data)
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Several stored splits as one, their examples numbered on from part to part.

    labels: for each part, the label here of each of its own labels, int64 (k). shares: what each part gives of an
    epoch; they add up to 1. None: every example once. epoch_size: examples in an epoch where there are shares.
    """

    parts: tuple["Stored", ...]
    labels: tuple[np.ndarray, ...]
    shares: tuple[float, ...] | None = None
    epoch_size: int = 0

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def locate(self, index: int) -> tuple[int, int]:
        """Number of the part that example `index` is in, and its index there."""
        ends = np.cumsum([len(part) for part in self.parts])
        part = int(np.searchsorted(ends, index, side="right"))
        return part, index - int(ends[part]) + len(self.parts[part])

    def name(self, index: int) -> str:
        """As the part it comes from calls it."""
        part, inside = self.locate(index)
        return self.parts[part].name(inside)


Stored = ArraySource | Source | Records | Mixed


def open_arrays(
    splits: Mapping[str, ArraySource], class_names: Sequence[str] | None, *, origin: str, paths: tuple[Path, ...] = ()
) -> OpenedData:
    """In-memory splits as opened data; class names default to the numbers up to the largest training label.

    Raises:
        DataError: A split is empty, or the splits differ in image shape.
    """
    for name, source in splits.items():
        if len(source) == 0:
            raise DataError(f"{source.place}: split {name!r} is empty; expected at least one example")
    if class_names is None:
        class_names = [str(k) for k in range(int(splits["train"].labels.max()) + 1)]
    specs = {name: tuple(source.spec) for name, source in splits.items()}
    if len(set(specs.values())) > 1:
        raise DataError(f"{origin}: splits differ in image shape: {specs}; expected one shape")
    identity = {name: source.compute_digest() for name, source in splits.items()}
    return OpenedData(splits, tuple(class_names), {"origin": origin, **identity}, splits["train"].spec, paths)


def _odd(label: np.ndarray) -> str:
    """', of which 2 are NaN or no whole number, first at index 5' for floating-point labels."""
    if not np.issubdtype(label.dtype, np.floating):
        return ""
    odd = np.flatnonzero(np.isnan(label) | (label != np.floor(label)))
    return f", of which {len(odd)} are NaN or no whole number, first at index {odd[0]}" if len(odd) else ""


def make_label_sets(sets: Sequence[Sequence[int]], num_classes: int) -> np.ndarray:
    """`OpenedData.label_sets` of the class numbers in each set."""
    table = np.zeros((len(sets), num_classes), np.uint8)
    for row, numbers in zip(table, sets, strict=True):
        row[list(numbers)] = 1
    return table


def list_label_sets(table: np.ndarray | None) -> tuple[tuple[int, ...], ...] | None:
    """The class numbers in each set of `OpenedData.label_sets`."""
    return None if table is None else tuple(tuple(np.flatnonzero(row).tolist()) for row in table)


def count_classes(labels: np.ndarray, *, num_classes: int, label_sets: np.ndarray | None) -> np.ndarray:
    """Examples of each class, int64 (k), among `labels`; those out of range count for none."""
    num_labels = num_classes if label_sets is None else len(label_sets)
    counts = np.bincount(labels[(labels >= 0) & (labels < num_labels)], minlength=num_labels)
    return counts if label_sets is None else counts @ label_sets.astype(np.int64)


def check_labels(labels: np.ndarray, *, ids: np.ndarray, num_labels: int, place: str) -> None:
    """Refuses labels outside [0, num_labels) among the examples `ids`.

    Raises:
        DataError: Names how many, the first of them and its index.
    """
    bad = ids[(labels[ids] < 0) | (labels[ids] >= num_labels)]
    if len(bad):
        raise DataError(
            f"{place}: {len(bad)} labels out of range, first {labels[bad[0]]} at index {bad[0]}; "
            f"expected 0..{num_labels - 1} for {num_labels} classes; correct the labels or the class list, or leave "
            "these examples out by the list that mlvlab validate writes (pipeline.quarantine)"
        )


def compute_index_digest(rows: Iterable[str]) -> str:
    """SHA-256 over an index of examples, one line each, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
