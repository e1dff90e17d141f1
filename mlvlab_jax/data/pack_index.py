"""What a pack says of itself: `index.json`, and one table of examples a split."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationError

from mlvlab_jax.config.fields import configclass, params_from
from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.errors import DataError, DiskError
from mlvlab_jax.files import sha256_file
from mlvlab_jax.types import ImageSpec

FORMAT, VERSION = "mlvlab_jax.pack", 1
INDEX_FILE = "index.json"

Encoding = Literal["keep", "raw"]
Count = Annotated[int, Field(ge=0)]


@configclass
class PackedFile:
    """A file of the pack."""

    file: str
    """Its name in the folder."""
    num_examples: Count
    """Examples in it."""
    num_bytes: Count
    """Its size."""
    sha256: str
    """Of its bytes."""


@configclass
class BadImage:
    """An image of the source that was left out."""

    id: int
    """Its index in the source's split."""
    name: str
    """Its path or number there."""
    reason: str
    """Why it could not be read."""


@configclass
class PackedSplit:
    """One split."""

    num_examples: Count
    """Examples in all shards together."""
    table: PackedFile
    """Label, source index and size of each example, in order."""
    shards: tuple[PackedFile, ...]
    """The records, in order."""
    bad: tuple[BadImage, ...]
    """What was left out."""


@configclass
class PackHead:
    """How a pack was made and of what: packs with equal heads hold equal records."""

    format: str = FORMAT
    """Tells the file from other JSON."""
    version: int = VERSION
    """Of the layout."""
    encoding: Encoding
    """keep: the bytes of image files. raw: pixels, uint8, height x width x channels."""
    max_side: int | None
    """Pixels the longer side of an image file was reduced to; null left it alone."""
    image: ImageSpec | None
    """Height, width and channels, where all images have the same."""
    preprocess: PreprocessSpec | None
    """What raw pixels have been through; null for image files."""
    class_names: tuple[str, ...]
    """In the order of the labels."""
    label_sets: tuple[tuple[Count, ...], ...] | None = None
    """Where an example may have several classes: the class numbers that each label stands for."""
    source: str
    """Kind of source the images came from."""
    identity: dict[str, str]
    """What that source said of its bytes."""


@configclass
class PackIndex:
    """The whole of index.json."""

    head: PackHead
    """How the pack was made."""
    splits: dict[str, PackedSplit]
    """Name of a split to what is in it."""


class Table(NamedTuple):
    """One row an example.

    labels: int64 (n); ids: int64 (n), index in the source; num_bytes: int64 (n); width, height: int32 (n), in pixels as
    seen; names: paths in the source as bytes (n), or
    nothing where it has numbers only; weights: float64 (n), how much each counts in the training loss, or nothing.
    """

    labels: np.ndarray
    ids: np.ndarray
    num_bytes: np.ndarray
    width: np.ndarray
    height: np.ndarray
    names: np.ndarray
    weights: np.ndarray


def read_index(folder: Path) -> PackIndex:
    """Reads `index.json` and checks that the files it lists are there, at their full size.

    Raises:
        DataError: No pack, one of another version, one whose index is broken, or files missing or cut short.
    """
    path = folder / INDEX_FILE
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make a pack there with mlvlab pack --out {folder}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}; restore the file, or pack again") from None
    head = tree.get("head") if isinstance(tree, dict) else None
    found = (head.get("format"), head.get("version")) if isinstance(head, dict) else None
    if found != (FORMAT, VERSION):
        raise DataError(f"{path}: format and version are {found}; expected {(FORMAT, VERSION)}; pack again")
    try:
        index = params_from(PackIndex, tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {place}: {first['msg']}; restore the file, or pack again") from None
    if index.head.encoding == "raw" and (index.head.preprocess is None or index.head.image is None):
        raise DataError(f"{path}: raw pixels without their image shape or preprocess; restore the file, or pack again")
    for labels in index.head.label_sets or ():
        if any(number >= len(index.head.class_names) for number in labels):
            raise DataError(
                f"{path}: label_sets has {list(labels)}, beyond the {len(index.head.class_names)} classes; restore the "
                "file, or pack again"
            )
    for name, split in index.splits.items():
        _check_split(folder, name, split)
    return index


def _check_split(folder: Path, name: str, split: PackedSplit) -> None:
    for packed in (split.table, *split.shards):
        path = folder / packed.file
        if path.parent != folder or not path.is_file():
            raise DataError(f"{path}: listed in {INDEX_FILE}, but there is no such file; restore it, or pack again")
        if path.stat().st_size != packed.num_bytes:
            raise DataError(
                f"{path}: {path.stat().st_size} bytes; expected {packed.num_bytes}; copy it again, or pack again"
            )
    counts = split.num_examples, split.table.num_examples, sum(shard.num_examples for shard in split.shards)
    if len(set(counts)) > 1:
        raise DataError(
            f"{folder / INDEX_FILE}: split {name!r} says {counts[0]} examples, "
            f"its table {counts[1]}, its shards {counts[2]}; "
            "restore the file, or pack again"
        )


def read_table(folder: Path, split: PackedSplit, *, num_labels: int) -> Table:
    """The examples of a split.

    Raises:
        DataError: Not a table, or not as long as the index says, or labels out of range.
    """
    path = folder / split.table.file
    try:
        with np.load(path, allow_pickle=False) as arrays:
            table = Table(*(arrays[name] for name in Table._fields))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a table of examples: {error}; restore the file, or pack again") from None
    lengths = {
        name: len(column) for name, column in table._asdict().items() if name not in ("names", "weights") or len(column)
    }
    if set(lengths.values()) != {split.num_examples}:
        raise DataError(
            f"{path}: columns of {lengths} rows; expected {split.num_examples}; restore the file, or pack again"
        )
    if ((table.labels < 0) | (table.labels >= num_labels)).any():
        raise DataError(f"{path}: labels beyond the {num_labels} classes; restore the file, or pack again")
    return table


def write_table(path: Path, table: Table) -> PackedFile:
    """Writes the examples of a split; the same table gives the same bytes."""
    with path.open("wb") as file:
        np.savez(file, **table._asdict())
    return PackedFile(
        file=path.name, num_examples=len(table.labels), num_bytes=path.stat().st_size, sha256=sha256_file(path)
    )


def verify_pack(folder: Path) -> PackIndex:
    """Compares every file of a pack with the SHA-256 its index holds.

    Raises:
        DataError: A file differs, or what `read_index` finds.
    """
    index = read_index(folder)
    for split in index.splits.values():
        for packed in (split.table, *split.shards):
            found = sha256_file(folder / packed.file)
            if found != packed.sha256:
                raise DataError(
                    f"{folder / packed.file}: SHA-256 {found}; expected {packed.sha256}; copy it again, or pack again"
                )
    return index


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what the writer raises into an error in words."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise DiskError(f"{path}: {error}; make room and start again: finished shards are kept") from None
