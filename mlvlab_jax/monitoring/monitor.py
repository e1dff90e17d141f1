"""Watches a model from Python, without a server."""

import functools
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlvlab_jax.config.monitoring import MonitoringConfig
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.monitoring.alerts import Alerts
from mlvlab_jax.monitoring.failures import Failures
from mlvlab_jax.monitoring.folder import WatchedModel
from mlvlab_jax.monitoring.judge import Judge
from mlvlab_jax.monitoring.metrics import MonitorMetrics
from mlvlab_jax.monitoring.observation import Observation
from mlvlab_jax.monitoring.sender import Send
from mlvlab_jax.monitoring.windows import JudgedWindow
from mlvlab_jax.package.load import Package, calibrate, load_package
from mlvlab_jax.package.reference import Reference

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class ModelMonitor:
    """Watches what a model is asked and what it answers, on the caller's thread.

    A subclass may track other things or send alerts in another way. One whose `__init__` takes no arguments names in
    the attributes of the class what it needs: `package` and `config` as below, and `registry`, the Prometheus registry
    that shows the metrics, if one is to.

    Args:
        package: The package that answers, or its path; or a reference alone, and then `detect_drift` must be given the
            model's answers.
        config: Windows, drift, alerts, and the folder; without a folder nothing is kept on disk.
    """

    package: Package | Reference | Path | str | None = None
    config: MonitoringConfig = MonitoringConfig()
    registry: "CollectorRegistry | None" = None

    def __init__(
        self, package: Package | Reference | Path | str | None = None, config: MonitoringConfig | None = None
    ) -> None:
        self.package = self.package if package is None else package
        self.config = config or self.config
        self.metrics = self.setup_metrics()
        self.alerts = self.setup_alerts()

    def setup_metrics(self) -> MonitorMetrics:
        """The numbers that are kept."""
        return self._metrics

    def setup_alerts(self, *, send: Send | None = None) -> Alerts:
        """What sends alerts: to `send`, or to the configured webhook, or to the log.

        A subclass with another receiver overrides this and gives `send`.

        Args:
            send: Takes each message, a dict in the form of Alertmanager's webhook, on a thread of its own.
        """
        judge = self._judge  # it makes sure that nobody else writes the folder
        folder = None if self.config.folder is None else Path(self.config.folder)
        alerts = Alerts(self.config.webhook, metrics=self._metrics, folder=folder, send=send)
        alerts.follow(judge.watched.model, judge.watched.version, alarm=judge.alarm)
        return alerts

    def track_prediction(self, input_data: Mapping[str, Any], prediction: Mapping[str, Any], latency: float) -> None:
        """Tracks one answer, and sends an alert when requests have drifted.

        Args:
            input_data: As of `detect_drift`.
            prediction: With `confidence`, the calibrated probability of the answer.
            latency: Seconds it took.
        """
        self.metrics.track_latency(latency)
        self.metrics.track_confidence(prediction["confidence"])
        self.metrics.track_input_statistics(input_data)
        if self.detect_drift(input_data):
            self.alerts.send_drift_alert()

    def detect_drift(self, input_data: Mapping[str, Any]) -> bool:
        """Adds an image to the window, and judges the window if it is complete.

        Args:
            input_data: image, the network's input, uint8 (h w c). Where the caller has them, probabilities, calibrated,
                float32 (k), and embedding, float32 (d), as the model gave them; else the package is asked once more.
                Where known, size_px, height and width of the file as stored, and request_id.

        Returns:
            Whether this image raised the alarm: True once, not for as long as it is on.

        Raises:
            DataError: No image, or another one than the model takes.
            ConfigError: There is no package.
        """
        seen = self._observe(input_data)
        was_on = self._judge.alarm
        try:
            self._judge.take([seen])
        except Exception as error:  # noqa: BLE001 - what watches must not harm what is watched
            self._failures.note(error)
        return self._judge.alarm and not was_on

    def close(self) -> None:
        """Sends the alerts that wait, and lets another process write the folder."""
        self._judge.close()
        if isinstance(self.alerts, Alerts):
            self.alerts.close()

    @functools.cached_property
    def _metrics(self) -> MonitorMetrics:
        return MonitorMetrics(self.registry)

    @functools.cached_property
    def _failures(self) -> Failures:
        return Failures(self._metrics)

    @functools.cached_property
    def _judge(self) -> Judge:
        return Judge(self._watched, self.config, metrics=self._metrics, note=self._note)

    @functools.cached_property
    def _opened(self) -> Package | Reference:
        if self.package is None:
            raise ConfigError(
                f"{type(self).__name__} has no package to compare requests with; expected "
                f"{type(self).__name__}.package = PATH before it is made, or ModelMonitor(PATH)"
            )
        return load_package(Path(self.package)) if isinstance(self.package, (str, Path)) else self.package

    @functools.cached_property
    def _watched(self) -> WatchedModel:
        opened = self._opened
        if isinstance(opened, Reference):
            num_classes = 1 + int(max(opened.prediction.max(), opened.label.max()))
            return WatchedModel("model", "unknown", "", tuple(map(str, range(num_classes))), opened)
        sha256 = opened.manifest.sha256
        return WatchedModel(opened.name, sha256[:12], sha256, opened.class_names, opened.reference)

    def _note(self, judged: JudgedWindow) -> None:
        if isinstance(self.alerts, Alerts):
            self.alerts.note(judged)

    def _observe(self, input_data: Mapping[str, Any]) -> Observation:
        image = input_data.get("image")
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
            raise DataError(
                f"input_data has no image, but {sorted(input_data)}; expected 'image': uint8 (h w c), the network's "
                "input as the package's preprocess_bytes gives it"
            )
        probabilities, embedding = self._answer(image, input_data)
        return Observation(
            request_id=str(input_data.get("request_id") or uuid.uuid4().hex),
            item=0,
            image=image,
            size_px=input_data.get("size_px"),
            probabilities=probabilities,
            embedding=embedding,
            latency_s=0.0,
            version=self._watched.version,
            time_s=time.time(),
        )

    def _answer(self, image: np.ndarray, input_data: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (k) and embedding (d)."""
        if "probabilities" in input_data and "embedding" in input_data:
            return np.asarray(input_data["probabilities"]), np.asarray(input_data["embedding"])
        if isinstance(self._opened, Reference):
            raise DataError(
                f"input_data has {sorted(input_data)}; expected 'probabilities' and 'embedding' too, as a reference "
                "alone cannot answer; or give the monitor the package"
            )
        logits, embedding = self._opened.predict(image[None])
        return calibrate(logits, temperature=self._opened.temperature)[0], embedding[0]
