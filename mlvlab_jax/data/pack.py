"""Any source to ArrayRecord shards with an index, once, so that every later epoch reads a few large files.

The same source gives the same bytes. A shard is written under a temporary name and takes its own when it is whole; what
is done is noted in the folder `.unfinished`, and a second start goes on from there. The index comes last.
"""

import dataclasses
import itertools
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.open import complete_preprocess, to_pixels
from mlvlab_jax.data.pack_index import (
    INDEX_FILE,
    BadImage,
    Encoding,
    PackedFile,
    PackedSplit,
    PackHead,
    PackIndex,
    Table,
    disk_errors,
    read_index,
    write_table,
)
from mlvlab_jax.data.pack_rows import Encoder, FileEncoder, PixelEncoder, Row
from mlvlab_jax.data.quarantine import BadExample, Quarantine
from mlvlab_jax.data.records import FileRecords
from mlvlab_jax.data.resize import check_filter
from mlvlab_jax.data.source import Mixed, OpenedData, Source, list_label_sets
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.files import exclusive_writer, sha256_file, write_atomic
from mlvlab_jax.plugins import SOURCES, Spec

_SHARD_BYTES = 128 * 2**20
#: Group size 1: a record is read without its neighbours. Image files do not compress, pixels hardly.
_WRITER_OPTIONS = "group_size:1,uncompressed"
#: Encoded at once by one thread; with two chunks a thread waiting, what bounds the memory.
_CHUNK_BYTES = 4 * 2**20
_MAX_CHUNK = 256
_MAX_THREADS = 8
_NUM_SAMPLES = 256
_UNFINISHED = ".unfinished"
_PLAN_FILE = "plan.json"


@configclass
class _ShardNote:
    """All there is to know of a finished shard."""

    shard: PackedFile
    rows: tuple[tuple[int, int, int, int, int], ...]
    """Label, index in the source, bytes, width and height of each example."""
    bad: tuple[BadImage, ...]


@dataclasses.dataclass(frozen=True)
class Progress:
    """Who is told how it goes on: the number of images of all splits, then how many more are done."""

    start: Callable[[int], None] = lambda total: None
    advance: Callable[[int], None] = lambda count: None


def pack(
    source: Spec,
    pipeline: PipelineConfig,
    *,
    folder: Path,
    encoding: Encoding | None = None,
    max_side: int | None = None,
    progress: Progress = Progress(),
) -> PackIndex:
    """Packs all splits of `source` into `folder`, or goes on packing.

    Args:
        source: What to pack.
        pipeline: Its preprocess makes raw pixels; its max_bad_fraction limits what may be left out.
        folder: New or empty, or where the same packing was interrupted.
        encoding: "keep" for the bytes of image files, "raw" for pixels; None for the first where there are files.
        max_side: Pixels the longer side of an image file is reduced to; None leaves files alone.
        progress: Told how it goes on.

    Raises:
        ConfigError: The source and the way of packing do not go together.
        DataError: `folder` holds something else, or too many images are unreadable.
        DiskError: A shard could not be written; what is finished is kept.
    """
    opened: OpenedData = SOURCES.build(source)
    head, encoders = _plan(opened, source.name, pipeline, encoding, max_side)
    if (folder / INDEX_FILE).exists():
        return _finished(folder, head)
    _claim(folder, head)
    sizes = {name: len(encoder) for name, encoder in encoders.items()}
    quarantine = Quarantine(None, sizes=sizes, max_bad_fraction=pipeline.max_bad_fraction)
    progress.start(sum(sizes.values()))
    with exclusive_writer(folder / _UNFINISHED), ThreadPoolExecutor(_num_threads()) as pool:
        splits = {}
        for name, encoder in encoders.items():
            stored = opened.splits[name]
            paths = stored.paths if isinstance(stored, FileRecords) else ()
            weights = opened.weights.get(name, np.empty(0))
            splits[name] = _SplitWriter(folder, name, encoder, paths, weights, pool, quarantine, progress).write()
        index = PackIndex(head=head, splits=splits)
        _write_json(folder / INDEX_FILE, index)
    shutil.rmtree(folder / _UNFINISHED)
    return index


