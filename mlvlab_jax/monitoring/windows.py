"""Windows: so many answers in a row, judged together."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mlvlab_jax.config.monitoring import MonitoringConfig
from mlvlab_jax.monitoring.detector import Detector, Verdict
from mlvlab_jax.monitoring.observation import Observation
from mlvlab_jax.monitoring.window import Window, make_window
from mlvlab_jax.monitoring.worst import WorstImage, WorstImages
from mlvlab_jax.package.reference import Reference


class JudgedWindow(NamedTuple):
    """A complete window. start_s, end_s: of its first and last answer, since 1970. worst: the furthest first."""

    window: Window
    verdict: Verdict
    start_s: float
    end_s: float
    worst: tuple[WorstImage, ...]


class WindowFiller:
    """Gathers answers of one version of a model, and judges each window as it is complete.

    Images are measured as they come and then forgotten, but for the worst of the window.

    Args:
        reference: Of that version.
        config: Of the monitor.

    Raises:
        DataError: The reference is too small.
    """

    def __init__(self, reference: Reference, config: MonitoringConfig) -> None:
        self._reference = reference
        self._size = config.drift.window
        self._detector = Detector(reference, config.drift)
        self.alarm = False
        self._worst = WorstImages(reference, num=config.num_worst_images)
        self._parts: list[Window] = []
        self._times_s: list[float] = []

    @property
    def num_waiting(self) -> int:
        """Answers in the window that is not complete."""
        return len(self._times_s)

    def resume(self, verdicts: Sequence[bool]) -> None:
        """Takes up the alarm, and the windows in a row, where an earlier process left them.

        Args:
            verdicts: Of windows of this version, the oldest first: whether they differed.
        """
        for rejected in verdicts:
            self.alarm = self._detector.count(rejected)

    def add(self, observations: Sequence[Observation]) -> Iterator[JudgedWindow]:
        """Takes answers, and gives the windows that they complete."""
        while observations:
            room = self._size - self.num_waiting
            piece, observations = observations[:room], observations[room:]
            part = make_window(piece, self._reference)
            self._worst.add(piece, part.embedding)
            self._parts.append(part)
            self._times_s += [seen.time_s for seen in piece]
            if self.num_waiting == self._size:
                yield self._judge()

    def _judge(self) -> JudgedWindow:
        # Begun anew before it is judged, so that a failure costs one window.
        parts, times_s, worst = self._parts, self._times_s, self._worst.take()
        self._parts, self._times_s = [], []
        window = _join(parts)
        verdict = self._detector.push(window)
        self.alarm = verdict.alarm
        return JudgedWindow(window, verdict, times_s[0], times_s[-1], worst)


def _join(parts: Sequence[Window]) -> Window:
    return Window(
        values={name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values},
        prediction=np.concatenate([part.prediction for part in parts]),
        embedding=np.concatenate([part.embedding for part in parts]),
    )
