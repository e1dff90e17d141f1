"""What the person at the terminal sees: a progress bar there, one plain line now and then elsewhere."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.plugins import TRACKERS
from mlvlab_jax.types import RunInfo


@configclass
class ConsoleParams:
    """How often."""

    interval_s: Annotated[float, Field(ge=0)] = 10.0
    """Seconds between plain lines where the output is not a terminal."""


@TRACKERS.register("console", ConsoleParams, example={"interval_s": 0.0})
def make_console(params: ConsoleParams, *, workdir: Path) -> "ConsoleTracker":
    """Writes to standard error, so that standard output stays for results."""
    from rich.console import Console

    return ConsoleTracker(Console(stderr=True, highlight=False), interval_s=params.interval_s)


class ConsoleTracker:
    """Progress with ETA, images/s and loss; a line at each evaluation."""

    def __init__(self, console: "Console", *, interval_s: float) -> None:
        self._console = console
        self._interval_s = interval_s
        self._bar: Progress | None = None
        self._task: TaskID
        self._speed = _Speed()
        self._info: RunInfo | None = None
        self._last_line = time.monotonic()

    def start(self, info: RunInfo) -> None:
        """Prints the parameter table and starts the bar."""
        self._info = info
        self._console.print(info.texts["parameters"], markup=False, soft_wrap=True)
        resumed = f", going on after step {info.first_step}" if info.first_step else ""
        self._console.print(f"{info.num_params:,} parameters; {info.num_steps:,} steps of {info.batch_size}{resumed}")
        if self._console.is_terminal:
            self._bar = _make_bar(self._console)
            self._task = self._bar.add_task(
                "train", total=info.num_steps, completed=info.first_step, loss="-", speed="-"
            )
            self._bar.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Prints evaluations; training records are for files."""
        shown = {name: value for name, value in values.items() if name.startswith(("validation/", "test/"))}
        if shown:
            text = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
            self._console.print(f"step {step:>6}  {text}", markup=False)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Not shown here."""

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Not shown here."""

    def progress(self, step: int, loss: float | None) -> None:
        """Moves the bar, or prints a line when one is due."""
        if self._info is None or loss is None:
            return
        if self._speed.restart_due():  # the first step compiles, and would spoil the mean
            self._speed.restart(step)
            self._last_line = time.monotonic()
            return
        if self._bar is not None:
            speed = self._speed.read(step) * self._info.batch_size
            self._bar.update(self._task, completed=step, loss=f"{loss:.4f}", speed=f"{speed:,.0f}")
        elif time.monotonic() - self._last_line >= self._interval_s:
            speed = self._speed.read(step)
            left_s = (self._info.num_steps - step) / speed if speed else 0.0
            self._console.print(
                f"step {step}/{self._info.num_steps}  loss {loss:.4f}  "
                f"{speed * self._info.batch_size:,.0f} images/s  ETA {left_s:.0f} s"
            )
            self._last_line = time.monotonic()

    def note(self, text: str) -> None:
        """Prints it."""
        self._console.print(text, markup=False)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Not shown here: the command prints it."""

    def finish(self) -> None:
        """Takes the bar down."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Speed:
    """Steps a second since the start."""

    def __init__(self) -> None:
        self._step: int | None = None
        self._time = 0.0

    def restart_due(self) -> bool:
        return self._step is None

    def restart(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    def read(self, step: int) -> float:
        return (step - (self._step or 0)) / max(time.monotonic() - self._time, 1e-9)


def _make_bar(console: "Console") -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[speed]} images/s"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=5,
    )
