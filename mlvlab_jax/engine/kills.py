"""Runs of one command that are killed: at random moments or in a phase of one's choice, and on one mesh after another.

In which phase a kill hit is read from the run folder, from outside: the ledger names the phase as it begins, and a
checkpoint that is being written has no seal yet.
"""

import collections
import contextlib
import itertools
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from mlvlab_jax.engine.goodput import read_ledger
from mlvlab_jax.engine.integrity import NAME
from mlvlab_jax.engine.recovery import list_steps
from mlvlab_jax.errors import MlvlabError

#: Every second kill waits for one of these, the one that was hit least; the others fall where the clock says.
AIMS = ("compile", "evaluate", "save")
#: How a process may end after each signal; 0 where it was about to, and SIGTERM no longer asked it anything.
_ENDS = {signal.SIGKILL: (-9,), signal.SIGTERM: (75, -15, 0)}
#: What a run may take beyond the time of the unbroken one before it is taken for stuck.
_PATIENCE, _PATIENCE_S = 10, 120
#: Seconds between two looks at the run folder, and those after which at most a kill falls once its aim is in sight.
_LOOK_S, _AFTER_S = 0.002, 0.01
#: An aim that so many runs in a row did not come by is given up.
_MOST_MISSES = 3


class Place(NamedTuple):
    """Where a run is made. name: in the certificate. overrides: of the configuration. environment: variables added."""

    name: str = "as configured"
    overrides: tuple[str, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})


def find_phase(folder: Path, *, num_earlier: int) -> str:
    """What a run does now, or did as it was killed.

    Args:
        folder: The run.
        num_earlier: Attempts in its ledger before this one.

    Returns:
        A phase of the ledger; "save" while a checkpoint is written beside the training; "start" before the first.
    """
    attempts = read_ledger(folder / "goodput.jsonl")
    if len(attempts) <= num_earlier:
        return "start"
    phase = attempts[-1].phase
    return "save" if phase in ("train", "checkpoint") and _is_saving(folder / "checkpoints") else phase


def _is_saving(folder: Path) -> bool:
    entries = folder.iterdir() if folder.is_dir() else ()
    return any("tmp" in entry.name or (entry.name.isdecimal() and not (entry / NAME).exists()) for entry in entries)


def newest_sealed(folder: Path) -> int:
    """Step of the newest checkpoint of a run that was written to its end; 0 where there is none."""
    steps = list_steps(folder / "checkpoints")
    return max((step for step in steps if (folder / "checkpoints" / str(step) / NAME).exists()), default=0)


