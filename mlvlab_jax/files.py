"""Files that are either whole or not there, their digests, and the lock that gives a run folder one writer."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mlvlab_jax.errors import DiskError, RunFolderError

#: With which the system says that a disk takes no more, or nothing at all.
DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` so that a reader, or a crash at any moment, sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = str(path)  # a write that fails does not say which file it was of
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file at `path`, waiting for whoever holds it; the system drops it if the process dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def exclusive_writer(folder: Path, *, option: str = "--workdir") -> Iterator[None]:
    """Holds the writer's lock of `folder` for the duration of the block; the system drops it if the process dies.

    Args:
        folder: Made if it is not there.
        option: What named it, for the message.

    Raises:
        DiskError: The folder cannot be made or written.
        RunFolderError: Another live process holds it; the message names that process and its host.
    """
    with _open_lock(folder, option) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "an unnamed process"
            raise RunFolderError(
                f"{folder}: the folder is being written by {owner}; "
                f"expected no other writer; wait for it, stop it, or give another {option}"
            ) from None
        try:
            file.truncate(0)
            os.write(file.fileno(), f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as error:
            raise _cannot_write(folder, error, option) from error
        yield


def _open_lock(folder: Path, option: str) -> TextIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / "run.lock").open("a+")
    except OSError as error:
        raise _cannot_write(folder, error, option) from error


def _cannot_write(folder: Path, error: OSError, option: str) -> DiskError:
    return DiskError(
        f"{folder}: cannot be written: {error.strerror}; expected a folder of your own with room in it; free some "
        f"space, or give another {option}"
    )
