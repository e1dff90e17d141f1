"""Files that are only added to, and outlast what happens to them: deletion, a full disk, a read-only one."""

import logging
import os
import threading
from pathlib import Path

from mlvlab_jax.files import write_atomic

_log = logging.getLogger(__name__)


class LastingFile:
    """What is appended is in the file at once, or waits in memory, in order, until it can be.

    A file that is deleted is put back with all it held; one that another file replaced is gone on with. Nothing but
    `close` raises for the state of the disk. Threads may share it.

    Args:
        path: The file; it and its folder are made on first use.
        max_waiting_bytes: What may wait in memory; appends beyond it are lost, each as a whole, and counted.
    """

    def __init__(self, path: Path, *, max_waiting_bytes: int = 64 * 2**20) -> None:
        self.path = path
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting = bytearray()
        self._num_lost = 0
        self._error: OSError | None = None
        self._fd: int | None = None
        self._lock = threading.Lock()

    def append(self, data: bytes) -> None:
        """Adds `data` at the end. It is in the system's hands on return: a process killed now loses none of it."""
        with self._lock:
            if len(self._waiting) + len(data) > self._max_waiting_bytes:
                self._num_lost += 1
            else:
                self._waiting += data
            self._write()

    def flush(self) -> None:
        """Tries again to write what waits, and puts the file back where it was deleted."""
        with self._lock:
            self._write()

    def read(self, offset: int, num_bytes: int) -> bytes:
        """At most `num_bytes` from `offset` on; b"" at the end of what could be written so far."""
        with self._lock:
            return b"" if self._fd is None else os.pread(self._fd, num_bytes, offset)

    def sync(self) -> None:
        """Waits until the disk has what was written, which a crash of the machine then does not lose."""
        with self._lock:
            fd = None if self._fd is None else os.dup(self._fd)
        if fd is not None:
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Closes the file.

        Raises:
            OSError: Something could not be written, now or earlier.
        """
        with self._lock:
            self._write()
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            if self._waiting or self._num_lost:
                lost = f" and {self._num_lost} records before it" if self._num_lost else ""
                raise OSError(f"{self.path}: {len(self._waiting)} bytes{lost} are lost: {self._error}")

    def _write(self) -> None:
        try:
            fd = self._reach()
            while self._waiting:
                del self._waiting[: os.write(fd, self._waiting)]
        except OSError as error:
            if self._error is None:
                _log.warning("%s cannot be written (%s); new records wait in memory until it can", self.path, error)
            self._error = error
        else:
            if self._error is not None and not self._num_lost:
                _log.warning("%s can be written again, and has what waited", self.path)
                self._error = None

    def _reach(self) -> int:
        """The descriptor of the file that is now at the path."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._fd is not None:
                write_atomic(self.path, _read_all(self._fd))
        else:
            if self._fd is not None and os.path.samestat(there, os.fstat(self._fd)):
                return self._fd
        opened = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if self._fd is not None:
            os.close(self._fd)
        self._fd = opened
        return opened


def _read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)
