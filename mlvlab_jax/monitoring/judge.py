"""What becomes of answers: windows, verdicts, and who is told of them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlvlab_jax.config.monitoring import MonitoringConfig
from mlvlab_jax.monitoring.folder import MonitorFolder, WatchedModel
from mlvlab_jax.monitoring.live import Label, LiveAccuracy
from mlvlab_jax.monitoring.metrics import MonitorMetrics
from mlvlab_jax.monitoring.observation import Observation
from mlvlab_jax.monitoring.windows import JudgedWindow, WindowFiller

#: Gauges, by the key of the live accuracy's summary that they tell.
_LIVE = {
    "mlvlab_live_accuracy": "accuracy",
    "mlvlab_live_accuracy_low": "low",
    "mlvlab_live_accuracy_high": "high",
}


class Judge:
    """Judges the answers of one version after another, and tells folder, metrics and `note`. For one thread.

    Args:
        watched: The version.
        config: Of the monitor; without a folder nothing is kept on disk.
        metrics: What is counted.
        note: Called with each judged window.

    Raises:
        RunFolderError: Another process writes the folder.
        DataError: A file in the folder was written by something else, or the reference is too small.
    """

    def __init__(
        self,
        watched: WatchedModel,
        config: MonitoringConfig,
        *,
        metrics: MonitorMetrics,
        note: Callable[[JudgedWindow], None],
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._note = note
        self._folder = None
        if config.folder is not None:
            self._folder = MonitorFolder(Path(config.folder), keep_windows=config.keep_windows)
        try:
            self.follow(watched)
        except Exception:
            self.close()
            raise

    def follow(self, watched: WatchedModel) -> None:
        """Watches this version from now on; the window that is not complete is dropped."""
        filler = WindowFiller(watched.reference, self._config)  # first, as it may refuse the reference
        verdicts, labels = self._folder.follow(watched) if self._folder is not None else ((), ())
        filler.resume(verdicts)
        self.watched, self._filler = watched, filler
        self._live = LiveAccuracy(watched.version, labels)
        self._metrics.set_results(())
        self._metrics.set("mlvlab_drift_alarm", self.alarm)
        self._metrics.set("mlvlab_drift_last_success_timestamp_seconds", time.time())
        self.take_labels(())

    @property
    def alarm(self) -> bool:
        """Whether one is on."""
        return self._filler.alarm

    @property
    def num_waiting(self) -> int:
        """Answers in the window that is not complete."""
        return self._filler.num_waiting

    def take(self, observations: Sequence[Observation]) -> None:
        """Takes answers of the version that is watched."""
        for window in self._filler.add(observations):
            self._tell(window)

    def take_labels(self, labels: Sequence[Label]) -> None:
        """Takes true classes that were told."""
        self._live.add(labels)
        summary = self._live.summarize()
        if summary is None:
            self._metrics.forget(*_LIVE)
        else:
            for name, key in _LIVE.items():
                self._metrics.set(name, summary[key])
        if self._folder is not None:
            self._folder.write_labels([label.to_record() for label in labels], summary)

    def close(self) -> None:
        """Lets another process write the folder."""
        if self._folder is not None:
            self._folder.close()

    def _tell(self, judged: JudgedWindow) -> None:
        verdict = judged.verdict
        self._metrics.count("mlvlab_drift_windows_total", "different" if verdict.rejected else "same")
        self._metrics.set_results(verdict.results)
        self._metrics.set("mlvlab_drift_alarm", verdict.alarm)
        try:
            if self._folder is not None:
                self._folder.write_window(judged, self.watched)
        finally:
            self._note(judged)  # a full disk keeps no alarm back
        self._metrics.set("mlvlab_drift_last_success_timestamp_seconds", time.time())