def _num_threads() -> int:
    return min(os.cpu_count() or 1, _MAX_THREADS)


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, TypeAdapter(type(value)).dump_json(value, indent=1) + b"\n")


def _plan(
    opened: OpenedData, source: str, pipeline: PipelineConfig, encoding: Encoding | None, max_side: int | None
) -> tuple[PackHead, dict[str, Encoder]]:
    """The head of the index, and what makes the records of each split."""
    if any(isinstance(stored, Mixed) for stored in opened.splits.values()):
        raise ConfigError(f"source {source!r} mixes others; pack each of them, and mix the packs", path="data.name")
    holds_pixels = any(isinstance(stored, Source) for stored in opened.splits.values())
    encoding = encoding or ("raw" if holds_pixels else "keep")
    if encoding == "keep" and holds_pixels:
        raise ConfigError(f"--encode keep: source {source!r} holds pixels, no image files; use --encode raw")
    if encoding == "raw" and max_side is not None:
        raise ConfigError("--max-side is for image files; raw pixels take their size from pipeline.preprocess.size")
    image, preprocess = opened.image, None
    encoders: dict[str, Encoder] = {}
    if encoding == "raw":
        preprocess = complete_preprocess(pipeline.preprocess, opened, source)
        pixels = {
            name: to_pixels(stored, preprocess, max_bytes=0, place=source) for name, stored in opened.splits.items()
        }
        image = pixels["train"].spec
        encoders |= {name: PixelEncoder(source) for name, source in pixels.items()}
    for name, stored in opened.splits.items():
        if encoding == "keep" and not isinstance(stored, Source | Mixed):
            check_filter(pipeline.preprocess)
            encoders[name] = FileEncoder(stored, pipeline.preprocess, max_side=max_side)
    head = PackHead(
        encoding=encoding,
        max_side=max_side,
        image=image if max_side is None else None,
        preprocess=preprocess,
        class_names=tuple(opened.class_names),
        label_sets=list_label_sets(opened.label_sets),
        source=source,
        identity=dict(opened.identity),
    )
    return head, encoders


def _finished(folder: Path, head: PackHead) -> PackIndex:
    """The index of a pack that is there already, if it is this one."""
    index = read_index(folder)
    if index.head != head:
        raise DataError(f"{folder}: holds a pack of other data or made otherwise; choose another --out, or delete it")
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)
    return index


def _claim(folder: Path, head: PackHead) -> None:
    """Marks `folder` as the place of this packing.

    Raises:
        DataError: It is that of another, or holds other files.
    """
    plan = folder / _UNFINISHED / _PLAN_FILE
    if plan.exists():
        if plan.read_bytes() != TypeAdapter(PackHead).dump_json(head, indent=1) + b"\n":
            raise DataError(
                f"{folder}: holds an unfinished pack of other data or made otherwise; delete it, or choose "
                "another --out"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(path.name != _UNFINISHED for path in folder.iterdir())):
        raise DataError(f"{folder}: holds other files; choose a new folder for --out")
    try:
        _write_json(plan, head)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; choose a folder for --out that can be written") from None


