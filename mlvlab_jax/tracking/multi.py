"""Several trackers as one; an observer that fails is named once, and never stops training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlvlab_jax.plugins import TRACKERS, Spec
from mlvlab_jax.types import RunInfo, Tracker


def make_tracker(specs: Sequence[Spec], *, workdir: Path) -> "MultiTracker":
    """The configured trackers of a run in `workdir`."""
    return MultiTracker([(spec.name, TRACKERS.build(spec, workdir=workdir)) for spec in specs])


class MultiTracker:
    """Passes everything on to each tracker."""

    def __init__(self, trackers: Sequence[tuple[str, Tracker]]) -> None:
        self._trackers = dict(trackers)
        self._failed: set[str] = set()

    def start(self, info: RunInfo) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.start(info))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.scalars(step, values))

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.images(step, values))

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.histograms(step, values))

    def progress(self, step: int, loss: float | None) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.progress(step, loss))

    def note(self, text: str) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.note(text))

    def summary(self, values: Mapping[str, Any]) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.summary(values))

    def finish(self) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in self._trackers.items():
            try:
                call(tracker)
            except Exception as error:  # noqa: BLE001 - an observer never stops the run
                if name not in self._failed:
                    self._failed.add(name)
                    self.note(f"tracker {name!r} failed, and may lack records: {type(error).__name__}: {error}")
