"""Ends a run that has stopped moving, and says where it stands: traces of all threads, and which process is behind."""

import contextlib
import faulthandler
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mlvlab_jax.engine.peers import LAST_S, read_time, sign_path
from mlvlab_jax.engine.telemetry import PhaseClock
from mlvlab_jax.errors import JoinError

#: Outside training steps the limit is so many times as long: a compilation, an evaluation and a save move unseen.
_PATIENCE = 10
_STEPPING = ("train", "input")
#: A process whose sign of life is older than this is silent; it gives one each second.
_SILENT_S = 15.0


class Sign(NamedTuple):
    """A process's sign of life, which all of them give in the same order where nothing is wrong.

    step: updates handed to the device. turns: phases entered and left. still_s: seconds since it last moved.
    """

    step: int
    turns: int
    phase: str
    still_s: float


class Watchdog:
    """Looks, each time it is called, whether the run has moved: entered or left a phase of its clock.

    Past the limit the tracebacks of all threads go to hang-PROCESS.txt in the run folder, one message to standard
    error, and the process ends with exit code 76: it cannot be assumed that its main thread will ever hear anything.
    That file of another process ends this one too, which may be where waiting long is no hang.

    Args:
        clock: Of the run.
        step: Gives the number of updates handed to the device.
        limit_s: Seconds without movement in training; elsewhere ten times as many.
        workdir: Run folder.
        process: Number of this process, and of how many.
        end: Ends the process.
    """

    def __init__(
        self,
        clock: PhaseClock,
        step: Callable[[], int],
        *,
        limit_s: float,
        workdir: Path,
        process: tuple[int, int],
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._clock, self._step, self._limit_s, self._workdir = clock, step, limit_s, workdir
        self._index, self._count = process
        self._end = end
        self._turns, self._since = -1, time.monotonic()
        self._others = [index for index in range(self._count) if index != self._index]
        self._hung_before = {index: read_time(self._report(index)) for index in self._others}

    def look(self) -> None:
        """To be called about once a second, from a thread of its own."""
        now, phase = time.monotonic(), self._clock.now
        if self._clock.turns != self._turns:
            self._turns, self._since = self._clock.turns, now
        sign = Sign(self._step(), self._turns, phase, now - self._since)
        if self._count > 1:
            self._give_sign(sign)
        if sign.still_s > self._limit_s * (1 if phase in _STEPPING else _PATIENCE):
            self._give_up(sign, "no progress")
        ended = [index for index in self._others if read_time(self._report(index)) != self._hung_before[index]]
        if ended:
            self._give_up(sign, f"process {ended[0]} saw no progress and has given up; this one made none")

    def close(self) -> None:
        """Takes the sign of life away."""
        with contextlib.suppress(OSError):
            self._path(self._index).unlink()
            self._path(self._index).parent.rmdir()  # by the last of them

    def _give_sign(self, sign: Sign) -> None:
        with contextlib.suppress(OSError):
            self._path(self._index).parent.mkdir(exist_ok=True)
            self._path(self._index).write_text(json.dumps(sign))

    def _path(self, index: int) -> Path:
        return sign_path(self._workdir, index)

    def _report(self, index: int) -> Path:
        return self._workdir / f"hang-{index}.txt"

    def _give_up(self, sign: Sign, why: str) -> None:
        path = self._report(self._index)
        try:
            with path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        who = f"process {self._index} of {self._count}: " if self._count > 1 else ""
        found = "".join(f"; {line}" for line in self._describe_others(sign))
        print(
            f"error: {who}{why} for {sign.still_s:.0f} s in step {sign.step} ({sign.phase}){found}; expected "
            f"some within training.hang_timeout_s={self._limit_s:g}; see {path}; the same command goes on from the "
            "last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        if self._index == 0 and self._count > 1:
            time.sleep(LAST_S)
        self._end(JoinError.exit_code)

    def _describe_others(self, own: Sign) -> list[str]:
        """Those that are silent or behind, a line each."""
        return [line for index in self._others if (line := self._describe(index, own))]

    def _describe(self, index: int, own: Sign) -> str | None:
        try:
            # Both times are those of the file system, whatever the clocks of the machines say.
            age = self._path(self._index).stat().st_mtime - self._path(index).stat().st_mtime
            sign = Sign(*json.loads(self._path(index).read_text()))
        except (OSError, ValueError, TypeError):
            return f"process {index} has given no sign of life"
        if age > _SILENT_S:
            return f"process {index} has been silent for {age:.0f} s, since step {sign.step} ({sign.phase})"
        if (sign.step, sign.turns) < (own.step, own.turns):
            return f"process {index} is behind, in step {sign.step} ({sign.phase}) for {sign.still_s:.0f} s"
        return None
