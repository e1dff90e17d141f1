"""The alert that requests have drifted: sent once when it starts and once when it ends."""

import logging
import time
from pathlib import Path

from mlvlab_jax.config.monitoring import WebhookConfig
from mlvlab_jax.monitoring.detector import TestResult
from mlvlab_jax.monitoring.folder import format_time
from mlvlab_jax.monitoring.metrics import MonitorMetrics
from mlvlab_jax.monitoring.outbox import Alert, Outbox
from mlvlab_jax.monitoring.sender import Send, Sender
from mlvlab_jax.monitoring.webhook import make_send
from mlvlab_jax.monitoring.windows import JudgedWindow

_log = logging.getLogger(__name__)

_MAX_TOLD = 5


class Alerts:
    """Sends the drift alert of one model. Nothing here waits for the receiver.

    Args:
        config: Where to.
        metrics: Count messages.
        folder: Keeps what was not sent, and whether the alert stands, over a restart; None: nothing does.
        send: Takes messages in place of the configured address, on a thread of its own.

    Raises:
        ConfigError: There is an address, and the extra `serve` is not installed.
        DataError: The file in the folder was written by something else.
    """

    def __init__(
        self, config: WebhookConfig, *, metrics: MonitorMetrics, folder: Path | None = None, send: Send | None = None
    ) -> None:
        self._metrics = metrics
        path = None if folder is None else folder / "alerts.json"
        self._outbox = Outbox(path, max_pending=config.max_pending)
        self._sender = Sender(self._outbox, send or make_send(config), metrics=metrics)
        self._labels = {"alertname": "MlvlabDriftAlarm", "severity": "warning"}
        self._last: JudgedWindow | None = None

    def follow(self, model: str, version: str, *, alarm: bool) -> None:
        """From now on alerts are about this version, whose alarm is on or not; that of another one ends."""
        self._labels |= {"model": model, "version": version}
        self._last = None
        for alert in self._outbox.standing:
            if alert.labels != self._labels or not alarm:
                self._end(alert)
        if alarm:
            self.send_drift_alert()

    def note(self, judged: JudgedWindow) -> None:
        """Keeps what a window says for the next alert, and ends the alert where it says that all is well."""
        self._last = judged
        if not judged.verdict.alarm:
            self.end_drift_alert()

    def send_drift_alert(self) -> None:
        """Says that requests differ from the reference, unless that was said and has not ended."""
        subject = " ".join(self._labels.get(key, "") for key in ("model", "version")).strip() or "the model"
        annotations = {"summary": f"Requests to {subject} differ from its reference", "description": self._describe()}
        self._put(Alert(self._labels.copy(), annotations, format_time(time.time())))

    def end_drift_alert(self) -> None:
        """Says that they do no longer, if the alert stands."""
        for alert in self._outbox.standing:
            if alert.labels == self._labels:
                self._end(alert)

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Sends what can be sent at once; what is left is sent by the next process, if there is a folder."""
        self._sender.close(timeout_s=timeout_s)
        if self._outbox.num_pending:
            _log.warning("%d messages of alerts are not sent yet", self._outbox.num_pending)

    def _end(self, alert: Alert) -> None:
        self._put(alert._replace(ends_at=format_time(time.time())))

    def _put(self, alert: Alert) -> None:
        num_dropped = self._outbox.put(alert)
        if num_dropped:
            self._metrics.count("mlvlab_alerts_total", "dropped", num=num_dropped)
        self._sender.wake()

    def _describe(self) -> str:
        if self._last is None:
            return ""
        surest: dict[str, TestResult] = {}
        for result in sorted(self._last.verdict.results, key=lambda result: result.p_value):
            if result.rejected:
                surest.setdefault(result.feature, result)
        told = [f"{r.feature} ({r.test}: effect {r.effect:.3g}, floor {r.floor:.3g})" for r in surest.values()]
        more = f" and {len(told) - _MAX_TOLD} more" if len(told) > _MAX_TOLD else ""
        return ", ".join(told[:_MAX_TOLD]) + more
