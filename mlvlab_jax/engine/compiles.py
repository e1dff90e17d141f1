"""Counting what jax compiles."""

from types import TracebackType
from typing import Any

import jax

from mlvlab_jax.engine.telemetry import PhaseClock

_COMPILED = "/jax/core/compile/backend_compile_duration"
_FROM_CACHE = "/jax/compilation_cache/cache_hits"


class CompileMeter:
    """Programs compiled while the block lasts, by any thread.

    What the clock's own thread compiles in another phase, an evaluation's program for one, is moved to "compile".

    Attributes:
        num_programs: Compiled, or read from the compile cache.
        num_cached: Those of them that were read.
        seconds: What both took, in all threads together, without tracing.
    """

    def __init__(self, clock: PhaseClock) -> None:
        self._clock = clock
        self.num_programs = self.num_cached = 0
        self.seconds = 0.0

    def __enter__(self) -> "CompileMeter":
        jax.monitoring.register_event_duration_secs_listener(self._hear_duration)
        jax.monitoring.register_event_listener(self._hear_event)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear_duration)
        jax.monitoring.unregister_event_listener(self._hear_event)

    def describe(self) -> dict[str, float]:
        """As the summary has it."""
        return {"programs": self.num_programs, "from_cache": self.num_cached, "seconds": round(self.seconds, 3)}

    def _hear_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED:
            self.num_programs += 1
            # jax goes by the wall clock, which may have been set meanwhile.
            self.seconds += min(max(0.0, duration_secs), self._clock.read()["total"])
            self._clock.move(duration_secs, to="compile")

    def _hear_event(self, event: str, **_: Any) -> None:
        if event == _FROM_CACHE:
            self.num_cached += 1
