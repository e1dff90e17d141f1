"""One pass over a split that keeps a few numbers an example: what all checks of the data are computed from."""

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any

import numpy as np

from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.decode import BadImageError, Header, fit_pixels
from mlvlab_jax.data.duplicates import THUMB_SIDE, compute_hashes
from mlvlab_jax.data.records import decode_record
from mlvlab_jax.data.source import ArraySource, Mixed, Source, Stored
from mlvlab_jax.data.validation import DataValidator, ValidationError

#: Pixels decoded at once in a thread, and files read at once: bounds the memory, whatever the size of the set.
_CHUNK_BYTES, _CHUNK_EXAMPLES, _FILES_AT_ONCE = 8 * 2**20, 512, 16
#: Difference of the brightest and the darkest value of a channel up to which an image shows nothing.
_BLANK_RANGE = 2
_FORMAT_OF = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP"}


class Scan:
    """What is known of each example of a split: about 120 bytes, and a line for each one that has something wrong.

    label int64 (n); width, height int32 (n), as shown, in pixels; digest uint64 (n, 2), of the pixels training sees;
    phash uint64 (n); thumb uint8 (n, 8, 8); brightness uint8 (n), the mean of all values; blank bool (n);
    histogram int64 (channels, 256), of all values; bad, renamed, rejected: index -> what is wrong (unreadable; its name
    says another format; refused by the validator); rejected_batches: what the validator said of batches; label_sets: as
    of `OpenedData`.
    """

    def __init__(
        self, name: str, stored: Stored, preprocess: PreprocessSpec, *, label_sets: np.ndarray | None = None
    ) -> None:
        n, channels = len(stored), preprocess.channels or 3
        self.name = name
        self.stored = stored
        self.preprocess = preprocess
        self.label_sets = label_sets
        self.label = np.zeros(n, np.int64)
        self.width, self.height = np.zeros(n, np.int32), np.zeros(n, np.int32)
        self.digest = np.zeros((n, 2), np.uint64)
        self.phash = np.zeros(n, np.uint64)
        self.thumb = np.zeros((n, THUMB_SIDE, THUMB_SIDE), np.uint8)
        self.brightness = np.zeros(n, np.uint8)
        self.blank = np.zeros(n, bool)
        self.histogram = np.zeros((channels, 256), np.int64)
        self.bad: dict[int, str] = {}
        self.renamed: dict[int, str] = {}
        self.rejected: dict[int, str] = {}
        self.rejected_batches: list[str] = []

    def __len__(self) -> int:
        return len(self.label)

    @property
    def readable(self) -> np.ndarray:
        """Indices of the examples that could be decoded, int64 (m)."""
        keep = np.ones(len(self), bool)
        keep[list(self.bad)] = False
        return np.flatnonzero(keep)

    def label_of(self, index: int) -> int | tuple[int, ...]:
        """The class of an example, or its classes where it may have several."""
        label = int(self.label[index])
        return label if self.label_sets is None else tuple(np.flatnonzero(self.label_sets[label]).tolist())

    def describe_label(self, index: int) -> str:
        """'label 7'."""
        return f"label {self.label[index]}"

    def compute_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel over all pixels, scaled to [0, 1]; NaN where nothing was read."""
        values = np.arange(256) / 255
        with np.errstate(invalid="ignore"):
            share = self.histogram / self.histogram.sum(axis=1, keepdims=True)
        mean = share @ values
        return mean, np.sqrt(np.maximum(share @ values**2 - mean**2, 0))


def scan_split(
    name: str,
    stored: Stored,
    preprocess: PreprocessSpec,
    *,
    label_sets: np.ndarray | None = None,
    validator: DataValidator | None = None,
) -> Scan:
    """Reads every example of a split once, by all cores.

    Args:
        name: Of the split.
        stored: The split, as the source gives it.
        preprocess: As training decodes it; with size and channels.
        label_sets: As of `OpenedData`.
        validator: Also asked about each example and each chunk of them, one thread at a time.
    """
    scan = Scan(name, stored, preprocess, label_sets=label_sets)
    lock = threading.Lock()

    def scan_chunk(ids: np.ndarray) -> None:
        keep, image = _read(scan, stored, ids, ids)
        if len(keep) == 0:
            return
        _measure(scan, keep, image)
        counts = np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in range(image.shape[-1])])
        with lock:
            scan.histogram += counts
            if validator is not None:
                _ask(validator, scan, keep, image)

    size = min(_CHUNK_EXAMPLES, max(1, _CHUNK_BYTES // max(1, int(np.prod(preprocess.size or (1, 1)) * 3))))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = (np.arange(start, min(start + size, len(scan))) for start in range(0, len(scan), size))
        list(pool.map(scan_chunk, chunks))
    return scan


def _read(scan: Scan, stored: Stored, ids: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads examples `ids` of `stored`, which are examples `at` of the scan.

    Notes labels, sizes and what could not be read; gives those of `at` that could be, and their pixels.
    """
    if isinstance(stored, Mixed):
        return _read_mixed(scan, stored, ids, at)
    if isinstance(stored, Source):
        examples = stored.fetch(ids)
        scan.label[at] = stored.labels[ids] if isinstance(stored, ArraySource) else examples.label
        scan.height[at], scan.width[at] = stored.spec[:2]
        scan.bad.update({int(at[k]): why for k, why in examples.bad.items()})
        keep = np.array([k for k in range(len(ids)) if k not in examples.bad], np.int64)
        return at[keep], _fit(examples.image[keep], scan.preprocess)
    kept: list[int] = []
    images: list[np.ndarray] = []
    for start in range(0, len(ids), _FILES_AT_ONCE):
        some = slice(start, start + _FILES_AT_ONCE)
        for index, record in zip(at[some].tolist(), stored.read(ids[some]), strict=True):
            scan.label[index] = record.label
            try:
                header, pixels = decode_record(record, scan.preprocess)
            except BadImageError as error:
                scan.bad[index] = error.describe()
                continue
            _note_header(scan, index, header)
            kept.append(index)
            images.append(pixels)
    return np.array(kept, np.int64), np.stack(images) if images else _no_images(scan)


