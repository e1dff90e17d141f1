"""Delivery: one thread that carries a journal to its store, in order, and tries again for as long as it takes."""

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mlvlab_jax.tracking.lasting import LastingFile

_log = logging.getLogger(__name__)

_PIECE_BYTES = 2**18
_FIRST_RETRY_S, _LAST_RETRY_S = 0.25, 5.0
#: Processor seconds that deliveries, and attempts at one, take of a second at most, so that Python's lock stays with
#: the training loop.
_SHARE = 0.02


class Store(Protocol):
    """Where a journal is delivered to. Delivering a piece again must change nothing."""

    def connect(self) -> int:
        """Reaches the store, and gives the length of the journal that it has."""

    def lost(self) -> bool:
        """Whether what was reached by `connect` is no longer there."""

    def deliver(self, records: Sequence[Mapping[str, Any]], *, end: int) -> None:
        """Takes records, and that the journal up to `end` has been taken with them."""


class Delivery:
    """Carries what is in `journal`, and what comes, to `store`.

    Args:
        journal: Lines of JSON; others append to it.
        store: Where to. Any exception of it means: not now.
        interval_s: Seconds between two deliveries; what comes in between goes as one.
    """

    def __init__(self, journal: LastingFile, store: Store, *, interval_s: float) -> None:
        self._journal = journal
        self._store = store
        self._interval_s = interval_s
        self._position: int | None = None
        self._error: Exception | None = None
        self._hurry = threading.Event()
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlvlab-delivery", daemon=True)
        self._thread.start()

    def finish(self, *, timeout_s: float) -> Exception | str | None:
        """Delivers the rest, for at most `timeout_s`; gives None when all is delivered, else what is in the way."""
        self._hurry.set()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return None
        self._given_up.set()
        return self._error or "there was not enough time"

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        while not self._given_up.is_set():
            started_s = time.thread_time()
            is_last_look = self._hurry.is_set()  # before looking: what was written meanwhile is looked for once more
            try:
                pause_s = self._deliver_piece()
            except Exception as error:  # noqa: BLE001 - the store may fail in every way, and training goes on
                if self._error is None:
                    _log.warning("tracking waits for its store, and training does not: %s", _first_line(error))
                self._error, self._position = error, None
                self._wait_to_retry(retry_s, time.thread_time() - started_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
                continue
            if self._error is not None:
                _log.warning("tracking has its store again")
            self._error, retry_s = None, _FIRST_RETRY_S
            if pause_s is None and is_last_look:
                return
            self._hurry.wait(self._interval_s if pause_s is None else pause_s)

    def _wait_to_retry(self, retry_s: float, spent_s: float) -> None:
        if self._hurry.is_set():
            self._given_up.wait(retry_s)
        else:
            self._hurry.wait(max(retry_s, spent_s / _SHARE))

    def _deliver_piece(self) -> float | None:
        """Delivers the next piece of the journal, and gives the seconds to wait then; None where none is left."""
        if self._position is None or self._store.lost():
            self._position = None
            self._position = self._store.connect()
        if self._given_up.is_set():
            return None
        self._journal.flush()
        piece = self._next_piece(self._position)
        if not piece:
            return None
        self._journal.sync()
        started_s = time.thread_time()
        self._store.deliver([json.loads(line) for line in piece.splitlines()], end=self._position + len(piece))
        self._position += len(piece)
        return (time.thread_time() - started_s) / _SHARE

    def _next_piece(self, position: int) -> bytes:
        """Whole lines from `position` on."""
        size = _PIECE_BYTES
        while True:
            read = self._journal.read(position, size)
            whole = read[: read.rfind(b"\n") + 1]
            if whole or len(read) < size:
                return whole
            size *= 2


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
