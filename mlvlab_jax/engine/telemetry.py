"""Where the time of a run goes, and how fast its steps are."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

from mlvlab_jax.engine.faults import strike

#: "input" is waiting for the next batch: reading, decoding and placing that training did not hide. "compile" is the
#: first step up to where it is handed to the device, and compiling in any other phase. "analyse" follows training: the
#: evaluation of the result, its report.
PHASES = ("import", "setup", "compile", "train", "input", "evaluate", "checkpoint", "analyse")
#: Names of what `Rate.read` gives.
RATES = ("images_per_second", "input_wait", "step_ms_p50", "step_ms_p95", "step_ms_max")


class PhaseClock:
    """Seconds by phase; every moment belongs to one phase, and an inner phase interrupts the outer.

    One thread enters phases, the one that made the clock; any may read.

    Attributes:
        turns: How often a phase was entered or left.
        on_enter: Told of each phase as it is entered.
    """

    def __init__(self) -> None:
        self.turns = 0
        self.on_enter: Callable[[str], None] = lambda phase: None
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._origin = self._started = time.perf_counter()
        self._stack = ["setup"]
        self._thread = threading.get_ident()
        self._failed: tuple[int, str] | None = None

    @property
    def now(self) -> str:
        """The phase."""
        return self._stack[-1]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Books the time of the block under `name`."""
        self._book()
        self._stack.append(name)
        self.turns += 1
        self.on_enter(name)
        try:
            strike(name)
            yield
        except BaseException as error:
            if self._failed is None or self._failed[0] != id(error):
                self._failed = id(error), name
            raise
        finally:
            self._book()
            self._stack.pop()
            self.turns += 1

    def find_phase(self, error: BaseException) -> str:
        """The innermost phase that `error` ended, or the one now where it has ended none."""
        return self._failed[1] if self._failed is not None and self._failed[0] == id(error) else self.now

    def move(self, seconds: float, *, to: str) -> None:
        """Books the last `seconds` under `to` in place of the phase now; nothing from a thread beside the run.

        Never more than this stretch of the phase has lasted: who measured them may go by a clock that is set.
        """
        if threading.get_ident() == self._thread:
            seconds = min(max(0.0, seconds), time.perf_counter() - self._started)
            self._seconds[self._stack[-1]] -= seconds
            self._seconds[to] += seconds

    def read(self) -> dict[str, float]:
        """Seconds by phase up to now, and their total, which is the clock's age whichever thread reads."""
        current, seconds = self._stack[-1], dict(self._seconds)
        total = time.perf_counter() - self._origin
        # The rest, not the time since the last booking: another thread may book between two lines of this one.
        seconds[current] = total - sum(value for name, value in seconds.items() if name != current)
        return seconds | {"total": total}

    def training(self) -> float:
        """Seconds of training steps and their waiting for input up to now; for the clock's own thread."""
        self._book()
        return self._seconds["train"] + self._seconds["input"]

    def _book(self) -> None:
        now = time.perf_counter()
        self._seconds[self._stack[-1]] += now - self._started
        self._started = now


class Rate:
    """Training throughput, the spread of step times, and how much of the time goes into waiting for input.

    A step's time is the host's, from the arrival of the scalars of the step before to that of its own, without what
    evaluation and saving took in between. The host runs one step ahead of the device and waits for these scalars, so
    that over many steps it is the device's time where the device is the slower one, and the host's where not; a stall
    of either is in the step that met it. Of steps handed over together each has the same part. The first of an attempt
    have no time.
    """

    def __init__(self, clock: PhaseClock) -> None:
        self._clock = clock
        self._num_examples = self._train = self._input = 0.0
        self._arrived: float | None = None
        self._steps_s: list[float] = []

    def arrive(self, num_examples: float, *, num_steps: int = 1) -> None:
        """Notes that the scalars of the next steps have come, together; they share the time since the last came."""
        now = self._clock.training()
        if self._arrived is not None:
            self._steps_s += [(now - self._arrived) / num_steps] * num_steps
        self._arrived = now
        self._num_examples += num_examples

    def read(self) -> dict[str, float]:
        """What `RATES` names, since the last reading: examples a second of training, the share of it spent waiting,
        and percentiles of the step time in ms, where there was a step to time.
        """
        seconds = self._clock.read()
        train, waiting = seconds["train"] - self._train, seconds["input"] - self._input
        total = max(train + waiting, 1e-9)
        rates = {"images_per_second": self._num_examples / total, "input_wait": waiting / total}
        self._num_examples, self._train, self._input = 0.0, seconds["train"], seconds["input"]
        steps_s, self._steps_s = sorted(self._steps_s), []
        if steps_s:
            for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0)):
                rates[f"step_ms_{name}"] = 1e3 * steps_s[math.ceil(share * len(steps_s)) - 1]
        return rates
