"""Files of one JSON object a line, which grow at their end and are cut at their beginning."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlvlab_jax.errors import DataError
from mlvlab_jax.files import write_atomic


class LinesFile:
    """Records with `keys`: the newest `keep`, and up to a tenth more between two cuts. Needs to be the only writer.

    Raises:
        DataError: There is such a file with other things in it.
    """

    def __init__(self, path: Path, *, keep: int, keys: Sequence[str] = ()) -> None:
        self._path = path
        self._keys = frozenset(keys)
        self._keep = keep
        self._num = len(self.read())

    def read(self) -> list[dict[str, Any]]:
        """All records, the oldest first; a last line without its end, which a crash left, does not count."""
        try:
            *lines, _ = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        return [self._parse(line, number) for number, line in enumerate(lines, 1)]

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds records, which the disk has on return."""
        data = b"".join(json.dumps(record, allow_nan=False).encode() + b"\n" for record in records)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab+") as file:
            _cut_torn_line(file.fileno())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._num += len(records)
        if self._num > self._keep + self._keep // 10:
            kept = self._path.read_bytes().splitlines(keepends=True)[-self._keep :]
            write_atomic(self._path, b"".join(kept))
            self._num = len(kept)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not self._keys <= record.keys():
            wanted = " with " + ", ".join(sorted(self._keys)) if self._keys else ""
            raise DataError(f"{self._path}:{number}: not a JSON object{wanted}; move the file away and start again")
        return record


def _cut_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.ftruncate(descriptor, os.pread(descriptor, size, 0).rfind(b"\n") + 1)
