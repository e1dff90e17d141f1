"""Being asked to stop: by a signal to any process of a run, and heard by all of them after the same step."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

from mlvlab_jax.engine.distributed import gather, is_joined

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
#: How often processes ask each other, and the most steps that they let pass in between.
_INTERVAL_S, _MOST_STEPS = 0.5, 1000


class StopSignals:
    """SIGINT and SIGTERM, while the block runs: the first is remembered in `asked`, the second ends the process.

    The second is heard by a thread, so that it ends the process at once though the main thread waits for a device or
    for a process that is gone; nothing is tidied up then, and the last committed checkpoint stays. Outside the main
    thread, which alone is told of signals, this does nothing.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "StopSignals":
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._heard, self._written = socket.socketpair()
            self._written.setblocking(False)
            self._before = {number: signal.signal(number, lambda number, frame: None) for number in _NUMBERS}
            self._wakeup = signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._written.close()  # which ends the thread
            self._thread.join()
            self._heard.close()

    def _listen(self) -> None:
        while byte := self._heard.recv(1):
            if byte[0] not in _NUMBERS:
                continue
            if self.asked:
                os._exit(128 + byte[0])
            self.asked = True


class AgreedStop:
    """Whether any process of the run was asked to stop: the same answer in all of them at the same step.

    They ask each other every half second, at steps that follow from the time the first one measured. Called after each
    step, or dispatch of steps, by all.

    Args:
        asked: Whether this process was asked.
    """

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked
        self._step, self._at, self._next = 0, time.monotonic(), 0

    def __call__(self, step: int) -> bool:
        """True after the last step to be made."""
        if not is_joined():
            return self._asked()
        if step < self._next:
            return False
        answers = gather([self._asked(), time.monotonic() - self._at])
        seconds = answers[0][1] / max(1, step - self._step)
        self._next = step + min(_MOST_STEPS, max(1, int(_INTERVAL_S / max(seconds, 1e-6))))
        self._step, self._at = step, time.monotonic()
        return any(asked for asked, _ in answers)
