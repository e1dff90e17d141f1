"""Measures that take turns, in this process or in others, and what is said of them. Needs numpy at most."""

import contextlib
import json
import os
import select
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]


class WorkerError(RuntimeError):
    """A worker answered with an error, ended, or did not answer in time."""


class Worker:
    """A process that answers as `worker.answer_requests` does; it runs in the repository's root.

    Args:
        command: What to start.
        environment: Its whole environment.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str]) -> None:
        self._name = Path(command[1]).stem
        reading, writing = os.pipe()
        self._answers = os.fdopen(reading)
        self._process = subprocess.Popen(
            command,
            env={**environment, "BENCHMARK_ANSWERS": str(writing)},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=2,
            pass_fds=[writing],
            text=True,
        )
        os.close(writing)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.kill()

    def close(self) -> None:
        """Lets the process end by itself, and ends it if it does not."""
        self._hang_up()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def kill(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        self._process.wait()
        self._hang_up()
        self._answers.close()

    def _hang_up(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def ask(self, do: str, *, timeout_s: float = 1800.0, **what: object) -> Any:
        """Asks and waits for the answer.

        Raises:
            WorkerError: An error, no answer in time, or the process ended.
        """
        self.send(do, **what)
        return self.receive(timeout_s=timeout_s)

    def send(self, do: str, **what: object) -> None:
        """Asks without waiting; `receive` must follow."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(f"{self._name} ended with exit code {self._process.wait(30)}") from error

    def receive(self, *, timeout_s: float) -> Any:
        """The answer to what was sent.

        Raises:
            WorkerError: An error, no answer in time, or the process ended.
        """
        if not select.select([self._answers], [], [], max(0.0, timeout_s))[0]:
            raise WorkerError(f"{self._name} gave no answer in {timeout_s:.0f} s")
        line = self._answers.readline()
        if not line:
            raise WorkerError(f"{self._name} ended with exit code {self._process.wait(30)}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self._name}: {reply['error']}")
        return reply["answer"]


def alternate(
    measures: Mapping[str, Callable[[], float]], *, num_repeats: int, pause_s: float = 0.0
) -> dict[str, list[float]]:
    """Each measure `num_repeats` times, forwards and backwards in turn (A B B A), `pause_s` before each."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for repeat in range(num_repeats):
        for name in measures if repeat % 2 == 0 else reversed(list(measures)):
            time.sleep(pause_s)  # threads of the side before go on spinning for a while
            found[name].append(measures[name]())
    return found


def compare(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratio of each pair that was measured one near the other."""
    return [round(a / b, 4) for a, b in zip(ours, theirs, strict=True)]


def sum_up(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": round(statistics.median(values), 4), "min": min(values), "max": max(values)}
