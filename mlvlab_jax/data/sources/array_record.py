"""A pack that `mlvlab pack` wrote: ArrayRecord shards with an index."""

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import OPERATIONAL, configclass
from mlvlab_jax.data.pack_index import PackedSplit, PackIndex, Table, read_index, read_table
from mlvlab_jax.data.source import Examples, OpenedData, Record, make_label_sets
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES
from mlvlab_jax.types import ImageSpec


@configclass
class ArrayRecordParams:
    """Where the pack is."""

    path: str = Field(json_schema_extra=OPERATIONAL)
    """Folder that mlvlab pack wrote, with index.json in it."""


@SOURCES.register("array_record", ArrayRecordParams)
def open_array_record(params: ArrayRecordParams) -> OpenedData:
    """The splits as packed; no record is read.

    Raises:
        DataError: No pack, an empty split, or files missing, cut short or not matching the index.
    """
    folder = Path(params.path).expanduser()
    index = read_index(folder)
    if "train" not in index.splits:
        raise DataError(f"{folder}: splits {sorted(index.splits)}; expected 'train' among them; pack again")
    head = index.head
    pixels = head.image if head.encoding == "raw" else None
    splits = {
        name: _open_split(folder, name, split, num_labels=len(head.label_sets or head.class_names), pixels=pixels)
        for name, split in index.splits.items()
    }
    weights = {name: split.weights for name, split in splits.items() if len(split.weights)}
    identity = {"origin": head.identity.get("origin", head.source), "files": _digest(index)}
    label_sets = None if head.label_sets is None else make_label_sets(head.label_sets, len(head.class_names))
    stored = (head.image, (folder,), weights, head.preprocess)
    return OpenedData(splits, head.class_names, identity, *stored, label_sets=label_sets)


def _open_split(
    folder: Path, name: str, split: PackedSplit, *, num_labels: int, pixels: ImageSpec | None
) -> "PackedPixels | PackedRecords":
    if split.num_examples == 0:
        raise DataError(f"{folder}: split {name!r} is empty; expected at least one example; pack again")
    table = read_table(folder, split, num_labels=num_labels)
    place = f"{folder}[{name}]"
    shards = _Shards(folder, split)
    return PackedPixels(shards, table, place, pixels) if pixels else PackedRecords(shards, table, place)


def _digest(index: PackIndex) -> str:
    digest = hashlib.sha256()
    for name, split in index.splits.items():
        for packed in (split.table, *split.shards):
            digest.update(f"{name} {packed.sha256}\n".encode())
    return digest.hexdigest()


class _Shards:
    """Random access to the records of a split over all its shards; each is opened when first read."""

    def __init__(self, folder: Path, split: PackedSplit) -> None:
        self._paths = [folder / shard.file for shard in split.shards]
        self._ends = np.cumsum([shard.num_examples for shard in split.shards])
        mean = sum(shard.num_bytes for shard in split.shards) // max(1, split.num_examples)
        # The reader fills its buffer for each record anew: more than a record is read in vain.
        self._buffer_bytes = min(max(mean, 1024), 2**20)
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def read(self, ids: np.ndarray) -> list[bytes | str]:
        """The records at `ids`, or in words why one could not be read."""
        records: list[bytes | str] = [b""] * len(ids)
        shards = np.searchsorted(self._ends, ids, side="right")
        for shard in np.unique(shards).tolist():
            at = np.flatnonzero(shards == shard)
            positions = (ids[at] - (self._ends[shard - 1] if shard else 0)).tolist()
            for k, record in zip(at.tolist(), self._read_shard(shard, positions), strict=True):
                records[k] = record
        return records

    def _read_shard(self, shard: int, positions: list[int]) -> Sequence[bytes | str]:
        try:
            records: list[bytes | str] = self._reader(shard).read(positions)
        except (RuntimeError, IndexError) as error:  # one broken record spoils the whole call: read them one by one
            if len(positions) == 1:
                return [f"{self._paths[shard].name}: {error}; mlvlab pack --verify checks the whole pack"]
            return [self._read_shard(shard, [position])[0] for position in positions]
        return records

    def _reader(self, shard: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = ArrayRecordReader(
                    str(self._paths[shard]),
                    options="readahead_buffer_size:0,max_parallelism:0",
                    file_reader_buffer_size=self._buffer_bytes,
                )
            return self._readers[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_readers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _readers={}, _lock=threading.Lock())


class _Packed:
    """What packed pixels and packed files share."""

    def __init__(self, shards: _Shards, table: Table, place: str) -> None:
        self._shards = shards
        self.labels, self.weights = table.labels, table.weights
        self._ids, self._names = table.ids, table.names
        self.resident = False
        self._place = place

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The example's number here, and its path or number in the source it was packed from."""
        origin = os.fsdecode(self._names[index]) if len(self._names) else f"{self._ids[index]} in the source"
        return f"{self._place}[{index}] ({origin})"


class PackedRecords(_Packed):
    """Image files of a split, packed."""

    def read(self, ids: np.ndarray) -> list[Record]:
        """The files at `ids`."""
        labels = self.labels[ids].tolist()
        return [
            Record(b"", label, record) if isinstance(record, str) else Record(record, label)
            for record, label in zip(self._shards.read(ids), labels, strict=True)
        ]


class PackedPixels(_Packed):
    """Pixels of a split, packed: a batch is one read and one copy."""

    def __init__(self, shards: _Shards, table: Table, place: str, spec: ImageSpec) -> None:
        super().__init__(shards, table, place)
        self.spec = spec

    def fetch(self, ids: np.ndarray) -> Examples:
        """The examples at `ids`."""
        num_bytes = int(np.prod(self.spec))
        nothing = bytes(num_bytes)
        rows: list[bytes] = []
        bad: dict[int, str] = {}
        for at, record in enumerate(self._shards.read(ids)):
            if isinstance(record, str):
                bad[at] = record
            elif len(record) != num_bytes:
                bad[at] = f"{len(record)} bytes; expected {num_bytes}"
            rows.append(nothing if isinstance(record, str) or at in bad else record)
        image = np.frombuffer(bytearray().join(rows), np.uint8).reshape(len(ids), *self.spec)
        return Examples(image, self.labels[ids].astype(np.int32), bad)
