"""Recorded requests: a bounded sample of what was asked, on disk, to be replayed through another version.

One file a request, FOLDER/2026-11-23/073221.123456-HASH.request: a line of JSON, then the body as it came. So
`head -n 1 FILE` shows what was answered and `tail -n +2 FILE` is the picture. FOLDER/classes-HASH.json holds the class
names that the probabilities are in the order of. Nothing of headers, addresses or tokens is kept but the content type.
"""

import contextlib
import datetime
import hashlib
import json
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlvlab_jax.config.monitoring import RecordingConfig
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.files import write_atomic

_log = logging.getLogger(__name__)

#: Bytes of requests that may wait for the disk, and those each takes beside its body.
_MAX_PENDING_BYTES, _OVERHEAD_BYTES = 64 * 2**20, 4096
#: Seconds between two looks at the folder, and after which a half-written file is one of a crash.
_SWEEP_S = 3600.0
#: Under the folder; sorts by time.
_TIME_FORMAT = "%Y-%m-%d/%H%M%S.%f"
_FILES = "????-??-??/*.request"


class RecordedRequest(NamedTuple):
    """A request of /v1/classify and its answer.

    time_s: of the answer, seconds since 1970. model and version: that answered. probabilities: calibrated, float32 (k),
    in the order of `class_names`.
    """

    request_id: str
    time_s: float
    content_type: str
    model: str
    version: str
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    body: bytes


class Recorder:
    """Writes a sample of requests into a folder, in a thread of its own.

    The folder is private to the user (0700) and meant for one server: it keeps to `max_mib` what it wrote and found,
    and sees what others write there only once an hour.

    Args:
        config: Its `folder` is not None.
        model: Name of the model that answers.
        version: Of the model, until `switch` gives another.
        class_names: Of the probabilities, likewise.

    Raises:
        ConfigError: No folder, or one that cannot be made private.
    """

    def __init__(self, config: RecordingConfig, *, model: str, version: str, class_names: Sequence[str]) -> None:
        self.dropped = 0
        """Requests of the sample that were not written: the disk too slow or full, the body too large."""
        self._config = config
        self._model = model
        self._answering = (version, tuple(class_names))
        self._folder = _open_private(config.folder)
        self._max_bytes = config.max_mib * 2**20
        self._kept: deque[tuple[Path, int]] = deque()
        self._kept_bytes = self._pending_bytes = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[RecordedRequest | None] = queue.SimpleQueue()
        self._sweep()
        self._thread = threading.Thread(target=self._run, name="mlvlab-recorder", daemon=True)
        self._thread.start()

    def switch(self, *, version: str, class_names: Sequence[str]) -> None:
        """From here on another version answers."""
        self._answering = (version, tuple(class_names))

    def record(self, request_id: str, content_type: str, body: bytes, probabilities: np.ndarray) -> None:
        """Keeps the request if its id is in the sample; never waits, and drops and counts what it has no room for.

        Args:
            request_id: Decides, by its hash, whether the request is in the sample.
            content_type: Of the body.
            body: As it came.
            probabilities: Calibrated, float32 (k).
        """
        if not is_sampled(request_id, share=self._config.share):
            return
        version, class_names = self._answering
        with self._lock:
            size = _cost(body)
            fits = self._pending_bytes + size <= _MAX_PENDING_BYTES and len(probabilities) == len(class_names)
            if not fits:
                self.dropped += 1
                return
            self._pending_bytes += size
        kind = content_type.partition(";")[0].strip()[:100]
        self._queue.put(
            RecordedRequest(request_id, time.time(), kind, self._model, version, class_names, probabilities, body)
        )

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Writes what waits, for at most `timeout_s`."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        swept_s = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                request = self._queue.get(timeout=max(0.0, swept_s + _SWEEP_S - time.monotonic()))
                if request is None:
                    return
                self._attempt(request)
            if time.monotonic() >= swept_s + _SWEEP_S:
                swept_s = time.monotonic()
                self._attempt(None)

    def _attempt(self, request: RecordedRequest | None) -> None:
        """Writes `request`, or looks at the folder; what the disk refuses is said once, and the server goes on."""
        try:
            written = self._write(request) if request else self._sweep()
        except OSError as error:
            written = False
            if self.dropped == 0:
                _log.warning("%s: requests are not recorded, and the server goes on: %s", self._folder, error)
        with self._lock:
            self.dropped += not written
            self._pending_bytes -= _cost(request.body) if request else 0

    def _write(self, request: RecordedRequest) -> bool:
        classes = json.dumps(request.class_names).encode()
        digest = hashlib.sha256(classes).hexdigest()[:16]
        data = _render(request, classes=digest)
        if len(data) > self._max_bytes:
            return False
        self._evict(room=len(data))
        names, path = self._folder / f"classes-{digest}.json", self._folder / _name(request)
        if not names.exists():
            write_atomic(names, classes)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, data)
        self._kept.append((path, len(data)))
        self._kept_bytes += len(data)
        return True

    def _evict(self, *, room: int) -> None:
        """Removes the oldest until `room` more bytes fit."""
        while self._kept and self._kept_bytes + room > self._max_bytes:
            path, size = self._kept.popleft()
            path.unlink(missing_ok=True)
            self._kept_bytes -= size

    def _sweep(self) -> bool:
        """Looks at the folder anew, and removes what is too old, too much, or left half written by a crash."""
        oldest_s = time.time() - self._config.keep_days * 86400
        self._kept.clear()
        for path in _list(self._folder):
            if path.relative_to(self._folder).as_posix() < _format_time(oldest_s):
                path.unlink(missing_ok=True)
            else:
                self._kept.append((path, path.stat().st_size))
        self._kept_bytes = sum(size for _, size in self._kept)
        self._evict(room=0)
        for path in self._folder.rglob(".*.tmp"):
            if path.stat().st_mtime < time.time() - _SWEEP_S:
                path.unlink(missing_ok=True)
        for day in self._folder.glob("????-??-??"):
            with contextlib.suppress(OSError):  # it is not empty
                day.rmdir()
        return True


