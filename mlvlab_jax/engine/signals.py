"""Being asked to stop: by a signal to any process of a run, and heard by all of them after the same step."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from mlvlab_jax.engine.distributed import gather, is_joined

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
#: How often processes ask each other, and the most calls that they let pass in between.
_INTERVAL_S, _MOST_CALLS = 0.5, 1000


class StopRequested(BaseException):
    """The run was asked to stop, and this is a place to break off at; no error, and not to be handled as one."""


def break_off_if(asked: bool) -> None:
    """Raises StopRequested if `asked`."""
    if asked:
        raise StopRequested


class StopSignals:
    """SIGINT and SIGTERM, while the block runs: the first is remembered in `asked`, the second ends the process.

    The second is heard by a thread, so that it ends the process at once though the main thread waits for a device or
    for a process that is gone; nothing is tidied up then, and the last committed checkpoint stays. Outside the main
    thread, which alone is told of signals, this does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._heard_one = self._told = self._breakable = False

    def ask(self) -> None:
        """Asks without a signal; the first signal after it, which platforms send soon, does not end the process."""
        self.asked = True

    @contextlib.contextmanager
    def breakable(self) -> Iterator[None]:
        """A first signal breaks the block off, or has done so before it began, in a process that is alone.

        For waiting that changes nothing: for data, or for a compilation. Of several processes none may leave the
        others in the middle of a step.

        Raises:
            StopRequested: There was a signal.
        """
        self._breakable = not is_joined()
        try:
            if self._told and self._breakable:
                raise StopRequested
            yield
        finally:
            self._breakable = False

    def __enter__(self) -> "StopSignals":
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._heard, self._written = socket.socketpair()
            self._written.setblocking(False)
            self._before = {number: signal.signal(number, self._tell) for number in _NUMBERS}
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

    def _tell(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, whenever that hears of the signal."""
        self._told = True
        if self._breakable:
            self._breakable = False
            raise StopRequested

    def _listen(self) -> None:
        while byte := self._heard.recv(1):
            if byte[0] not in _NUMBERS:
                continue
            if self._heard_one:
                os._exit(128 + byte[0])
            self._heard_one = self.asked = True


class AgreedStop:
    """Whether any process of the run was asked to stop: the same answer in all of them at the same call.

    They ask each other every half second, at calls that follow from the time the first one measured. Called by all
    after each step, or dispatch of steps, and again with the same number where an evaluation can be broken off.

    Args:
        asked: Whether this process was asked.
    """

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked
        self._step, self._repeats = -1, False
        self._calls = self._wait = 0
        self._at = time.monotonic()

    def __call__(self, step: int) -> bool:
        """True after the last step to be made."""
        if not is_joined():
            return self._asked()
        # A batch of an evaluation may take a thousandth of a step: what one measured says nothing of the other.
        changed = self._repeats != (step == self._step)
        self._step, self._repeats = step, step == self._step
        self._calls += 1
        if self._calls < self._wait and not changed:
            return False
        answers = gather([self._asked(), time.monotonic() - self._at])
        seconds = answers[0][1] / self._calls
        self._wait = 1 if changed else min(_MOST_CALLS, max(1, int(_INTERVAL_S / max(seconds, 1e-6))))
        self._calls, self._at = 0, time.monotonic()
        return any(asked for asked, _ in answers)
