"""A thread that does small things once a second, whatever the run is busy with."""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType


class Heartbeat:
    """Calls functions in turn, at once and then at each interval, until the block ends.

    Args:
        calls: Short ones, that raise nothing.
        interval_s: Seconds from the end of one round to the start of the next.
    """

    def __init__(self, calls: Sequence[Callable[[], None]], *, interval_s: float = 1.0) -> None:
        self._calls = calls
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        while True:
            for call in self._calls:
                call()
            if self._stopped.wait(self._interval_s):
                return
