"""Stored images decoded as they are asked for, or all at once into memory."""

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.data.decode import BadImageError, Header, inspect_image, read_header
from mlvlab_jax.data.source import ArraySource, Examples, Record, Records, Source
from mlvlab_jax.types import ImageSpec

#: Images that tell whether a split has images of several sizes, and files held at once to read their sizes.
_NUM_PROBED, _FILES_AT_ONCE = 64, 64
#: A larger file is no photograph; it is refused before it fills the memory.
_MAX_FILE_BYTES = 256 * 2**20


class FileRecords:
    """Image files of one split.

    Args:
        root: Folder the paths are relative to.
        paths: Of the files, relative or absolute.
        labels: int64 (n).
    """

    def __init__(self, root: Path, paths: Sequence[str], labels: np.ndarray) -> None:
        self._root = root
        self.paths = paths
        self.labels = labels

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Path of the file."""
        return str(self._root / self.paths[index])

    def read(self, ids: np.ndarray) -> list[Record]:
        """The files at `ids`, whole."""
        return [self._read(index) for index in ids.tolist()]

    def _read(self, index: int) -> Record:
        label = int(self.labels[index])
        try:
            # Not blocking, or a FIFO would wait for somebody to write into it.
            path = os.path.join(self._root, self.paths[index])  # noqa: PTH118 - a Path takes longer than opening it
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    return Record(b"", label, "not a file")
                if status.st_size > _MAX_FILE_BYTES:
                    return Record(b"", label, f"{status.st_size} bytes; expected at most {_MAX_FILE_BYTES}")
                return Record(_read_whole(file, status.st_size), label)
            finally:
                os.close(file)
        except OSError as error:
            return Record(b"", label, error.strerror or "cannot be read")
        except ValueError:  # a null character, or half of a UTF-16 pair
            return Record(b"", label, "no path that there can be")


def _read_whole(file: int, num_bytes: int) -> bytes:
    """All bytes of an open file; some file systems give less at once than is asked for."""
    data = os.read(file, num_bytes)
    while len(data) < num_bytes and (more := os.read(file, num_bytes - len(data))):
        data += more
    return data


def decode_record(record: Record, preprocess: PreprocessSpec) -> tuple[Header, np.ndarray]:
    """Header and pixels, uint8 (h, w, c), of a stored image.

    Raises:
        BadImageError: It could not be read or decoded.
    """
    if record.problem:
        raise BadImageError("unreadable", record.problem)
    return inspect_image(record.data, preprocess)


class DecodedSource:
    """A split of stored images as pixels of one size.

    Args:
        records: The stored images.
        preprocess: What to make of them; with size and channels set.
    """

    def __init__(self, records: Records, preprocess: PreprocessSpec) -> None:
        if preprocess.size is None or preprocess.channels is None:
            raise ValueError("a decoded source needs a size and channels")
        self._records = records
        self._preprocess = preprocess
        self.resident = False
        self.spec = ImageSpec(*preprocess.size, preprocess.channels)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def labels(self) -> np.ndarray | None:
        """All labels, int64 (n), where they are known before anything is read."""
        return getattr(self._records, "labels", None)

    def name(self, index: int) -> str:
        """The stored image's own name."""
        return self._records.name(index)

    def fetch(self, ids: np.ndarray) -> Examples:
        """Reads and decodes the examples at `ids`."""
        image = np.zeros((len(ids), *self.spec), np.uint8)
        label = np.empty(len(ids), np.int32)
        bad: dict[int, str] = {}
        for at, record in enumerate(self._records.read(ids)):
            label[at] = record.label
            try:
                image[at] = decode_record(record, self._preprocess)[1]
            except BadImageError as error:
                bad[at] = error.describe()
        return Examples(image, label, bad)

    def read_sizes(self, ids: np.ndarray) -> np.ndarray:
        """Height and width in pixels of the images at `ids` as stored, int32 (n, 2); 0 of one that is not readable."""
        sizes = np.zeros((len(ids), 2), np.int32)
        for start in range(0, len(ids), _FILES_AT_ONCE):
            for at, record in enumerate(self._records.read(ids[start : start + _FILES_AT_ONCE]), start):
                try:
                    header = read_header(record.data, self._preprocess)
                except BadImageError:
                    continue
                sizes[at] = header.height, header.width
        return sizes