@dataclasses.dataclass(frozen=True)
class _SplitWriter:
    """Writes one split; `paths` of its files and `weights` of its examples may be empty."""

    folder: Path
    name: str
    encoder: Encoder
    paths: Sequence[str]
    weights: np.ndarray
    pool: ThreadPoolExecutor
    quarantine: Quarantine
    progress: Progress

    def write(self) -> PackedSplit:
        """Writes the shards that are not there yet, then the table."""
        num_examples = len(self.encoder)
        samples = self.encoder.encode(np.unique(np.linspace(0, num_examples - 1, _NUM_SAMPLES).astype(np.int64)))
        mean_bytes = max(1.0, sum(len(row.data) for row in samples) / len(samples))
        num_shards = max(1, math.ceil(num_examples * mean_bytes / _SHARD_BYTES))
        chunk = min(max(1, int(_CHUNK_BYTES / mean_bytes)), _MAX_CHUNK)
        notes = []
        for number, ids in enumerate(np.array_split(np.arange(num_examples), num_shards)):
            path = self.folder / f"{self.name}-{number:05d}-of-{num_shards:05d}.arrayrecord"
            note = self._read_note(path)
            if note is None:
                note = self._write_shard(path, ids, chunk)
            else:
                self.progress.advance(len(ids))
            self.quarantine.add([BadExample(self.name, b.id, self.encoder.name(b.id), b.reason) for b in note.bad])
            notes.append(note)
        table = self._make_table(notes)
        return PackedSplit(
            num_examples=len(table.labels),
            table=write_table(self.folder / f"{self.name}-index.npz", table),
            shards=tuple(note.shard for note in notes),
            bad=tuple(itertools.chain.from_iterable(note.bad for note in notes)),
        )

    def _path(self, index: int) -> str:
        return self.paths[index] if self.paths else ""

    def _note_path(self, shard: Path) -> Path:
        return self.folder / _UNFINISHED / f"{shard.name}.json"

    def _read_note(self, shard: Path) -> _ShardNote | None:
        """The note of a shard that an earlier start finished; None where it is not there as noted."""
        try:
            note = TypeAdapter(_ShardNote).validate_json(self._note_path(shard).read_bytes())
            return note if sha256_file(shard) == note.shard.sha256 else None
        except (OSError, ValidationError):
            return None

    def _write_shard(self, shard: Path, ids: np.ndarray, chunk: int) -> _ShardNote:
        from array_record.python.array_record_module import ArrayRecordWriter

        temporary = self.folder / _UNFINISHED / f"{shard.name}.tmp"
        rows: list[tuple[int, int, int, int, int]] = []
        bad: list[BadImage] = []
        with disk_errors(temporary):
            writer = ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
        for encoded in self._encode_ahead(np.array_split(ids, max(1, math.ceil(len(ids) / chunk)))):
            with disk_errors(temporary):
                for row in encoded:
                    if row.problem:
                        bad.append(BadImage(id=row.id, name=self._path(row.id), reason=row.problem))
                    else:
                        writer.write(row.data)
                        rows.append((row.label, row.id, len(row.data), row.width, row.height))
            self.progress.advance(len(encoded))
        with disk_errors(temporary):
            writer.close()
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            size, sha256 = temporary.stat().st_size, sha256_file(temporary)
            temporary.replace(shard)
            packed = PackedFile(file=shard.name, num_examples=len(rows), num_bytes=size, sha256=sha256)
            note = _ShardNote(shard=packed, rows=tuple(rows), bad=tuple(bad))
            _write_json(self._note_path(shard), note)
        return note

    def _encode_ahead(self, chunks: Sequence[np.ndarray]) -> Iterator[list[Row]]:
        """Rows of the chunks in order, two chunks a thread ahead."""
        ahead: deque[Future[list[Row]]] = deque()
        for ids in chunks:
            if len(ahead) == 2 * _num_threads():
                yield ahead.popleft().result()
            ahead.append(self.pool.submit(self.encoder.encode, ids))
        while ahead:
            yield ahead.popleft().result()

    def _make_table(self, notes: Sequence[_ShardNote]) -> Table:
        rows = np.array([row for note in notes for row in note.rows], np.int64).reshape(-1, 5)
        labels, ids, num_bytes, width, height = rows.T
        names = np.array([os.fsencode(self.paths[index]) for index in ids] if self.paths else [], np.bytes_)
        weights = self.weights[ids] if len(self.weights) else self.weights
        return Table(labels, ids, num_bytes, width.astype(np.int32), height.astype(np.int32), names, weights)
