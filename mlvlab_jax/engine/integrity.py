"""Whether a folder of files is still what was written: integrity.json in it, size and digest of every other file."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from mlvlab_jax.files import write_json

NAME = "integrity.json"
#: Raised with every change to what lies in a checkpoint that an older version would read wrongly.
_FORMAT = 3
_BLOCK_BYTES = 2**20
_MISSING = "missing; the save was cut off"
_NUM_THREADS, _SHOWN = 8, 5


class FileRecord(NamedTuple):
    """size: in bytes. digest: hex, of the bytes; of the digests of the pieces where there are several."""

    size: int
    digest: str


class Form(NamedTuple):
    """How a format digests files: in pieces of so many bytes, by several threads; with what."""

    piece_bytes: int
    new: Callable[..., Any]


#: By format. Digests tell what went wrong, not who did it: XXH3, of 128 bits, is as fast as memory, SHA-256 takes
#: longer than the restore can spare.
FORMS = {
    1: Form(sys.maxsize, hashlib.sha256),
    2: Form(2**23, hashlib.sha256),
    3: Form(2**23, xxhash.xxh3_128),
}


def seal(folder: Path) -> None:
    """Writes integrity.json, atomically; `folder` must be complete."""
    content: dict[str, Any] = {"format": _FORMAT, "files": measure_files(folder, FORMS[_FORMAT])}
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
        return [*_compare(recorded, measure_files(folder, FORMS[sealed["format"]]))]
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


def measure_files(folder: Path, form: Form) -> dict[str, FileRecord]:
    """Size and digest of every file below `folder` but its own integrity.json, by its path there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / NAME)
    sizes = {path: path.stat().st_size for path in paths}
    pieces = [(path, first) for path in paths for first in range(0, max(1, sizes[path]), form.piece_bytes)]
    digests: dict[Path, list[bytes]] = {path: [] for path in paths}
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(lambda piece: _digest_piece(piece[0], piece[1], form), pieces)
        for (path, _), digest in zip(pieces, found, strict=True):
            digests[path].append(digest)
    return {str(path.relative_to(folder)): FileRecord(sizes[path], _join(digests[path], form)) for path in paths}


def _digest_piece(path: Path, first: int, form: Form) -> bytes:
    digest, num_bytes = form.new(), form.piece_bytes
    with path.open("rb", buffering=0) as file:
        file.seek(first)
        while num_bytes > 0 and (block := file.read(min(num_bytes, _BLOCK_BYTES))):
            digest.update(block)
            num_bytes -= len(block)
    found: bytes = digest.digest()
    return found


def _join(digests: list[bytes], form: Form) -> str:
    whole: bytes = digests[0] if len(digests) == 1 else form.new(b"".join(digests)).digest()
    return whole.hex()


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
