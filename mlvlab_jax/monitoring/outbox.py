"""Alerts that stand, and messages of alerts that wait to be sent; both outlast the process where there is a file."""

import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlvlab_jax.errors import DataError
from mlvlab_jax.files import write_json

_log = logging.getLogger(__name__)


class Alert(NamedTuple):
    """An alert that stands, or that ended. starts_at, ends_at: ISO 8601; ends_at is None while it stands."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: str
    ends_at: str | None = None

    @property
    def fingerprint(self) -> str:
        """16 hex digits that are the same for the same labels: two messages with it are about one alert."""
        return hashlib.sha256(json.dumps(sorted(self.labels.items())).encode()).hexdigest()[:16]


class Outbox:
    """Standing alerts, and messages in the order they were put. Threads may share it; no call waits for the network.

    Args:
        path: JSON file that keeps both; None: they last as long as the process.
        max_pending: Messages that may wait; beyond, the oldest is dropped.

    Raises:
        DataError: The file was written by something else.
    """

    def __init__(self, path: Path | None, *, max_pending: int) -> None:
        self._path = path
        self._max_pending = max_pending
        self._lock = threading.Lock()
        self._standing: dict[str, Alert] = {}
        self._pending: list[Alert] = []
        if path is not None and path.exists():
            self._read(path)

    @property
    def standing(self) -> tuple[Alert, ...]:
        """Alerts that were put and did not end."""
        return tuple(self._standing.values())

    @property
    def num_pending(self) -> int:
        """Messages that wait."""
        return len(self._pending)

    def put(self, alert: Alert) -> int:
        """Adds a message, unless it starts an alert that stands or ends one that does not; gives how many it dropped.

        It is on the disk on return.
        """
        with self._lock:
            if (alert.ends_at is None) == (alert.fingerprint in self._standing):
                return 0
            if alert.ends_at is None:
                self._standing[alert.fingerprint] = alert
            else:
                del self._standing[alert.fingerprint]
            self._pending.append(alert)
            num_dropped = max(0, len(self._pending) - self._max_pending)
            del self._pending[:num_dropped]
            self._write()
            return num_dropped

    def first(self) -> Alert | None:
        """The message that waits longest."""
        with self._lock:
            return self._pending[0] if self._pending else None

    def remove(self, alert: Alert) -> None:
        """Takes the message away, if it was not dropped meanwhile."""
        with self._lock:
            if self._pending and self._pending[0] is alert:
                del self._pending[0]
                self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        alerts = {"standing": self._standing.values(), "pending": self._pending}
        try:
            write_json(self._path, {name: [alert._asdict() for alert in those] for name, those in alerts.items()})
        except OSError as error:
            _log.warning("%s cannot be written (%s); alerts would not outlast this process", self._path, error)

    def _read(self, path: Path) -> None:
        try:
            tree: dict[str, Any] = json.loads(path.read_bytes())
            standing, pending = ([Alert(**each) for each in tree[name]] for name in ("standing", "pending"))
            self._standing = {alert.fingerprint: alert for alert in standing}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not alerts ({error}); expected the file of a monitor; move it away") from None
        self._pending = pending[-self._max_pending :]