def read_sides(source: Source, ids: np.ndarray) -> np.ndarray | None:
    """Side of a square as large as each stored image, in pixels, float64 (n); None where all have one size."""
    if len(ids) == 0:
        return None
    probed = ids[np.linspace(0, len(ids) - 1, _NUM_PROBED).astype(np.int64)]
    if len(np.unique(read_sizes(source, probed), axis=0)) == 1:
        return None
    return np.sqrt(read_sizes(source, ids).astype(np.float64).prod(axis=1))


def read_sizes(source: Source, ids: np.ndarray) -> np.ndarray:
    """Height and width in pixels of the images at `ids` as stored, int32 (n, 2); as decoded where no files are known.

    0 of one that is not readable.
    """
    if isinstance(source, MixedSource):
        return source.read_sizes(ids)
    stored = source.names if isinstance(source, ArraySource) else source
    if isinstance(stored, DecodedSource):
        return stored.read_sizes(ids)
    return np.tile(np.array(source.spec[:2], np.int32), (len(ids), 1))


def load_pixels(source: Source, *, place: str) -> ArraySource:
    """A whole split, read into memory by all cores."""
    image = np.empty((len(source), *source.spec), np.uint8)
    label = np.empty(len(source), np.int64)
    bad: dict[int, str] = {}

    def load_chunk(ids: np.ndarray) -> None:
        examples = source.fetch(ids)
        image[ids], label[ids] = examples.image, examples.label
        bad.update({int(ids[at]): why for at, why in examples.bad.items()})

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = np.array_split(np.arange(len(source)), max(1, len(source) // 256))
        list(pool.map(load_chunk, chunks))
    return ArraySource(image, label, place=place, bad=bad, names=source)


class MixedSource:
    """Pixels of several sources one after the other, with the labels of the whole.

    Args:
        sources: All of one image shape.
        labels: As of `Mixed`.
    """

    def __init__(self, sources: Sequence[Source], labels: Sequence[np.ndarray]) -> None:
        self._sources = sources
        self._labels = labels
        self._ends = np.cumsum([len(source) for source in sources])
        self.spec = sources[0].spec
        self.resident = all(source.resident for source in sources)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        """As the source it comes from calls it."""
        part, inside = self._locate(np.array([index]))
        return self._sources[part[0]].name(int(inside[0]))

    def fetch(self, ids: np.ndarray) -> Examples:
        """Examples of each source, put back in the order asked for."""
        part, inside = self._locate(ids)
        image = np.empty((len(ids), *self.spec), np.uint8)
        label = np.empty(len(ids), np.int32)
        bad: dict[int, str] = {}
        for number in np.unique(part).tolist():
            at = np.flatnonzero(part == number)
            image[at], own, found = self._sources[number].fetch(inside[at])
            label[at] = self._labels[number][own]
            bad |= {int(at[i]): why for i, why in found.items()}
        return Examples(image, label, bad)

    def read_sizes(self, ids: np.ndarray) -> np.ndarray:
        """As the sources the images come from tell them."""
        part, inside = self._locate(ids)
        sizes = np.empty((len(ids), 2), np.int32)
        for number in np.unique(part).tolist():
            at = np.flatnonzero(part == number)
            sizes[at] = read_sizes(self._sources[number], inside[at])
        return sizes

    def _locate(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the source, and the index in it."""
        part = np.searchsorted(self._ends, ids, side="right")
        return part, ids - np.concatenate([[0], self._ends])[part]
