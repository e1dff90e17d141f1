"""Where the time of a run goes."""

import contextlib
import time
from collections.abc import Iterator

#: "input" is waiting for the next batch: reading, decoding and placing that training did not hide.
PHASES = ("setup", "compile", "train", "input", "evaluate", "checkpoint")


class PhaseClock:
    """Seconds by phase; every moment belongs to one phase, and an inner phase interrupts the outer."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._started = time.perf_counter()
        self._stack = ["setup"]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Books the time of the block under `name`."""
        self._book()
        self._stack.append(name)
        try:
            yield
        finally:
            self._book()
            self._stack.pop()

    def read(self) -> dict[str, float]:
        """Seconds by phase up to now, and their total."""
        self._book()
        return self.seconds | {"total": sum(self.seconds.values())}

    def _book(self) -> None:
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._started
        self._started = now


class Rate:
    """Training throughput, and how much of the time goes into waiting for input."""

    def __init__(self) -> None:
        self.num_examples = 0.0
        self._train = self._input = 0.0

    def read(self, clock: PhaseClock) -> dict[str, float]:
        """Examples a second of training steps, and the share of that time spent waiting, since the last reading."""
        seconds = clock.read()
        train, waiting = seconds["train"] - self._train, seconds["input"] - self._input
        total = max(train + waiting, 1e-9)
        rates = {"images_per_second": self.num_examples / total, "input_wait": waiting / total}
        self.num_examples, self._train, self._input = 0.0, seconds["train"], seconds["input"]
        return rates
