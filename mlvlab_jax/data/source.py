"""What a data source gives: random access by index to uint8 images and integer labels, split by split."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from mlvlab_jax.errors import DataError
from mlvlab_jax.types import ImageSpec


class Source(Protocol):
    """Random access to the examples of one split."""

    @property
    def spec(self) -> ImageSpec:
        """Shape of every image."""

    def __len__(self) -> int:
        """Number of examples."""

    def fetch(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images, uint8 (b, h, w, c), and labels, int32 (b), at `ids`, int (b). Safe to call from several threads."""


@dataclasses.dataclass(frozen=True)
class OpenedData:
    """All a source has to say: its splits ("train" at least), class names, and what identifies its bytes.

    paths: files and folders it was read from, of which the data version is looked up; none for data made or shipped.
    """

    splits: Mapping[str, Source]
    class_names: tuple[str, ...]
    identity: Mapping[str, str]
    paths: tuple[Path, ...] = ()


class ArraySource:
    """A split held in memory.

    Args:
        image: uint8 (n, h, w, c), or (n, h, w) for one channel.
        label: integers (n).
        place: Where it came from, for messages.

    Raises:
        DataError: Wrong dtype or shape, or the two lengths differ.
    """

    def __init__(self, image: np.ndarray, label: np.ndarray, *, place: str) -> None:
        image = image[..., None] if image.ndim == 3 else image
        if image.dtype != np.uint8 or image.ndim != 4:
            raise DataError(
                f"{place}: images are {image.dtype} {image.shape}; expected uint8 (n, height, width[, channels]); "
                "scale to 0..255 and convert"
            )
        if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
            raise DataError(f"{place}: labels are {label.dtype} {label.shape}; expected integers (n)")
        if len(image) != len(label):
            raise DataError(f"{place}: {len(image)} images but {len(label)} labels; expected one label an image")
        self._image = image
        self._label = label.astype(np.int64)
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

    def fetch(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the images and labels at `ids`."""
        return self._image[ids], self._label[ids].astype(np.int32)

    def compute_digest(self) -> str:
        """SHA-256 of the pixels and labels."""
        digest = hashlib.sha256(f"{self._image.shape}".encode())
        digest.update(np.ascontiguousarray(self._image).data)
        digest.update(self._label.data)
        return digest.hexdigest()


def open_arrays(
    splits: Mapping[str, ArraySource], class_names: Sequence[str] | None, *, origin: str, paths: tuple[Path, ...] = ()
) -> OpenedData:
    """In-memory splits as opened data; class names default to the numbers up to the largest training label.

    Raises:
        DataError: A split is empty, or a label is out of range.
    """
    for name, source in splits.items():
        if len(source) == 0:
            raise DataError(f"{source.place}: split {name!r} is empty; expected at least one example")
    if class_names is None:
        class_names = [str(k) for k in range(int(splits["train"].labels.max()) + 1)]
    for source in splits.values():
        check_labels(source.labels, num_classes=len(class_names), place=source.place)
    identity = {name: source.compute_digest() for name, source in splits.items()}
    return OpenedData(splits, tuple(class_names), {"origin": origin, **identity}, paths)


def check_labels(labels: np.ndarray, *, num_classes: int, place: str) -> None:
    """Refuses labels outside [0, num_classes).

    Raises:
        DataError: Names how many, the first of them and its index.
    """
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        raise DataError(
            f"{place}: {len(bad)} labels out of range, first {labels[bad[0]]} at index {bad[0]}; "
            f"expected 0..{num_classes - 1} for {num_classes} classes; correct the labels or the class list"
        )
