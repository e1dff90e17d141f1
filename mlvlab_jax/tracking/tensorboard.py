"""TensorBoard event files through CLU's asynchronous writer."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.config.load import flatten
from mlvlab_jax.plugins import TRACKERS
from mlvlab_jax.types import RunInfo


@configclass
class TensorBoardParams:
    """Nothing to choose."""


@TRACKERS.register("tensorboard", TensorBoardParams)
def make_tensorboard(params: TensorBoardParams, *, workdir: Path) -> "TensorBoardTracker":
    """Writes event files in the run folder."""
    return TensorBoardTracker(workdir)


class TensorBoardTracker:
    """Scalars, images, histograms, hyper-parameters and the configuration's text."""

    def __init__(self, logdir: Path) -> None:
        self._logdir = logdir
        self._told: frozenset[tuple[str, int]] = frozenset()
        self._writer: Any = None

    def start(self, info: RunInfo) -> None:
        """Opens an event file; on resume, TensorBoard forgets what earlier files say of later steps."""
        from mlvlab_jax.tracking.clu_bridge import import_metric_writers

        writers = import_metric_writers()
        self._told = _find_tested(self._logdir)
        # An attempt that was killed before its first save has left points too.
        purge_step = info.first_step + 1 if info.first_step else 0 if any(self._logdir.glob("events.out.*")) else None
        self._writer = writers.AsyncWriter(writers.SummaryWriter(str(self._logdir), purge_step=purge_step))
        if info.first_step == 0:
            self._writer.write_hparams(info.hparams)
            self._writer.write_texts(0, {name: f"```\n{text}\n```" for name, text in info.texts.items()})
        self._writer.write_texts(info.first_step, {"made from": _table(info.tags)})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One curve a name."""
        new = {name: value for name, value in values.items() if (name, step) not in self._told}
        if new:
            self._writer.write_scalars(step, new)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """One grid a name."""
        self._writer.write_images(step, dict(values))

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """One distribution over time a name."""
        self._writer.write_histograms(step, dict(values))

    def progress(self, step: int, loss: float | None) -> None:
        """Not kept here."""

    def note(self, text: str) -> None:
        """Not kept here."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """A table among the texts."""
        self._writer.write_texts(values["steps"], {"summary": _table(flatten(dict(values)))})

    def finish(self) -> None:
        """Waits for the writer and closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _find_tested(logdir: Path) -> frozenset[tuple[str, int]]:
    """Name and step of each result on the test split in earlier event files.

    It belongs to the step of the best state, which lies before those that a resume makes TensorBoard forget; a run that
    was killed between this result and its end has it again.
    """
    if not any(b"test/" in path.read_bytes() for path in logdir.glob("events.out.*")):
        return frozenset()
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of each resume
    shown = EventAccumulator(str(logdir), size_guidance={SCALARS: 0})
    shown.Reload()
    names = [name for name in shown.Tags()[SCALARS] if name.startswith("test/")]
    return frozenset((name, point.step) for name in names for point in shown.Scalars(name))


def _table(values: Mapping[str, Any]) -> str:
    """As a table in Markdown."""
    return "\n".join(["| | |", "|-|-|", *(f"| {name} | {value} |" for name, value in values.items())])
