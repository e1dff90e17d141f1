"""A server in a thread of this process, and a model that needs no device."""

import asyncio
import contextlib
import json
import socket
import threading
from types import SimpleNamespace

import numpy as np

from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.errors import MlvlabError, PackageError
from mlvlab_jax.serving.batcher import Batcher
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.models import Models
from mlvlab_jax.serving.predictor import Outputs
from mlvlab_jax.serving.server import find_loop_factory, open_listener, serve
from mlvlab_jax.serving.sources import Found
from mlvlab_jax.types import ImageSpec

SHA = {version: version[0] * 64 for version in ("1.0.0", "2.0.0", "3.0.0")}


class FakePredictor:
    """Says which version it is by the class it is sure of."""

    def __init__(self, found, *, image=(2, 2, 1), class_names=("zero", "one", "two", "three")):
        self.name, self.version = found.name, found.version
        self.class_names, self.image = class_names, ImageSpec(*image)
        self.itself = self  # as compiled programs do, so that only a collection frees them
        self.package = SimpleNamespace(manifest=SimpleNamespace(sha256=found.sha256))

    def predict(self, images):
        probabilities = np.zeros((len(images), len(self.class_names)), np.float32)
        probabilities[:, int(self.version[0])] = 1
        return Outputs(probabilities, probabilities, probabilities)


class FakeSource:
    """Means whatever `found` is set to; versions in `broken` cannot be opened."""

    follows = True

    def __init__(self, folder, version="1.0.0"):
        self.folder, self.error, self.broken, self.num_opened = folder, None, {}, 0
        self.change(version)

    def change(self, version):
        self.found = Found("digits", version, SHA[version])

    def find(self):
        if self.error is not None:
            raise self.error
        return self.found

    def open(self, found):
        return self.folder

    def load(self, path, found):
        self.num_opened += 1
        if found.version in self.broken:
            raise self.broken[found.version]
        return FakePredictor(found)


def broken_error():
    return PackageError("model.safetensors: was altered")


def make_models(source, config, metrics, **options):
    return Models(
        source,
        config,
        metrics=metrics,
        open_version=options.pop("open_version", source.load),
        make_batcher=lambda predictor: Batcher(predictor.predict, config.batching, metrics=metrics),
        **options,
    )


@contextlib.contextmanager
def running(app, config=None, *, source=None, token=None, context=None, folder=None, wait=True):
    """`app(models)` served on a free port of the loopback, in a thread; ends with the block."""
    config = config or ServingConfig(port=0)
    metrics = ServingMetrics(queue_capacity=config.batching.queue_size)
    listener = open_listener(config.host, config.port)
    it = SimpleNamespace(metrics=metrics, address=listener.getsockname()[:2], config=config, error=None)
    ready = threading.Event()
    started = threading.Event()

    async def main():
        it.loop, it.stop = asyncio.get_running_loop(), asyncio.Event()
        it.models = make_models(source or FakeSource(folder), config, metrics)
        started.set()
        await serve(
            app(it.models),
            config,
            models=it.models,
            metrics=metrics,
            token=token,
            listener=listener,
            context=context,
            stop=it.stop,
            on_ready=ready.set,
        )

    def run():
        try:
            with asyncio.Runner(loop_factory=find_loop_factory()) as runner:
                runner.run(main())
        except MlvlabError as error:
            it.error = error
        ready.set()

    it.thread = threading.Thread(target=run)
    it.thread.start()
    started.wait(10)
    it.end = lambda: it.loop.call_soon_threadsafe(it.stop.set)
    try:
        if wait:
            assert ready.wait(10)
        yield it
    finally:
        if it.thread.is_alive():
            it.end()
        it.thread.join(30)
        assert not it.thread.is_alive()


def echo(models):
    """Answers how long the body was, and which version is current."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status = 503 if scope["path"] == "/v2/health/ready" and not models.ready else 200
        text = json.dumps({"length": len(body), "path": scope["path"]}).encode()
        headers = [(b"content-length", str(len(text)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    return app


@contextlib.contextmanager
def connected(server, timeout=10):
    with socket.create_connection(server.address, timeout=timeout) as client:
        yield client


def exchange(server, data, *, timeout=10):
    """All that comes back for `data`, until the server closes."""
    with connected(server, timeout) as client:
        client.sendall(data)
        return read_all(client)


def read_all(client):
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(2**16):
            parts.append(part)
    return b"".join(parts)


def status_of(reply):
    return int(reply.split(b" ", 2)[1]) if reply else None
