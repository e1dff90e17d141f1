"""Watches the answers of a server, off the path of its requests."""

import importlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlvlab_jax.config.monitoring import MonitoringConfig
from mlvlab_jax.monitoring.alerts import Alerts
from mlvlab_jax.monitoring.failures import Failures, SlowError
from mlvlab_jax.monitoring.folder import MAX_LABELS, WatchedModel
from mlvlab_jax.monitoring.judge import Judge
from mlvlab_jax.monitoring.live import Label, Unlabelled
from mlvlab_jax.monitoring.metrics import MonitorMetrics
from mlvlab_jax.monitoring.observation import Observation
from mlvlab_jax.monitoring.windows import JudgedWindow
from mlvlab_jax.package.reference import Reference

_log = logging.getLogger(__name__)

#: Pixels that may wait, whatever the number of images.
_MAX_PENDING_BYTES = 64 * 2**20
#: Answers measured at a time, and seconds in which they come together.
_PIECE, _GATHER_S = 16, 0.05
#: Processor seconds that the thread takes of a second at most, so that Python's lock stays with the requests. What
#: comes faster than it can be judged so is judged by a sample.
_SHARE = 0.1
#: No more: where the lock is held by a thread that never runs, nobody runs.
_NICENESS = 5
#: Seconds of one piece of work that are a failure.
_SLOW_S = 30.0


class Watcher:
    """Takes answers, and judges them on a thread of its own; what that thread cannot follow is dropped and counted.

    Args:
        reference: Of the package that answers.
        config: Of the monitor.
        metrics: What is counted.
        class_names: Of the model.
        model: Its name.
        version: The version that answers.
        package_sha256: Of the package's manifest.

    Raises:
        RunFolderError: Another process writes the folder.
        ConfigError: There is an address for alerts, and the extra `serve` is not installed.
        DataError: A file in the folder was written by something else, or the reference is too small.
    """

    def __init__(
        self,
        reference: Reference,
        config: MonitoringConfig,
        *,
        metrics: MonitorMetrics,
        class_names: Sequence[str],
        model: str,
        version: str,
        package_sha256: str,
    ) -> None:
        self._watched = WatchedModel(model, version, package_sha256, tuple(class_names), reference)
        self._metrics = metrics
        self._failures = Failures(metrics)
        self._max_pending = config.max_pending
        self._unlabelled = Unlabelled(max_unlabelled=config.max_unlabelled)
        self._lock = threading.Lock()
        self._pending: deque[Observation | WatchedModel] = deque()
        self._pending_bytes = 0
        self._labels: deque[Label] = deque(maxlen=MAX_LABELS)
        self._wake, self._closing = threading.Event(), threading.Event()
        self._judge = Judge(self._watched, config, metrics=metrics, note=self._note)
        folder = None if config.folder is None else Path(config.folder)
        try:
            self._alerts = Alerts(config.webhook, metrics=metrics, folder=folder)
        except Exception:
            self._judge.close()
            raise
        self._alerts.follow(model, version, alarm=self._judge.alarm)
        self._thread = threading.Thread(target=self._run, name="mlvlab-monitor", daemon=True)
        self._thread.start()

    def offer(self, observations: Sequence[Observation]) -> None:
        """Takes answers of the version that is watched; takes microseconds, never waits and never raises."""
        try:
            self._offer(observations)
        except Exception as error:  # noqa: BLE001 - what watches must not harm what is watched
            self._failures.note(error)

    def label(self, request_id: str, item: int, label: str) -> None:
        """Takes the true class of an answer.

        Args:
            request_id: Of the answer.
            item: Place of the image in the request.
            label: Name of the class or, where no class has that name, its number.

        Raises:
            UnknownPredictionError: The answer is not remembered, or has its class already.
            UnknownLabelError: The model has no such class.
        """
        self._labels.append(self._unlabelled.match(request_id, item, label))
        self._metrics.count("mlvlab_labels_total")
        self._wake.set()

    def follow(self, reference: Reference, *, class_names: Sequence[str], version: str, package_sha256: str) -> None:
        """Watches another version from now on, in windows of its own, and drops answers of any other."""
        watched = WatchedModel(self._watched.model, version, package_sha256, tuple(class_names), reference)
        with self._lock:
            self._watched = watched
            self._pending.append(watched)
        self._wake.set()

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Ends the thread; a window that is not complete is dropped."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._alerts.close(timeout_s=timeout_s)
        if not self._thread.is_alive():
            self._judge.close()
            num_waiting = self._judge.num_waiting + len(self._pending)
            if num_waiting:
                _log.info("%d answers of a window that is not complete are dropped", num_waiting)

    def _offer(self, observations: Sequence[Observation]) -> None:
        num_dropped = 0
        with self._lock:
            watched = self._watched
            ours = [seen for seen in observations if seen.version == watched.version]
            for seen in ours:
                full = len(self._pending) >= self._max_pending
                if full or self._pending_bytes + seen.image.nbytes > _MAX_PENDING_BYTES:
                    num_dropped += 1
                else:
                    self._pending.append(seen)
                    self._pending_bytes += seen.image.nbytes
        self._unlabelled.remember(ours, watched.class_names)
        if num_dropped:
            self._metrics.count("mlvlab_monitor_dropped_total", num=num_dropped)
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        _lower_priority()
        importlib.import_module("scipy.stats")  # seconds, which the first window would take amid the traffic
        while not self._closing.is_set():
            if not self._pending:
                self._wake.wait()
                self._closing.wait(_GATHER_S)
                self._wake.clear()
            self._guard(self._take_piece)
            self._guard(self._take_labels)
        self._guard(self._take_labels)

    def _guard(self, work: Callable[[], None]) -> None:
        """Does a piece of work, then leaves the processor to the requests for some time."""
        began_s, began_cpu_s = time.monotonic(), time.thread_time()
        try:
            work()
        except Exception as error:  # noqa: BLE001 - the thread outlives whatever goes wrong
            self._failures.note(error)
        took_s, took_cpu_s = time.monotonic() - began_s, time.thread_time() - began_cpu_s
        if took_s > _SLOW_S:
            self._failures.note(SlowError(f"{work.__name__} took {took_s:.0f} s"))
        self._closing.wait(took_cpu_s * (1 / _SHARE - 1))

    def _take_piece(self) -> None:
        observations = self._next_observations()
        watched = self._judge.watched
        # Not so where a new version could not be followed: its answers are nobody's then.
        if observations and observations[0].version == watched.version:
            self._metrics.count_answers(np.stack([seen.probabilities for seen in observations]), watched.class_names)
            self._judge.take(observations)

    def _next_observations(self) -> list[Observation]:
        """The next few answers of one version, which is followed first where it is new."""
        observations: list[Observation] = []
        while len(observations) < _PIECE:
            with self._lock:
                if not self._pending or (observations and isinstance(self._pending[0], WatchedModel)):
                    break
                first = self._pending.popleft()
                if not isinstance(first, WatchedModel):
                    self._pending_bytes -= first.image.nbytes
                    observations.append(first)
                    continue
            self._judge.follow(first)
            self._alerts.follow(first.model, first.version, alarm=self._judge.alarm)
        return observations

    def _take_labels(self) -> None:
        labels = [self._labels.popleft() for _ in range(len(self._labels))]
        if labels:
            self._judge.take_labels(labels)

    def _note(self, judged: JudgedWindow) -> None:
        self._alerts.note(judged)
        if judged.verdict.alarm:
            self._alerts.send_drift_alert()


def _lower_priority() -> None:
    """Lets the system prefer other threads; on Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)
