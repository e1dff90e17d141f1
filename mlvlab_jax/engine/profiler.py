"""Traces of some steps, for TensorBoard and XProf: of those the configuration names, or of the next ones on request.

A request is a file `profile` in the run folder: `touch RUN/profile`. It is taken away when tracing begins. Whatever
goes wrong here is a note, and the run goes on without further traces.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax

from mlvlab_jax.config.schema import ProfileConfig

_NOTHING: AbstractContextManager[Any] = contextlib.nullcontext()


class Profiler:
    """Traces one window of steps at a time into plugins/profile/TIME of the run folder.

    Args:
        workdir: Run folder.
        window: Steps to trace without being asked, and how many when asked; None: none, and the default's number.
        first_step: The first that will be made; a window that began before it is left out.
        note: Told where a trace is, or why there is none.
    """

    def __init__(
        self, workdir: Path, window: ProfileConfig | None, *, first_step: int, note: Callable[[str], None]
    ) -> None:
        self._workdir = workdir
        self._note = note
        self._num_steps = (window or ProfileConfig()).num_steps
        self._first_step = first_step
        # The next step before which something is to be done.
        self._turn_at = window.first_step if window and window.first_step >= first_step else math.inf
        self._asked = self._tracing = self._failed = False

    def look(self) -> None:
        """Sees whether the file is there; for a thread beside the run, as looking can take long on a shared disk."""
        self._asked = not (self._tracing or self._failed) and (self._workdir / "profile").exists()

    def due(self, step: int) -> bool:
        """Whether `turn` has something to do before `step`."""
        return self._asked or step >= self._turn_at

    def turn(self, step: int) -> None:
        """Begins tracing before `step`, or ends it; the caller has waited for the steps before."""
        if self._tracing:
            if step >= self._turn_at:
                self.stop()
        elif step >= self._turn_at or step > self._first_step:  # asked: not of the first step, which compiles
            with self._noting():
                (self._workdir / "profile").unlink(missing_ok=True)
                jax.profiler.start_trace(str(self._workdir))
                self._tracing, self._turn_at = True, step + self._num_steps
            self._asked = False

    def name(self, step: int) -> AbstractContextManager[Any]:
        """Names what the block does as `step`, where that is traced."""
        return jax.profiler.StepTraceAnnotation("train", step_num=step) if self._tracing else _NOTHING

    def stop(self) -> None:
        """Ends a trace that is under way; the caller has waited for its last step."""
        if self._tracing:
            self._tracing, self._turn_at = False, math.inf
            with self._noting():
                jax.profiler.stop_trace()
                self._note(
                    f"profile: a trace is in {self._workdir / 'plugins' / 'profile'}, where TensorBoard finds it"
                )

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - an observer never stops the run
            self._failed, self._turn_at = True, math.inf
            self._note(f"profile: no trace: {type(error).__name__}: {error}")
