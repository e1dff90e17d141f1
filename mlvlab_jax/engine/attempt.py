"""One start of a run as it is watched: its clock, its line in the ledger, what it compiles, what is traced of it."""

import contextlib
import os
import resource
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.compiles import CompileMeter
from mlvlab_jax.engine.crash import remove_crashes, write_crash
from mlvlab_jax.engine.goodput import Ledger, sum_up
from mlvlab_jax.engine.heartbeat import Heartbeat
from mlvlab_jax.engine.profiler import Profiler
from mlvlab_jax.engine.telemetry import PhaseClock
from mlvlab_jax.engine.verdict import Circumstances, judge
from mlvlab_jax.engine.watchdog import Watchdog


class AttemptLog:
    """Watches a start of a run until the block ends.

    Args:
        workdir: Run folder.
        clock: Of this attempt, where it began before; a new one if None.

    Attributes:
        clock: Where the time is booked.
        ended: What ended the training, once that is known.
        mfu: Model FLOPs utilisation of the last window, in [0, 1]; None where unknown.
        metrics: The newest ones by name.
        workdir: Run folder.
    """

    def __init__(self, workdir: Path, *, clock: PhaseClock | None = None) -> None:
        self.clock = clock or PhaseClock()
        self.ended = "interrupted"
        self.mfu: float | None = None
        self.metrics: Mapping[str, float] = {}
        self.workdir = workdir
        self._compiles = CompileMeter(self.clock)
        self._open = contextlib.ExitStack()
        self._ledger = Ledger(None, self.clock, first_step=0)
        self._profiler = Profiler(workdir, None, first_step=1, note=lambda text: None)
        self._now: Callable[[], Circumstances] | None = None

    def __enter__(self) -> "AttemptLog":
        self._open.enter_context(self._compiles)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            phase, step, process = self.clock.find_phase(error), self._ledger.step, _find_process()
            write_crash(self.workdir, error, phase=phase, step=step, metrics=self.metrics, process=process)
        self._profiler.stop()
        self._open.close()
        self._ledger.close(self.ended if kind is None else kind.__name__)

    def begin(self, config: Config, *, in_memory: bool, first_step: int, note: Callable[[str], None]) -> None:
        """Opens the ledger and listens for requests of traces, in the first process; watches for hangs in all.

        What an earlier attempt left behind when it crashed is taken away.

        Args:
            config: What is run.
            in_memory: Whether the training images are.
            first_step: Updates in the state the attempt begins with.
            note: Told what becomes of traces.
        """
        self._now = lambda: self._describe_circumstances(config, in_memory=in_memory)
        calls: list[Callable[[], None]] = []
        if jax.process_index() == 0:
            remove_crashes(self.workdir)
            self._ledger = Ledger(self.workdir / "goodput.jsonl", self.clock, first_step=first_step)
            self.clock.on_enter = self._ledger.enter
            self._profiler = Profiler(self.workdir, config.tracking.profile, first_step=first_step + 1, note=note)
            calls += [self._ledger.write, self._profiler.look]
        if config.training.hang_timeout_s is not None:
            watchdog = Watchdog(
                self.clock,
                lambda: self._ledger.step,
                limit_s=config.training.hang_timeout_s,
                workdir=self.workdir,
                process=_find_process(),
            )
            self._open.callback(watchdog.close)
            calls.append(watchdog.look)
        self._open.enter_context(Heartbeat(calls))

    def step(self, first: int, last: int, *, settle: Callable[[], None]) -> AbstractContextManager[Any]:
        """Context of the training steps of one dispatch; `settle` waits for those before, where a trace begins or ends.

        Args:
            first: Number of the first step.
            last: Number of the last one.
            settle: Called where it is needed.
        """
        self._ledger.step = last
        if self._profiler.due(first):
            settle()
            self._profiler.turn(first)
        return self._profiler.name(last)

    def take_back(self, step: int) -> None:
        """Says that only the updates up to `step` were handed to the device: the next was broken off before."""
        self._ledger.step = step

    def saved(self, step: int) -> None:
        """Writes down that a checkpoint of `step` is on disk, whole: from now on a start without one is no new run."""
        self._ledger.saved = step
        self._ledger.write()

    def write(self) -> None:
        """Brings the ledger up to date for a reader."""
        self._ledger.write()

    def describe(self) -> dict[str, Any]:
        """What summary.json says of time and memory up to now, and the verdict."""
        assert self._now is not None, "begin comes first"
        seconds = self.clock.read()
        goodput = sum_up(self._ledger.attempts())
        described = {
            "goodput": round(goodput.share, 4),
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "attempts": {
                "number": goodput.num_attempts,
                "lost_steps": goodput.lost_steps,
                "down_s": round(goodput.down_s, 3),
                "seconds": {name: round(value, 3) for name, value in goodput.seconds.items()},
            },
            "compile": self._compiles.describe(),
            "memory": describe_memory(),
        }
        return described | {"verdict": judge(goodput, self._now())}

    def _describe_circumstances(self, config: Config, *, in_memory: bool) -> Circumstances:
        pipeline = config.pipeline
        return Circumstances(
            num_readers=pipeline.num_processes or pipeline.num_threads,
            by_processes=pipeline.num_processes > 0,
            num_cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
            in_memory=in_memory,
            packed=config.data.name == "array_record",
            cache_on=config.compile_cache,
            num_programs=self._compiles.num_programs,
            num_cached=self._compiles.num_cached,
            mfu=self.mfu,
        )


def _find_process() -> tuple[int, int]:
    """Number of this process, and of how many."""
    return jax.process_index(), jax.process_count()


def describe_memory() -> dict[str, int]:
    """Peak bytes up to now: resident in this process, and in use on the fullest of its devices where they tell."""
    unit = 1 if sys.platform == "darwin" else 1024
    memory = {"host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    told = [stats["peak_bytes_in_use"] for device in jax.local_devices() if (stats := device.memory_stats())]
    return memory | ({"device_peak_bytes": max(told)} if told else {})
