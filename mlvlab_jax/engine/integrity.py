"""Whether a folder of files is still what was written: integrity.json in it, size and SHA-256 of every other file."""

import hashlib
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mlvlab_jax.files import write_json

NAME = "integrity.json"
#: Raised with every change to what lies in a checkpoint that an older version would read wrongly.
_FORMAT = 2
#: Of each format: files are digested in pieces of so many bytes, by several threads; the first had them whole.
_PIECE_BYTES = {1: sys.maxsize, 2: 2**23}
_BLOCK_BYTES = 2**20
_MISSING = "missing; the save was cut off"
_NUM_THREADS, _SHOWN = 8, 5


class FileRecord(NamedTuple):
    """size: in bytes. sha256: hex, of the bytes; of the digests of the pieces where there are several."""

    size: int
    sha256: str


def seal(folder: Path) -> None:
    """Writes integrity.json, atomically; `folder` must be complete."""
    content: dict[str, Any] = {"format": _FORMAT, "files": measure_files(folder, piece_bytes=_PIECE_BYTES[_FORMAT])}
    write_json(folder / NAME, {**content, "sha256": _digest(content)})


def find_damage(folder: Path) -> list[str]:
    """What is not as it was sealed, a line each with the file's path below `folder`; empty where all is as it was."""
    try:
        sealed = _read_seal(folder / NAME)
        if isinstance(sealed, str):
            return [f"{NAME}: {sealed}"]
        if sealed["format"] > _FORMAT:
            return [f"{NAME}: {_describe_newer(sealed)}"]
        recorded = {name: FileRecord(*record) for name, record in sealed["files"].items()}
        return [*_compare(recorded, measure_files(folder, piece_bytes=_PIECE_BYTES[sealed["format"]]))]
    except OSError as error:
        place = Path(error.filename).relative_to(folder) if error.filename else "."
        return [f"{place}: cannot be read: {error.strerror or error}"]


def find_newer(folder: Path) -> str | None:
    """That what is sealed is of a format that is not known yet, in words; None where it is known, or damaged."""
    try:
        sealed = _read_seal(folder / NAME)
    except OSError:
        return None
    return _describe_newer(sealed) if isinstance(sealed, dict) and sealed["format"] > _FORMAT else None


def is_cut_off(damage: list[str]) -> bool:
    """Whether `find_damage` found a folder that was never sealed."""
    return damage == [f"{NAME}: {_MISSING}"]


def _read_seal(path: Path) -> dict[str, Any] | str:
    """What integrity.json holds, or what is wrong with it."""
    if not path.is_file():
        return _MISSING
    data = path.read_bytes()
    try:
        sealed = json.loads(data)
        whole = sealed.pop("sha256") == _digest(sealed) and data.endswith(b"\n")
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    return sealed if whole else "damaged itself"


def _describe_newer(sealed: Mapping[str, Any]) -> str:
    return f"written by a newer mlvlab_jax, format {sealed['format']}; known here is {_FORMAT}; upgrade mlvlab_jax"


def summarise(damage: list[str]) -> str:
    """The first few lines of what `find_damage` found, and how many more there are."""
    more = [f"and {len(damage) - _SHOWN} more"] if len(damage) > _SHOWN else []
    return "; ".join([*damage[:_SHOWN], *more])


def measure_files(folder: Path, *, piece_bytes: int) -> dict[str, FileRecord]:
    """Size and digest of every file below `folder` but its own integrity.json, by its path there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    sizes = {path: path.stat().st_size for path in paths}
    pieces = [(path, first) for path in paths for first in range(0, max(1, sizes[path]), piece_bytes)]
    digests: dict[Path, list[bytes]] = {path: [] for path in paths}
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(lambda piece: _digest_piece(piece[0], piece[1], piece_bytes), pieces)
        for (path, _), digest in zip(pieces, found, strict=True):
            digests[path].append(digest)
    return {str(path.relative_to(folder)): FileRecord(sizes[path], _join(digests[path])) for path in paths}


def _digest_piece(path: Path, first: int, num_bytes: int) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(first)
        while num_bytes > 0 and (block := file.read(min(num_bytes, _BLOCK_BYTES))):
            digest.update(block)
            num_bytes -= len(block)
    return digest.digest()


def _join(digests: list[bytes]) -> str:
    return (digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()).hex()


def _compare(recorded: Mapping[str, FileRecord], found: Mapping[str, FileRecord]) -> list[str]:
    lines = []
    for name in sorted({*recorded, *found}):
        if name not in found:
            lines.append(f"{name}: missing")
        elif name not in recorded:
            lines.append(f"{name}: was not there when it was saved")
        elif found[name].size != recorded[name].size:
            lines.append(f"{name}: {found[name].size} bytes, expected {recorded[name].size}")
        elif found[name] != recorded[name]:
            lines.append(f"{name}: other bytes than were saved")
    return lines


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
