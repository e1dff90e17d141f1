"""The goodput ledger: what every attempt at a run spent its time on, one line each in goodput.jsonl.

An attempt is one start of the run. Its line is written anew each second and whenever another phase begins, so after it
was killed the line names the phase it died in, and what is missing of its times is the last second; after the machine
died, what the system had not yet put on disk, usually half a minute.
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlvlab_jax.engine.telemetry import PHASES, PhaseClock


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One start of a run.

    started: in UTC. first_step: updates in the state it began with. step: updates it had handed to the device.
    seconds: by phase. ended: "finished", "stopped early", "interrupted", the name of the error that ended it; None
    while it goes on, and for ever once it was killed. phase: the last one begun, waiting for input aside. saved: newest
    step it put on disk, whole; None: not one.
    """

    started: datetime.datetime
    first_step: int
    step: int
    seconds: Mapping[str, float]
    ended: str | None
    phase: str = "setup"
    saved: int | None = None


@dataclasses.dataclass(frozen=True)
class Goodput:
    """All attempts of a run together.

    seconds: by phase, and "lost": the training and its waiting for input that a later attempt had to do again; the sum
    is the time of all attempts. lost_steps: how many steps that were. down_s: seconds between attempts, in no phase.
    """

    num_attempts: int
    seconds: Mapping[str, float]
    lost_steps: int
    down_s: float

    @property
    def total_s(self) -> float:
        """Seconds of all attempts, without those in between."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Goodput: the share of the attempts' time spent in training steps that last; in [0, 1]."""
        return self.seconds["train"] / self.total_s if self.total_s else 0.0


def sum_up(attempts: Sequence[Attempt]) -> Goodput:
    """Adds attempts up, in the order they were made.

    Steps beyond the state that a later attempt began with are lost. They are charged with their part, by number, of
    their attempt's training and waiting for input.
    """
    seconds = dict.fromkeys((*PHASES, "lost"), 0.0)
    lost_steps, kept = 0, None
    for attempt in reversed(attempts):
        num_steps = attempt.step - attempt.first_step
        num_lost = 0 if kept is None else min(num_steps, max(0, attempt.step - kept))
        kept = attempt.first_step if kept is None else min(kept, attempt.first_step)
        lost_steps += num_lost
        share = num_lost / num_steps if num_steps else 0.0
        for phase, spent in attempt.seconds.items():
            lost = share * spent if phase in ("train", "input") else 0.0
            seconds[phase] = seconds.get(phase, 0.0) + spent - lost
            seconds["lost"] += lost
    gaps = (
        (later.started - attempt.started).total_seconds() - sum(attempt.seconds.values())
        for attempt, later in itertools.pairwise(attempts)
    )
    # A clock that was set back would make a gap negative.
    return Goodput(len(attempts), seconds, lost_steps, sum(max(0.0, gap) for gap in gaps))


def read_ledger(path: Path) -> list[Attempt]:
    """Attempts in order; none where there is no file. A line torn by the death of the machine is left out."""
    attempts = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            attempts.append(_parse(json.loads(line)))
    return attempts


def _parse(tree: Any) -> Attempt:
    started = datetime.datetime.fromisoformat(tree["started"]).astimezone(datetime.UTC)
    seconds = {name: float(value) for name, value in tree["seconds"].items()}
    # Ledgers of before these were written down go on being read.
    rest = {"phase": str(tree.get("phase", "setup")), "saved": tree.get("saved")}
    return Attempt(started, int(tree["first_step"]), int(tree["step"]), seconds, tree["ended"], **rest)


def find_saved(attempts: Sequence[Attempt]) -> int | None:
    """The newest step of which a checkpoint was made, whether or not it is still there; None where there was none."""
    return max((step for each in attempts for step in (each.saved, each.first_step) if step), default=None)


class Ledger:
    """This attempt's line, the last of the file; `write` brings it up to date.

    Args:
        path: goodput.jsonl; made if missing. None keeps no record.
        clock: Of this attempt.
        first_step: Updates in the state it begins with.
    """

    def __init__(self, path: Path | None, clock: PhaseClock, *, first_step: int) -> None:
        age = datetime.timedelta(seconds=clock.read()["total"])
        self._started = datetime.datetime.now(datetime.UTC) - age
        self._clock = clock
        self._first_step = self.step = first_step
        self.saved: int | None = None
        self._earlier = read_ledger(path) if path else []
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644) if path else None
        self._offset = self._start_line(self._fd) if self._fd is not None else 0
        self._width = 0
        self._phase = "setup"
        self._lock = threading.Lock()  # the heartbeat and the thread that seals write too

    def attempts(self) -> list[Attempt]:
        """Those before this one, and this one up to now."""
        return [*self._earlier, self._describe(None)]

    def enter(self, phase: str) -> None:
        """Writes the line if this phase is another than the one before; waiting for a batch is part of it."""
        if phase not in ("input", self._phase):
            self._phase = phase
            self.write()

    def write(self, ended: str | None = None) -> None:
        """Writes the line over its last version: one call to the system, which a killed process does or does not make.

        A disk that refuses leaves the ledger behind and the run alone.
        """
        with self._lock, contextlib.suppress(OSError):
            if self._fd is None:
                return
            line = json.dumps(dataclasses.asdict(self._describe(ended)), default=lambda time: time.isoformat())
            self._width = max(self._width, len(line))  # never shorter than what it covers; JSON allows the spaces
            os.pwrite(self._fd, (line.ljust(self._width) + "\n").encode(), self._offset)

    def close(self, ended: str) -> None:
        """Writes the line for the last time."""
        self.write(ended)
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _describe(self, ended: str | None) -> Attempt:
        seconds = self._clock.read()
        del seconds["total"]
        rounded = {phase: round(value, 3) for phase, value in seconds.items()}
        return Attempt(self._started, self._first_step, self.step, rounded, ended, self._phase, self.saved)

    @staticmethod
    def _start_line(fd: int) -> int:
        """Where a new line begins; a torn one before it is ended first."""
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.pwrite(fd, b"\n", size)
            return size + 1
        return size