def _read_mixed(scan: Scan, stored: Mixed, ids: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places = np.array([stored.locate(index) for index in ids.tolist()])
    kept, images = [at[:0]], [_no_images(scan)]
    for number in np.unique(places[:, 0]).tolist():
        chosen = places[:, 0] == number
        some, pixels = _read(scan, stored.parts[number], places[chosen, 1], at[chosen])
        own, labels = scan.label[at[chosen]], stored.labels[number]
        inside = (own >= 0) & (own < len(labels))
        scan.label[at[chosen]] = np.where(inside, labels[np.where(inside, own, 0)], -1)
        kept.append(some)
        images.append(pixels)
    return np.concatenate(kept), np.concatenate(images)


def _no_images(scan: Scan) -> np.ndarray:
    height, width = scan.preprocess.size or (0, 0)
    return np.empty((0, height, width, scan.preprocess.channels or 3), np.uint8)


def _fit(image: np.ndarray, preprocess: PreprocessSpec) -> np.ndarray:
    if (image.shape[1:3], image.shape[3]) == (preprocess.size, preprocess.channels):
        return image
    return np.stack([fit_pixels(one, preprocess) for one in image]) if len(image) else image[:0]


def _note_header(scan: Scan, index: int, header: Header) -> None:
    turned = header.orientation >= 5
    scan.width[index], scan.height[index] = (header.height, header.width) if turned else (header.width, header.height)
    expected = _FORMAT_OF.get(PurePath(scan.stored.name(index)).suffix.lower(), header.format)
    if expected != header.format:
        scan.renamed[index] = f"the content is {header.format}"


def _measure(scan: Scan, ids: np.ndarray, image: np.ndarray) -> None:
    scan.phash[ids], scan.thumb[ids] = compute_hashes(image)
    flat = image.reshape(len(image), -1, image.shape[-1])
    scan.brightness[ids] = np.rint(flat.mean(axis=(1, 2)))
    scan.blank[ids] = (flat.max(axis=1).astype(np.int16) - flat.min(axis=1) <= _BLANK_RANGE).all(axis=-1)
    for index, pixels in zip(ids.tolist(), image, strict=True):
        digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
        scan.digest[index] = np.frombuffer(digest, np.uint64)


def _ask(validator: DataValidator, scan: Scan, ids: np.ndarray, image: np.ndarray) -> None:
    """A rule may also be written with `assert`, which is caught alike."""
    scaled = image.astype(np.float32) / 255
    for index, pixels in zip(ids.tolist(), scaled, strict=True):
        why = _complain(validator.validate_sample, pixels, scan.label_of(index))
        if why is not None:
            scan.rejected[index] = why
    why = _complain(validator.validate_batch, {"images": scaled, "labels": scan.label[ids]})
    if why is not None:
        scan.rejected_batches.append(f"examples {ids[0]} to {ids[-1]}: {why}")


def _complain(check: Callable[..., None], *arguments: Any) -> str | None:
    """What `check` has against its arguments."""
    try:
        check(*arguments)
    except ValidationError as error:
        return f"{error.kind}: {error}"
    except AssertionError as error:
        first_line = str(error).partition("\n")[0]
        return f"assertion: {first_line}"
    return None