class Killer:
    """Starts runs of one command, and kills them.

    Args:
        command: Trains; overrides and the folder are added.
        seed: Of moments and signals.

    Attributes:
        seconds: The last run without a break took.
        kills: What was done, and how each process ended.
    """

    def __init__(self, command: Sequence[str], *, seed: int) -> None:
        self._command = tuple(command)
        self._random = random.Random(seed)
        self._hits: collections.Counter[str] = collections.Counter()
        self._misses: collections.Counter[str] = collections.Counter()
        self.seconds = 0.0
        self.kills: list[dict[str, Any]] = []

    @property
    def phases(self) -> dict[str, int]:
        """How many kills hit each phase."""
        return dict(collections.Counter(kill["phase"] for kill in self.kills))

    def run_through(self, folder: Path) -> None:
        """One run without a break, whose time the moments are taken from."""
        started = time.monotonic()
        with self._start(folder, Place()) as child:
            self._check(folder, child.wait(), (0,))
        self.seconds = time.monotonic() - started

    def run_with_kills(self, folder: Path, *, most: int) -> None:
        """One run that is killed at most so often, to its end."""
        for _ in range(most):
            moment = self._make_moment(folder)
            # With programs from the cache it would be over before it can be seen.
            place = Place(overrides=("compile_cache=false",)) if moment.aim == "compile" else Place()
            if self._kill_once(folder, place, moment):
                return
        self._finish(folder, Place())

    def run_across(self, folder: Path, places: Sequence[Place], *, most: int) -> None:
        """One run that goes on at another place after each kill; each makes steps that last before it is killed."""
        cycle = itertools.cycle(places)
        for place in itertools.islice(cycle, most):
            sealed, pause_s = newest_sealed(folder), self._random.uniform(0, self.seconds / 20)
            if self._kill_once(folder, place, _Moment(lambda sealed=sealed: newest_sealed(folder) > sealed, pause_s)):  # type: ignore[misc]
                return
        self._finish(folder, next(cycle))

    def _make_moment(self, folder: Path) -> "_Moment":
        delay = self._random.uniform(0, self.seconds)
        aims = [aim for aim in AIMS if self._misses[aim] < _MOST_MISSES]
        if len(self.kills) % 2 == 0 or not aims:
            return _Moment(lambda: True, delay)
        aim = min(aims, key=lambda aim: self._hits[aim])
        after = 0.0 if aim == "compile" else time.monotonic() + delay / 2
        num_earlier = len(read_ledger(folder / "goodput.jsonl"))

        def in_sight() -> bool:
            return time.monotonic() > after and find_phase(folder, num_earlier=num_earlier) == aim

        return _Moment(in_sight, self._random.uniform(0, _AFTER_S), aim)

    def _kill_once(self, folder: Path, place: Place, moment: "_Moment") -> bool:
        """Whether the run was through, before the signal came or in spite of it."""
        number, num_earlier = self._random.choice(tuple(_ENDS)), len(read_ledger(folder / "goodput.jsonl"))
        started = time.monotonic()
        with self._start(folder, place) as child:
            if not self._reach(moment, child, folder):
                self._misses[moment.aim] += 1
                self._check(folder, child.wait(), (0,))
                # A second run finds its programs compiled, and the moments are to fall into its time.
                self.seconds = self.seconds if num_earlier else time.monotonic() - started
                return True
            after_s, phase = time.monotonic() - started, find_phase(folder, num_earlier=num_earlier)
            child.send_signal(number)
            code = self._wait(child, folder)
        if number == signal.SIGKILL:
            if code == 0:
                return True
            phase = find_phase(folder, num_earlier=num_earlier)  # it died as it stood, so this is the very one
        self._check(folder, code, _ENDS[number])
        self._hits[phase] += 1
        self._misses[moment.aim] = 0
        hit = {"run": folder.name, "mesh": place.name, "signal": number.name, "phase": phase}
        self.kills.append({**hit, "after_s": round(after_s, 3), "exit_code": code})
        return code == 0

    def _reach(self, moment: "_Moment", child: "subprocess.Popen[bytes]", folder: Path) -> bool:
        """Waits for the moment; false where the run ended before it."""
        limit, pause_s = time.monotonic() + self._limit_s(), moment.pause_s
        while child.poll() is None:
            if moment.in_sight():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=pause_s)
                if child.poll() is None and moment.in_sight():
                    return True
                pause_s /= 2  # it was over already; sooner the next time
            if time.monotonic() > limit:
                self._give_up(child, folder)
            time.sleep(_LOOK_S)
        return False

    def _finish(self, folder: Path, place: Place) -> None:
        with self._start(folder, place) as child:
            self._check(folder, self._wait(child, folder), (0,))

    def _start(self, folder: Path, place: Place) -> "subprocess.Popen[bytes]":
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            command = [*self._command, *place.overrides, "--workdir", str(folder)]
            return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **place.environment})

    def _wait(self, child: "subprocess.Popen[bytes]", folder: Path) -> int:
        try:
            return child.wait(timeout=self._limit_s())
        except subprocess.TimeoutExpired:
            self._give_up(child, folder)

    def _limit_s(self) -> float:
        return _PATIENCE * self.seconds + _PATIENCE_S

    def _give_up(self, child: "subprocess.Popen[bytes]", folder: Path) -> NoReturn:
        child.kill()
        raise MlvlabError(f"{folder}: still running after {self._limit_s():.0f} s; see {folder}.log")

    def _check(self, folder: Path, code: int, allowed: Sequence[int]) -> None:
        if code not in allowed:
            raise MlvlabError(f"{folder}: training ended with exit code {code}; see {folder}.log")


class _Moment(NamedTuple):
    """When a kill falls: so many seconds after something is in sight."""

    in_sight: Callable[[], bool]
    pause_s: float
    aim: str = "any"
