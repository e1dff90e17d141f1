import asyncio
import contextlib
import functools
import gc
import io
import itertools
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from mlvlab_jax import serve as command
from mlvlab_jax.config.serving import LimitsConfig, ServingConfig, TlsConfig
from mlvlab_jax.data.decode import Header
from mlvlab_jax.errors import ConfigError, PackageError
from mlvlab_jax.package.load import load_package
from mlvlab_jax.registry import ModelRegistry
from mlvlab_jax.registry.file_store import FileStore
from mlvlab_jax.registry.store import make_move
from mlvlab_jax.serving.app import make_app
from mlvlab_jax.serving.auth import Token
from mlvlab_jax.serving.server import allow_connections, open_listener
from mlvlab_jax.serving.tls import make_tls_context
from tests.package.trained import make_tiny_package
from tests.serving.running import FakePredictor, FakeSource, broken_error, connected, echo, read_all, running, status_of

CONFIG = ServingConfig(port=0, follow_s=0.05, grace_s=5.0)
SECRET = "correct-horse-battery-staple"
LABELS = {"1.0.0": "one", "2.0.0": "two", "3.0.0": "three"}
PNG = io.BytesIO()
Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(PNG, "PNG")
IMAGE = {"content": PNG.getvalue(), "headers": {"content-type": "image/png"}}


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """Each version that is left is followed by a collection, which need not look at all that pytest imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class DecodingPredictor(FakePredictor):
    """Also what the application asks of a predictor."""

    def decode(self, data):
        return Header("PNG", 8, 8, 1), np.zeros((2, 2, 1), np.uint8)

    def top(self, probabilities, k):
        return [(self.class_names[i], float(probabilities[i])) for i in np.argsort(-probabilities)[:k]]


class DecodingSource(FakeSource):
    def load(self, path, found):
        if found.version in self.broken:
            raise self.broken[found.version]
        time.sleep(0.02)
        return DecodingPredictor(found)


def app_of(models, **hooks):
    metrics = models._metrics
    return make_app(models, CONFIG, metrics=metrics, **{"observe": None, "record": None, "label": None} | hooks)


def base(server):
    return f"http://{server.address[0]}:{server.address[1]}"


class Load(threading.Thread):
    """Classifies over a few connections at a steady rate, and keeps every status, version and label."""

    def __init__(self, url, *, rate, num_clients=2, headers=()):
        super().__init__()
        self.url, self.rate, self.num_clients, self.headers = url, rate, num_clients, dict(headers)
        self.ended = threading.Event()
        self.answers, self.errors = [], []

    def run(self):
        asyncio.run(self._run())

    async def _run(self):
        limits = httpx.Limits(max_connections=self.num_clients)
        async with httpx.AsyncClient(limits=limits, timeout=20, headers=self.headers) as client:
            await asyncio.gather(*(self._ask(client) for _ in range(self.num_clients)))

    async def _ask(self, client):
        due = time.monotonic()
        while not self.ended.is_set():
            asked = time.monotonic()
            try:
                reply = await client.post(f"{self.url}/v1/classify", **IMAGE)
            except httpx.TransportError as error:
                self.errors.append((asked, error))
                return
            top = reply.json()["predictions"][0]["label"] if reply.status_code == 200 else None
            self.answers.append((reply.status_code, reply.headers.get("x-model-version"), top))
            due += self.num_clients / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def finish(self):
        self.ended.set()
        self.join(30)
        return self.answers


def check_none_dropped(load, stopped):
    """Whoever asked before the server was told to stop, or in the moments it still says so, has an answer."""
    assert [error for asked, error in load.errors if asked < stopped + 0.3] == []


@contextlib.contextmanager
def loaded(url, **options):
    load = Load(url, **options)
    load.start()
    try:
        yield load
    finally:
        load.finish()


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_changes_of_version_under_load_drop_nothing(tmp_path):
    source = DecodingSource(tmp_path)
    with running(app_of, CONFIG, source=source) as server, loaded(base(server), rate=50) as load:
        for version in ("2.0.0", "1.0.0") * 3:
            source.change(version)
            wait_for(lambda version=version: server.models.current().predictor.version == version)
            num = len(load.answers)
            wait_for(lambda num=num: len(load.answers) > num + 1)
        answers = load.finish()
    assert load.errors == []
    assert {status for status, _, _ in answers} == {200}
    assert {version for _, version, _ in answers} == {"1.0.0", "2.0.0"}
    assert all(LABELS[version] == label for _, version, label in answers)


def test_a_broken_version_leaves_the_old_one_answering(tmp_path):
    source = DecodingSource(tmp_path)
    source.broken["2.0.0"] = broken_error()
    with running(app_of, CONFIG, source=source) as server, loaded(base(server), rate=50) as load:
        source.change("2.0.0")
        value = server.metrics.registry.get_sample_value
        wait_for(lambda: value("mlvlab_reload_failing") == 1)
        num = len(load.answers)
        wait_for(lambda: len(load.answers) > num + 5)
        assert httpx.get(f"{base(server)}/v2/health/ready").status_code == 200
        answers = load.finish()
    assert {(status, version) for status, version, _ in answers} == {(200, "1.0.0")}


def test_stopping_under_load_answers_what_was_accepted_and_refuses_the_rest(tmp_path):
    class Slow(DecodingPredictor):
        def predict(self, images):
            time.sleep(0.3)
            return super().predict(images)

    class SlowSource(DecodingSource):
        def load(self, path, found):
            return Slow(found)

    ready = []
    with (
        running(app_of, CONFIG, source=SlowSource(tmp_path)) as server,
        loaded(base(server), rate=1000, num_clients=8) as load,
        httpx.Client() as client,
    ):
        wait_for(lambda: len(load.answers) > 8)
        assert client.get(f"{base(server)}/v2/health/ready").status_code == 200
        server.end()
        stopped = time.monotonic()
        with contextlib.suppress(httpx.TransportError):
            while True:
                reply = httpx.get(f"{base(server)}/v2/health/ready")
                ready.append((reply.status_code, reply.headers.get("connection")))
        server.thread.join(10)
        answers = load.answers
        refusals = [status for status, _, _ in answers if status != 200]
    assert set(ready) == {(503, "close")}
    assert set(refusals) <= {503}
    check_none_dropped(load, stopped)


def test_a_request_that_is_still_being_sent_is_accepted(tmp_path):
    with running(echo, CONFIG, folder=tmp_path) as server, connected(server) as client:
        client.sendall(b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        time.sleep(0.1)
        server.end()
        time.sleep(2.0)  # longer than uvicorn alone would wait
        client.sendall(b"def")
        reply = read_all(client)
    assert status_of(reply) == 200
    assert b'"length": 6' in reply
    assert b"connection: close" in reply


def test_stopping_waits_no_longer_than_the_grace(tmp_path):
    config = ServingConfig(port=0, grace_s=0.7)
    with running(echo, config, folder=tmp_path) as server, connected(server) as client:
        client.sendall(b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        time.sleep(0.1)
        began = time.monotonic()
        server.end()
        server.thread.join(10)
        assert 0.5 < time.monotonic() - began < 4


def test_the_server_answers_before_its_version_is_loaded_and_can_be_stopped_then(tmp_path):
    release = threading.Event()

    class LoadingSource(DecodingSource):
        def load(self, path, found):
            release.wait(10)
            return super().load(path, found)

    with running(app_of, CONFIG, source=LoadingSource(tmp_path), wait=False) as server:
        wait_for(lambda: server.models.loading)
        for path, status in (("/v2/health/live", 200), ("/v2/health/ready", 503), ("/metrics", 200)):
            assert httpx.get(base(server) + path).status_code == status
        reply = httpx.post(f"{base(server)}/v1/classify", **IMAGE)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        began = time.monotonic()
        server.end()
        server.thread.join(10)
        assert time.monotonic() - began < 4
        assert server.error is None
        release.set()


def test_a_first_version_that_is_broken_ends_the_server(tmp_path):
    source = DecodingSource(tmp_path)
    source.broken["1.0.0"] = broken_error()
    with running(app_of, CONFIG, source=source) as server:
        server.thread.join(10)
    assert isinstance(server.error, PackageError)


def test_every_route_of_the_application_asks_for_the_token(tmp_path):
    routes = []

    def app(models):
        made = app_of(models)
        routes.extend(route.path for route in made.routes)
        return made

    fill = functools.partial(re.sub, r"\{[^}]*\}", "digits")
    with running(app, CONFIG, source=DecodingSource(tmp_path), token=Token(SECRET)) as server, httpx.Client() as client:
        assert len(routes) > 10
        methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        for path, method in itertools.product([*map(fill, routes), "/admin", "/docs"], methods):
            reply = client.request(method, base(server) + path)
            assert reply.status_code == 401, (method, path)
        client.headers["authorization"] = f"Bearer {SECRET}"
        assert client.get(f"{base(server)}/metrics").status_code == 200
        assert client.post(f"{base(server)}/v1/classify", **IMAGE).status_code == 200


def test_names_that_clients_make_up_become_no_series(tmp_path):
    with running(app_of, CONFIG, source=DecodingSource(tmp_path)) as server, httpx.Client() as client:
        for k in range(100):
            for path in (f"/v2/models/made-up-{k}", f"/v2/models/digits/versions/made-up-{k}/infer", f"/made-up-{k}"):
                assert client.post(base(server) + path, content=b"{}").status_code in (404, 405)
        text = client.get(f"{base(server)}/metrics").text
    assert "made-up" not in text
    series = [line.partition("{")[0] for line in text.splitlines() if not line.startswith("#")]
    assert max(series.count(name) for name in series) <= 200


def test_a_port_that_is_taken_is_named():
    with open_listener("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port}: Address already in use.*--port 0") as caught:
            open_listener("127.0.0.1", port)
    assert caught.value.path == "port"


def test_an_address_of_another_machine_is_named():
    with pytest.raises(ConfigError, match="192.0.2.1 port 0: Cannot assign"):
        open_listener("192.0.2.1", 0)


def test_allow_connections_raises_the_limit_of_open_files_and_never_lowers_it():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allow_connections(1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
    if hard == resource.RLIM_INFINITY or hard > soft:
        allow_connections(soft)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > soft
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="apt-get install openssl")


AUTHORITY = """
[ca]
default_ca = here
[here]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = IP:127.0.0.1
"""


def make_certificate(folder, name="server", *, years=(2020, 2120)):
    """A certificate of its own authority, valid from the first year to the last."""
    aside = folder / f"{name}.ca"
    aside.mkdir()
    for file, text in (("index", ""), ("serial", "01"), ("config", AUTHORITY.format(folder=aside))):
        (aside / file).write_text(text)
    cert, key, asked = folder / f"{name}.crt", folder / f"{name}.key", aside / "asked"
    run = functools.partial(subprocess.run, check=True, capture_output=True)
    words = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
    run([OPENSSL, *words.split(), "-keyout", key, "-out", asked])
    first, last = (f"{year}0101000000Z" for year in years)
    words = f"ca -batch -selfsign -notext -startdate {first} -enddate {last} -config"
    run([OPENSSL, *words.split(), aside / "config", "-keyfile", key, "-in", asked, "-out", cert])
    return TlsConfig(cert_file=str(cert), key_file=str(key))


@needs_openssl
def test_tls_is_spoken_from_version_12_on(tmp_path):
    tls = make_certificate(tmp_path)
    config = ServingConfig(port=0, tls=tls, limits=LimitsConfig(header_timeout_s=1.0))
    with running(echo, config, folder=tmp_path, context=make_tls_context(tls)) as server:
        trusting = ssl.create_default_context(cafile=tls.cert_file)
        url = base(server).replace("http:", "https:")
        with httpx.Client(verify=trusting) as client:
            assert client.post(url, content=b"a" * 10**6).json()["length"] == 10**6
        old = ssl.create_default_context(cafile=tls.cert_file)
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            httpx.get(url, verify=old)
        with pytest.raises(httpx.TransportError):
            httpx.get(base(server))
        began = time.monotonic()  # a client that never shakes hands is closed as one that never sends headers
        with connected(server) as client:
            assert read_all(client) == b""
        assert time.monotonic() - began < 5


@needs_openssl
def test_files_that_cannot_encrypt_are_refused_at_the_start(tmp_path):
    one, other = make_certificate(tmp_path), make_certificate(tmp_path, "other")
    past = make_certificate(tmp_path, "past", years=(2020, 2021))
    future = make_certificate(tmp_path, "future", years=(2090, 2091))
    (tmp_path / "empty").write_text("")
    for tls, text in (
        (TlsConfig(cert_file=one.cert_file), "tls.key_file"),
        (TlsConfig(key_file=one.key_file), "tls.cert_file"),
        (TlsConfig(cert_file=one.cert_file, key_file=other.key_file), "mismatch"),
        (TlsConfig(cert_file=one.key_file, key_file=one.cert_file), "PEM files"),
        (TlsConfig(cert_file=str(tmp_path / "empty"), key_file=one.key_file), "PEM files"),
        (TlsConfig(cert_file=str(tmp_path / "nowhere"), key_file=one.key_file), "No such file"),
        (past, "has expired"),
        (future, "is not valid yet"),
    ):
        with pytest.raises(ConfigError) as caught:
            make_tls_context(tls)
        assert text in f"{caught.value.path} {caught.value}"
    assert make_tls_context(TlsConfig()) is None


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--package", "nowhere", "batching.max_siz=3"], 64, "did you mean 'max_size'"),
        (["--package", "nowhere", "--port", "70000"], 64, "port"),
        (["--package", "nowhere", "--host", "0.0.0.0"], 64, "--insecure"),
        (["--package", "nowhere", "--token-file", "nowhere"], 64, "a file with the token"),
        (["--package", "nowhere", "tls.cert_file=x"], 64, "both files or none"),
        (["--model", "digits"], 65, "NAME@ALIAS or NAME:VERSION"),
        (["--model", "../digits@champion"], 65, "model name"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(arguments, code, text, capsys):
    assert command.main(arguments) == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_without_the_extra_the_command_names_it(monkeypatch, capsys):
    monkeypatch.setattr(command, "_EXTRA", ("fastapi", "no_such_module"))
    assert command.main(["--package", "nowhere"]) == 64
    assert "no_such_module, not installed: pip install 'mlvlab_jax[serve]'" in capsys.readouterr().err


class Process:
    """`mlvlab serve` as a process of its own."""

    def __init__(self, *arguments, environment=()):
        line = [sys.executable, "-m", "mlvlab_jax.serve", "--port", "0", "batching.max_size=4", *map(str, arguments)]
        self.child = subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XLA_FLAGS": "", **dict(environment)},
        )
        self.said = ""

    def wait_ready(self):
        for text in self.child.stdout:
            self.said += text
            if text.startswith("ready after"):
                break
        else:
            raise AssertionError(self.child.stderr.read())
        self.url = re.search(r"page: (http\S*?)/(\s|$)", self.said).group(1)
        return self

    def end(self, number=signal.SIGTERM):
        self.child.send_signal(number)
        out, self.log = self.child.communicate(timeout=30)
        self.said += out
        return self.child.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
        self.child.communicate()


def read_metric(url, name, **options):
    text = httpx.get(f"{url}/metrics", **options).text
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, flags=re.MULTILINE).group(1))


def test_a_killed_server_starts_again_and_a_stopped_one_exits_with_0(made, tmp_path):
    served = shutil.copytree(made, tmp_path / "package")
    arguments = ("--package", served, f"recording.folder={tmp_path / 'recorded'}", "recording.share=1.0")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "MLVLAB_SERVE_TOKEN": SECRET}
    headers = {"authorization": f"Bearer {SECRET}"}
    with Process(*arguments, environment=environment) as process:
        process.wait_ready()
        assert process.end(signal.SIGKILL) == -9
    with Process(*arguments, environment=environment) as process, httpx.Client(headers=headers) as client:
        process.wait_ready()
        assert httpx.get(process.url).status_code == 401
        assert client.get(f"{process.url}/v2/health/ready").status_code == 200
        manifest = served / "manifest.json"
        whole = manifest.read_text()
        for text, failing in ((whole.replace('"tiny"', '"tinx"'), 1), (whole, 0)):
            manifest.write_text(text)
            process.child.send_signal(signal.SIGHUP)
            wait_for(
                lambda failing=failing: read_metric(process.url, "mlvlab_reload_failing", headers=headers) == failing
            )
        with loaded(process.url, rate=50, headers=headers) as load:
            wait_for(lambda: len(load.answers) > 20)
            stopped = time.monotonic()
            code = process.end()
        assert code == 0
        assert {status for status, _, _ in load.answers} <= {200, 503}
        check_none_dropped(load, stopped)
        assert (SECRET in process.said, SECRET in process.log) == (False, False)
        assert "reload refused: " in process.log
        assert "Traceback" not in process.log
    assert len(list((tmp_path / "recorded").rglob("*.request"))) > 20


def read_rss_mib(process):
    text = Path(f"/proc/{process.child.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text).group(1)) / 1024


def point(store, version):
    previous = store.aliases("tiny").get("champion")
    move = make_move("promote", alias="champion", version=version, previous=previous, details={})
    store.set_alias("tiny", "champion", move)


def has_version(url, version):
    return f'version="{version}"' in httpx.get(f"{url}/metrics").text.partition("mlvlab_model_info{")[2].split("\n")[0]


@pytest.mark.slow
def test_twenty_changes_of_version_within_20000_requests(made, tmp_path):
    other = make_tiny_package(tmp_path / "other", channels=3, training={"num_epochs": 3})
    store = FileStore(tmp_path / "registry")
    registry = ModelRegistry(store)
    for version, folder in (("1.0.0", made), ("2.0.0", other), ("3.0.0", other)):
        registry.register(name="tiny", version=version, package=folder)
    best = {v: load_package(f).preprocess_bytes(IMAGE["content"]) for v, f in (("1.0.0", made), ("2.0.0", other))}
    best = {v: load_package(f).predict_probabilities(best[v][None])[0] for v, f in (("1.0.0", made), ("2.0.0", other))}
    broken = registry.open_package("tiny", "3.0.0") / "model.safetensors"
    data = broken.read_bytes()
    broken.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    point(store, "1.0.0")
    arguments = ("--model", "tiny@champion", "--registry", tmp_path / "registry", "follow_s=0.2")
    with Process(*arguments, environment={"XDG_CACHE_HOME": str(tmp_path / "cache")}) as process:
        url = process.wait_ready().url
        with loaded(url, rate=50) as load:
            wait_for(lambda: len(load.answers) > 500)
            rss = [read_rss_mib(process)]
            for k, version in enumerate(("2.0.0", "1.0.0") * 10):
                point(store, version)
                wait_for(lambda version=version: has_version(url, version), seconds=120)
                wait_for(lambda k=k: len(load.answers) > 500 + 975 * (k + 1), seconds=120)
                rss.append(read_rss_mib(process))
            point(store, "3.0.0")
            wait_for(lambda: read_metric(url, "mlvlab_reload_failing") == 1, seconds=120)
            wait_for(lambda: len(load.answers) >= 20_500, seconds=120)
            answers = load.finish()
        assert process.end() == 0
    print(f"{len(answers)} requests, {len(load.errors)} errors; RSS {', '.join(f'{mib:.0f}' for mib in rss)} MiB")
    assert load.errors == []
    assert {status for status, _, _ in answers} == {200}
    assert [(v, int(best[v].argmax())) for v in best] == sorted({(v, int(top)) for _, v, top in answers})
    assert max(rss[-5:]) <= 1.1 * max(rss[1:6])


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once(made):
    with Process("--package", made) as process:
        host, port = process.wait_ready().url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /v1/classify HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
            time.sleep(0.2)
            process.child.send_signal(signal.SIGTERM)
            time.sleep(1.0)
            assert process.child.poll() is None
            began = time.monotonic()
            assert process.end(signal.SIGTERM) == 128 + signal.SIGTERM
            assert time.monotonic() - began < 1


@pytest.mark.slow
def test_ten_stops_under_load_drop_nothing_that_was_accepted(made, tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for _ in range(10):
        with Process("--package", made, environment=environment) as process:
            process.wait_ready()
            with loaded(process.url, rate=2000, num_clients=16) as load:
                wait_for(lambda load=load: len(load.answers) > 200)
                stopped = time.monotonic()
                assert process.end() == 0
                answers = load.finish()
            assert {status for status, _, _ in answers} <= {200, 503}
            check_none_dropped(load, stopped)
