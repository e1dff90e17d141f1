"""Notices of a cloud, from real servers that answer as its metadata servers do."""

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest

from mlvlab_jax.engine.preemption import PreemptionNotices, find_questions
from mlvlab_jax.engine.signals import StopSignals
from tests.conftest import ROOT


class Metadata(http.server.BaseHTTPRequestHandler):
    """Google's answers wait until they differ from the one the caller knows; Amazon's need a token."""

    def log_message(self, *arguments):
        pass

    def do_PUT(self):
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200, "token")

    def do_GET(self):
        path = urllib.parse.urlparse(self.path)
        said = self.server.said
        if path.path.startswith("/latest"):
            if self.headers["X-aws-ec2-metadata-token"] != "token":
                return self._answer(401, "")
            return self._answer(200, said["action"]) if "action" in said else self._answer(404, "")
        if self.headers["Metadata-Flavor"] != "Google":
            return self._answer(403, "")
        name, asked = path.path.rpartition("/")[2], urllib.parse.parse_qs(path.query)
        end = time.monotonic() + min(int(asked["timeout_sec"][0]), 20)
        while f"etag-{said[name]}" == asked["last_etag"][0] and time.monotonic() < end:
            time.sleep(0.02)
        return self._answer(200, said[name])

    def _answer(self, code, text):
        with contextlib.suppress(OSError):  # who asked may have ended
            self.send_response(code)
            self.send_header("ETag", f"etag-{text}")
            self.end_headers()
            self.wfile.write(text.encode())


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.said = {"preempted": "FALSE", "maintenance-event": "NONE"}
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def asked(monkeypatch):
    for name in ("GCE_METADATA_HOST", "AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return threading.Event()


def google(server, monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")


@pytest.mark.parametrize(
    ("name", "value"), [("preempted", "TRUE"), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")]
)
def test_a_notice_of_google_asks_as_soon_as_it_is_there(name, value, server, asked, monkeypatch, capfd):
    google(server, monkeypatch)
    with PreemptionNotices(asked.set):
        assert not asked.wait(0.5)
        server.said[name] = value
        assert asked.wait(10)
    assert f"asked to stop: Google says {name} {value}" in capfd.readouterr().err


def test_what_moves_the_machine_or_was_announced_before_the_start_asks_nothing(server, asked, monkeypatch):
    google(server, monkeypatch)
    server.said["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    with PreemptionNotices(asked.set):
        assert not asked.wait(0.5)
        server.said["maintenance-event"] = "MIGRATE_ON_HOST_MAINTENANCE"
        assert not asked.wait(3)


def test_a_machine_that_is_being_taken_away_at_the_start_asks_at_once(server, asked, monkeypatch):
    google(server, monkeypatch)
    server.said["preempted"] = "TRUE"
    with PreemptionNotices(asked.set):
        assert asked.wait(10)


def test_a_notice_of_amazon_asks(server, asked, monkeypatch, capfd):
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    with PreemptionNotices(asked.set):
        assert not asked.wait(0.5)
        server.said["action"] = json.dumps({"action": "terminate", "time": "2017-09-18T08:22:00Z"})
        assert asked.wait(10)
    assert "Amazon says terminate at 2017-09-18T08:22:00Z" in capfd.readouterr().err


def test_a_server_that_does_not_answer_delays_nothing_and_asks_nothing(asked, monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    started = time.monotonic()
    with PreemptionNotices(asked.set):
        assert not asked.wait(0.3)
    assert time.monotonic() - started < 3


def test_only_machines_of_a_cloud_are_asked(tmp_path):
    assert find_questions({}, dmi=tmp_path) == []
    (tmp_path / "product_name").write_text("Google Compute Engine\n")
    assert len(find_questions({}, dmi=tmp_path)) == 2
    (tmp_path / "product_name").write_text("KVM\n")
    (tmp_path / "sys_vendor").write_text("Amazon EC2\n")
    assert len(find_questions({}, dmi=tmp_path)) == 1


def test_a_signal_after_a_notice_is_the_first_one():
    with StopSignals() as heard:
        heard.ask()
        assert heard.asked
        os.kill(os.getpid(), 15)  # a second signal would end this process
        time.sleep(0.2)


def test_a_run_on_a_machine_that_is_taken_away_saves_and_wants_to_be_started_again(server, tmp_path):
    command = [sys.executable, "-m", "mlvlab_jax.train", "--config", "configs/digits.yaml", "--workdir", str(tmp_path)]
    command += ["model.params.widths=[4, 8]", "training.num_epochs=1000", "tracking.log_every_steps=1"]
    environment = {**os.environ, "GCE_METADATA_HOST": f"127.0.0.1:{server.server_port}", "XLA_FLAGS": ""}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as child:
        end = time.monotonic() + 120
        while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.1)
        server.said["preempted"] = "TRUE"
        told, _ = child.communicate(timeout=60)
    assert child.returncode == 75
    assert "interrupted at step" in told
