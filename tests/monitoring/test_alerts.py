import contextlib
import http.server
import json
import logging
import sys
import threading

import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.monitoring import WebhookConfig
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.monitoring import detector, sender
from mlvlab_jax.monitoring.alerts import Alerts
from mlvlab_jax.monitoring.metrics import MonitorMetrics
from mlvlab_jax.monitoring.outbox import Alert, Outbox
from mlvlab_jax.monitoring.sender import render_message
from mlvlab_jax.monitoring.webhook import make_send
from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.monitoring.windows import JudgedWindow
from tests.monitoring.observed import wait_until


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(sender, "_FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(sender, "_LAST_RETRY_S", 0.02)


class Receiver(http.server.ThreadingHTTPServer):
    """Answers as `script` says, request by request, and then 200; once `released`, `hang` goes away, `wait` is 200."""

    daemon_threads = True

    def __init__(self, *script, port=0):
        self.script, self.received, self.taken = list(script), [], []
        self.released = threading.Event()
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/hook?key=secret"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # a client that went away, which is what a test may be about


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append(message)
        what = self.server.script.pop(0) if self.server.script else 200
        if what in ("hang", "wait"):
            self.server.released.wait(60)
        if what == "hang":
            return
        what = 200 if what == "wait" else what
        if what == 200:
            self.server.taken.append(message)
        self.send_response(what)
        if what == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def receive():
    with contextlib.ExitStack() as stack:

        def make(*script, port=0):
            receiver = Receiver(*script, port=port)
            stack.callback(receiver.server_close)
            stack.callback(receiver.shutdown)
            stack.callback(receiver.released.set)
            return receiver

        yield make


@pytest.fixture
def alert():
    """Makes senders of alerts about one version of one model, and closes them."""
    made = []

    def make(url=None, *, folder=None, send=None, alarm=False, **changes):
        config = params_from(WebhookConfig, {"url": url, **changes})
        made.append(Alerts(config, metrics=MonitorMetrics(), folder=folder, send=send))
        made[-1].follow("pets", "v1", alarm=alarm)
        return made[-1]

    yield make
    for alerts in made:
        alerts.close()


def count(alerts, result):
    return alerts._metrics.value("mlvlab_alerts_total", result)


def statuses(messages):
    return [message["status"] for message in messages]


def test_an_alert_is_posted_once_when_it_starts_and_once_when_it_ends(receive, alert):
    receiver = receive()
    alerts = alert(receiver.url)
    for _ in range(3):
        alerts.send_drift_alert()
    for _ in range(3):
        alerts.end_drift_alert()
    wait_until(lambda: count(alerts, "sent") == 2)
    firing, resolved = receiver.taken
    labels = {"alertname": "MlvlabDriftAlarm", "severity": "warning", "model": "pets", "version": "v1"}
    assert (firing["version"], firing["status"], firing["commonLabels"]) == ("4", "firing", labels)
    (one,), (other,) = firing["alerts"], resolved["alerts"]
    assert (one["status"], one["labels"], one["endsAt"]) == ("firing", labels, "0001-01-01T00:00:00Z")
    assert (other["status"], other["startsAt"]) == ("resolved", one["startsAt"])
    assert other["endsAt"] >= other["startsAt"]
    assert other["fingerprint"] == one["fingerprint"]
    assert one["annotations"]["summary"] == "Requests to pets v1 differ from its reference"
    assert alerts._metrics.value("mlvlab_alerts_pending") == 0


def test_a_message_has_what_alertmanagers_has():
    """https://prometheus.io/docs/alerting/latest/configuration/#webhook_config"""
    message = render_message(Alert({"alertname": "a"}, {}, "2026-01-01T00:00:00+00:00"))
    assert set(message) == {
        *("version", "groupKey", "truncatedAlerts", "status", "receiver", "groupLabels", "commonLabels"),
        *("commonAnnotations", "externalURL", "alerts"),
    }
    assert set(message["alerts"][0]) == {
        *("status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"),
    }


def test_alerts_are_one_where_their_labels_are():
    def fingerprint(**labels):
        return Alert(labels, {}, "").fingerprint

    assert fingerprint(a="1", b="2") == fingerprint(b="2", a="1")
    assert len({fingerprint(a="1", b="2"), fingerprint(a="1"), fingerprint(a="2", b="1")}) == 3


def test_a_receiver_that_is_down_slow_or_broken_gets_all_in_order_once_it_is_well(receive, alert, caplog):
    caplog.set_level(logging.INFO)
    receiver = receive("hang", 500, 503, 429, 408, 500)
    alerts = alert(receiver.url, timeout_s=0.2)
    for _ in range(2):
        alerts.send_drift_alert()
        alerts.end_drift_alert()
    wait_until(lambda: count(alerts, "sent") == 4)
    assert statuses(receiver.taken) == ["firing", "resolved"] * 2
    assert len(receiver.received) == 4 + 6
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("alerts wait for their receiver: ReadTimeout")
    assert said[1] == "alerts have their receiver again"
    assert "secret" not in caplog.text


def test_a_receiver_that_refuses_is_not_asked_again(receive, alert, caplog):
    receiver = receive(400, 302, 404)
    alerts = alert(receiver.url)
    for _ in range(2):
        alerts.send_drift_alert()
        alerts.end_drift_alert()
    wait_until(lambda: count(alerts, "sent") == 1)
    assert count(alerts, "failed") == 3
    assert statuses(receiver.received) == ["firing", "resolved"] * 2
    assert statuses(receiver.taken) == ["resolved"]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3


def test_what_was_not_sent_is_sent_by_the_next_process_and_what_stands_is_not_sent_again(receive, alert, tmp_path):
    receiver = receive()
    port = receiver.server_port
    receiver.shutdown()
    receiver.server_close()
    first = alert(receiver.url, folder=tmp_path)
    first.send_drift_alert()
    first.close()
    again = receive(port=port)
    second = alert(again.url, folder=tmp_path, alarm=True)
    second.send_drift_alert()
    wait_until(lambda: count(second, "sent") == 1)
    second.close()
    third = alert(again.url, folder=tmp_path)  # the alarm ended, and nobody came to say so
    third.end_drift_alert()
    wait_until(lambda: count(third, "sent") == 1)
    assert statuses(again.taken) == ["firing", "resolved"]
    assert [sorted(message["commonLabels"]) for message in again.taken] == [
        ["alertname", "model", "severity", "version"]
    ] * 2


def test_nobody_waits_for_a_receiver_that_hangs_and_the_oldest_messages_are_dropped(receive, alert):
    receiver = receive("wait")
    alerts = alert(receiver.url, max_pending=3, timeout_s=60.0)
    alerts.send_drift_alert()
    wait_until(lambda: receiver.received)
    for _ in range(3):
        alerts.end_drift_alert()
        alerts.send_drift_alert()
    assert count(alerts, "dropped") == 4
    assert alerts._metrics.value("mlvlab_alerts_pending") == 3
    receiver.released.set()
    wait_until(lambda: count(alerts, "sent") == 4)  # the one on its way too
    assert statuses(receiver.taken) == ["firing", "firing", "resolved", "firing"]


def test_the_alert_of_another_version_ends(alert):
    told = []
    alerts = alert(send=told.append)
    alerts.send_drift_alert()
    alerts.follow("pets", "v2", alarm=False)
    alerts.send_drift_alert()
    wait_until(lambda: len(told) == 3)
    assert [(message["status"], message["commonLabels"]["version"]) for message in told] == [
        ("firing", "v1"),
        ("resolved", "v1"),
        ("firing", "v2"),
    ]


def test_an_alert_tells_what_differs_each_thing_once_and_the_surest_first(alert):
    told = []
    alerts = alert(send=told.append)
    results = [
        detector.TestResult("psi", "sharpness", 1e-9, 0.3, 0.1, True),
        detector.TestResult("psi", "entropy", 0.4, 0.01, 0.1, False),
        detector.TestResult("kolmogorov_smirnov", "sharpness", 1e-4, 0.12345, 0.05, True),
        detector.TestResult("mmd", "embedding", 1e-12, 0.02, 0.002, True),
    ]
    nothing = Window({}, np.zeros(0), np.zeros((0, 1)))
    alerts.note(JudgedWindow(nothing, detector.Verdict(True, tuple(results), alarm=True), 0.0, 1.0, ()))
    alerts.send_drift_alert()
    wait_until(lambda: told)
    assert told[0]["commonAnnotations"]["description"] == (
        "embedding (mmd: effect 0.02, floor 0.002), sharpness (psi: effect 0.3, floor 0.1)"
    )


def test_without_an_address_alerts_are_logged(alert, caplog):
    alerts = alert()
    alerts.send_drift_alert()
    wait_until(lambda: count(alerts, "sent") == 1)
    assert [record.getMessage() for record in caplog.records] == [
        "firing: Requests to pets v1 differ from its reference"
    ]


def test_a_callable_that_fails_is_asked_again(alert):
    told = []

    def send(message):
        told.append(message)
        if len(told) < 3:
            raise RuntimeError("busy")

    alerts = alert(send=send)
    alerts.send_drift_alert()
    wait_until(lambda: count(alerts, "sent") == 1)
    assert statuses(told) == ["firing"] * 3


def test_a_disk_that_refuses_does_not_keep_an_alert_back(alert, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    told = []
    alerts = alert(folder=tmp_path / "file", send=told.append)
    alerts.send_drift_alert()
    wait_until(lambda: count(alerts, "sent") == 1)
    assert "would not outlast this process" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", '{"standing": []}', '{"standing": [{"a": 1}], "pending": []}'])
def test_a_foreign_file_in_place_of_alerts_is_refused(tmp_path, text):
    (tmp_path / "alerts.json").write_text(text)
    with pytest.raises(DataError, match=r"alerts\.json: not alerts"):
        Outbox(tmp_path / "alerts.json", max_pending=1)


@pytest.mark.parametrize("url", ["ftp://host/", "file:///etc/passwd", "host:80/", "http://", "http:///path", ""])
def test_addresses_of_other_kinds_are_refused(url):
    with pytest.raises(ValueError, match="url"):
        params_from(WebhookConfig, {"url": url})


def test_posting_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=r"pip install 'mlvlab_jax\[serve\]'"):
        make_send(params_from(WebhookConfig, {"url": "http://127.0.0.1/"}))
