"""One thread that sends the messages of an outbox, in order, and tries again for as long as it takes."""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from mlvlab_jax.monitoring.metrics import MonitorMetrics
from mlvlab_jax.monitoring.outbox import Alert, Outbox

_log = logging.getLogger(__name__)

#: Sends a message, as of `render_message`. `RefusedError` means never, any other exception means not now.
Send = Callable[[Mapping[str, Any]], None]

_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 60.0
_NO_END = "0001-01-01T00:00:00Z"


class RefusedError(Exception):
    """The receiver will not take this message, however often it is sent."""


class Sender:
    """Carries messages from `outbox` to `send`; nobody ever waits for it but `close`."""

    def __init__(self, outbox: Outbox, send: Send, *, metrics: MonitorMetrics) -> None:
        self._outbox = outbox
        self._send = send
        self._metrics = metrics
        self._failed = False
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlvlab-alerts", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Says that there is a message."""
        self._metrics.set("mlvlab_alerts_pending", self._outbox.num_pending)
        self._wake.set()

    def close(self, *, timeout_s: float) -> None:
        """Sends what can be sent at once, for at most `timeout_s`; the rest stays in the outbox."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        retry_s = _FIRST_RETRY_S
        self._metrics.set("mlvlab_alerts_pending", self._outbox.num_pending)
        while True:
            self._wake.clear()
            alert = self._outbox.first()
            if alert is not None and not self._deliver(alert):
                # A share of it at random, so that many servers do not come back at one moment.
                if self._closing.wait(retry_s * random.uniform(0.5, 1.0)):
                    return
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
                continue
            retry_s = _FIRST_RETRY_S
            if alert is None:
                if self._closing.is_set():
                    return
                self._wake.wait()

    def _deliver(self, alert: Alert) -> bool:
        """Whether the message need not be sent again."""
        result = "sent"
        try:
            self._send(render_message(alert))
        except RefusedError as error:
            _log.error("the receiver of alerts refuses a message (%s), which is not sent again", error)
            result = "failed"
        except Exception as error:  # noqa: BLE001 - the receiver may fail in every way
            if not self._failed:
                _log.warning("alerts wait for their receiver: %s", _first_line(error))
            self._failed = True
            return False
        if self._failed:
            _log.warning("alerts have their receiver again")
        self._failed = False
        self._outbox.remove(alert)
        self._metrics.count("mlvlab_alerts_total", result)
        self._metrics.set("mlvlab_alerts_pending", self._outbox.num_pending)
        return True


def render_message(alert: Alert) -> dict[str, Any]:
    """The alert in the form of Alertmanager's webhook, version 4."""
    status = "firing" if alert.ends_at is None else "resolved"
    labels, annotations = dict(alert.labels), dict(alert.annotations)
    each = {
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": alert.starts_at,
        "endsAt": alert.ends_at or _NO_END,
        "generatorURL": "",
        "fingerprint": alert.fingerprint,
    }
    return {
        "version": "4",
        "groupKey": alert.fingerprint,
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "mlvlab_jax",
        "groupLabels": labels,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "",
        "alerts": [each],
    }


def log_message(message: Mapping[str, Any]) -> None:
    """Sends nothing, but says it in the log."""
    _log.warning("%s: %s", message["status"], message["commonAnnotations"].get("summary", message["commonLabels"]))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