def is_sampled(request_id: str, *, share: float) -> bool:
    """Whether a request is in the sample of this share: always the same answer for the same id."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8]) < share * 2**64


def read_recorded(folder: Path, *, limit: int | None = None) -> Iterator[RecordedRequest]:
    """Recorded requests, the oldest first; those that a running server removes meanwhile are left out.

    Args:
        folder: Of a recorder.
        limit: Only the newest so many; None: all.

    Raises:
        DataError: No such folder, nothing recorded in it, or a file that is not whole.
    """
    paths = _list(folder)
    if not paths:
        raise DataError(f"{folder}: no recorded requests; expected files {_FILES}; give the server's recording.folder")
    return _read(paths[-limit:] if limit else paths, folder=folder)


def _read(paths: Sequence[Path], *, folder: Path) -> Iterator[RecordedRequest]:
    class_names: dict[str, tuple[str, ...]] = {}
    for path in paths:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        yield _parse(data, path=path, folder=folder, class_names=class_names)


def _parse(data: bytes, *, path: Path, folder: Path, class_names: dict[str, tuple[str, ...]]) -> RecordedRequest:
    head, _, body = data.partition(b"\n")
    try:
        tree = json.loads(head)
        if tree["bytes"] != len(body):
            raise ValueError(f"its body is of {len(body)} bytes")
        digest = tree["classes"]
        if digest not in class_names:
            class_names[digest] = tuple(json.loads((folder / f"classes-{digest}.json").read_bytes()))
        request = RecordedRequest(
            request_id=tree["request_id"],
            time_s=datetime.datetime.fromisoformat(tree["time"]).timestamp(),
            content_type=tree["content_type"],
            model=tree["model"],
            version=tree["version"],
            class_names=class_names[digest],
            probabilities=np.array(tree["probabilities"], np.float32),
            body=body,
        )
        if request.probabilities.shape != (len(request.class_names),):
            raise ValueError(f"{request.probabilities.shape} probabilities of {len(request.class_names)} classes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a whole recorded request ({error!r}); remove it") from None
    return request


def _render(request: RecordedRequest, *, classes: str) -> bytes:
    head = {
        "request_id": request.request_id,
        "time": datetime.datetime.fromtimestamp(request.time_s, datetime.UTC).isoformat(),
        "content_type": request.content_type,
        "model": request.model,
        "version": request.version,
        "classes": classes,
        "bytes": len(request.body),
        # As few digits as give the same float32 again.
        "probabilities": [float(str(value)) for value in np.asarray(request.probabilities, np.float32)],
    }
    return json.dumps(head).encode() + b"\n" + request.body


def _name(request: RecordedRequest) -> str:
    """Under the folder. The id itself may be the client's and is no file name."""
    return f"{_format_time(request.time_s)}-{hashlib.sha256(request.request_id.encode()).hexdigest()[:16]}.request"


def _format_time(time_s: float) -> str:
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).strftime(_TIME_FORMAT)


def _list(folder: Path) -> list[Path]:
    return sorted(folder.glob(_FILES))


def _cost(body: bytes) -> int:
    return len(body) + _OVERHEAD_BYTES


def _open_private(folder: str | None) -> Path:
    if folder is None:
        raise ConfigError("null: a recorder needs a folder; give one", path="recording.folder")
    path = Path(folder)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"{path}: not a folder of this user ({error.strerror}); expected one that can be made private (0700); "
            "give another",
            path="recording.folder",
        ) from None
    return path
