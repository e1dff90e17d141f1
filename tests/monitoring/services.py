"""Prometheus and Alertmanager, really started on loopback, and what they send."""

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "configs" / "monitoring"
#: Debian's names first; upstream's archives call it alertmanager.
ALERTMANAGER = next(filter(None, map(shutil.which, ("prometheus-alertmanager", "alertmanager"))), None)


def needs(program, package):
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"no {program} on PATH: apt-get install --no-install-recommends {package}"
    )


needs_promtool, needs_amtool = needs("promtool", "prometheus"), needs("amtool", "prometheus-alertmanager")
needs_prometheus = needs("prometheus", "prometheus")
needs_alertmanager = pytest.mark.skipif(
    ALERTMANAGER is None,
    reason="no prometheus-alertmanager on PATH: apt-get install --no-install-recommends prometheus-alertmanager",
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_rules():
    return yaml.safe_load((CONFIGS / "prometheus" / "rules.yml").read_text())


@contextlib.contextmanager
def run_service(command, *, address, folder):
    """A process that is ready, and ends with the block."""
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=folder)
    try:
        wait_for(lambda: answers(f"{address}/-/ready"), because=lambda: f"{command[0]}: {log.read_text()[-2000:]}")
        yield address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def run_alertmanager(folder, *, receiver):
    """The address of an Alertmanager with the shipped configuration, which sends at once to `receiver`."""
    tree = yaml.safe_load((CONFIGS / "alertmanager" / "alertmanager.yml").read_text())
    for route in (tree["route"], *tree["route"]["routes"]):
        route |= {"group_wait": "0s", "group_interval": "1s"}
    tree["receivers"][0]["webhook_configs"][0]["url"] = receiver
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(tree))
    listen = f"127.0.0.1:{free_port()}"
    options = ("--config.file=alertmanager.yml", "--storage.path=alerts", "--cluster.listen-address=")
    command = [ALERTMANAGER, *options, f"--web.listen-address={listen}"]
    with run_service(command, address=f"http://{listen}", folder=folder) as address:
        yield address


@contextlib.contextmanager
def run_prometheus(folder, *, target, alertmanager, at_once):
    """The address of a Prometheus with the shipped configuration and rules, which asks `target` (host:port) each second.

    The alert `at_once` waits for nothing.
    """
    tree = yaml.safe_load((CONFIGS / "prometheus" / "prometheus.yml").read_text())
    tree["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    tree["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    managers = tree["alerting"]["alertmanagers"][0]["static_configs"][0]
    managers["targets"] = [alertmanager.removeprefix("http://")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(tree))
    rules = read_rules()
    for rule in [rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] == at_once]:
        rule["for"] = "0s"
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    listen = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address={listen}",
    ]
    with run_service(command, address=f"http://{listen}", folder=folder) as address:
        yield address


@contextlib.contextmanager
def receive():
    """The address of a receiver, and the messages it was sent, in order."""
    messages = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/alerts", messages
        server.shutdown()


def query(address, expression):
    """Samples that Prometheus finds now: [{"metric": labels, "value": [time, text]}]."""
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=5) as reply:
        return json.load(reply)["data"]["result"]


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def wait_for(condition, *, because=lambda: "", timeout_s=20.0):
    """Waits until `condition()` is true, and gives what it gave."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise TimeoutError(because())
