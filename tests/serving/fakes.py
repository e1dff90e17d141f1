"""A server's parts without a device: a model that counts pixels, and an application around it."""

import asyncio
import contextlib
import json
import re
import socket
import threading
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import httpx
import numpy as np
import uvicorn
from PIL import Image

import mlvlab_jax
from mlvlab_jax.config.schema import PreprocessSpec
from mlvlab_jax.config.serving import BatchingConfig, ServingConfig
from mlvlab_jax.data.decode import inspect_image
from mlvlab_jax.serving.app import make_app
from mlvlab_jax.serving.batcher import Batcher
from mlvlab_jax.serving.connection import make_connection_class
from mlvlab_jax.serving.guard import Guard
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.models import NotReadyError, Served, UnknownModelError
from mlvlab_jax.serving.predictor import Outputs, Predictor
from mlvlab_jax.types import ImageSpec
from tests.data.hostile import encode

NAMES = ("dark", "grey", "light", "<b>white</b>")
SPEC = PreprocessSpec(size=(4, 4), channels=3)
VERSION = "0123456789ab"
PNG = {"content-type": "image/png"}
INFER = "/v2/models/shades/infer"
_LIBRARIES = [
    re.escape(metadata.version(name)) for name in ("fastapi", "starlette", "uvicorn", "jax", "numpy", "pydantic")
]
_PLACE = re.escape(str(Path(mlvlab_jax.__file__).parents[1]))
#: What no reply may hold: addresses, places, tracebacks, versions of libraries.
LEAKS = re.compile("|".join([r"0x[0-9a-f]{6,}", "Traceback", "site-packages", _PLACE, *_LIBRARIES]))


class FakePredictor:
    """Class = quarter of the grey scale that the mean of the pixels is in."""

    name, version, class_names, image = "shades", VERSION, NAMES, ImageSpec(4, 4, 3)
    package = SimpleNamespace(reference=SimpleNamespace(center=np.zeros(2)))
    top = Predictor.top

    def decode(self, data):
        return inspect_image(data, SPEC)

    def predict(self, images):
        mean = images.reshape(len(images), -1).mean(axis=1)
        logits = -np.abs(np.arange(4) * 64 + 32 - mean[:, None]).astype(np.float32) / 8
        grown = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = grown / grown.sum(axis=1, keepdims=True)
        return Outputs(logits, probabilities, np.stack([mean, mean / 255], axis=1).astype(np.float32))


_batchers = []


def close_all():
    """Ends the threads of all models that were made."""
    while _batchers:
        asyncio.run(_batchers.pop().close(0))


class FakeModels:
    """One version, always."""

    def __init__(self, predictor, config, metrics):
        self.ready, self.draining, self.served = True, False, None
        self._make = lambda: Served(predictor, Batcher(predictor.predict, config.batching, metrics=metrics))

    def current(self):
        if self.served is None:
            if self._make is None:
                raise NotReadyError
            self.served = self._make()
            _batchers.append(self.served.batcher)
        return self.served

    def find(self, name, version=None):
        served = self.current()
        if name != served.predictor.name or version not in (None, served.predictor.version):
            raise UnknownModelError
        return served


class Serving(NamedTuple):
    app: object
    config: ServingConfig
    models: FakeModels
    metrics: ServingMetrics
    told: dict

    def refused(self, reason):
        return self.metrics.registry.get_sample_value("mlvlab_refused_total", {"reason": reason})

    def ask(self, method, path, **options):
        """One request, in an event loop of its own."""
        return asyncio.run(self.ask_later(method, path, **options))

    async def ask_later(self, method, path, **options):
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, **options)


def make_serving(predictor=None, *, label=None, fail=False, batching=None, **config):
    """An application and what its observers were told."""
    config = ServingConfig(batching=BatchingConfig(**(batching or {})), **config)
    metrics = ServingMetrics(queue_capacity=config.batching.queue_size)
    predictor = predictor or FakePredictor()
    metrics.set_model(predictor.name, predictor.version, package="")
    told = {"observe": [], "record": [], "label": []}

    def keep(kind):
        def call(*arguments):
            told[kind].append(arguments)
            if fail:
                raise ZeroDivisionError("an observer of 0x7f0123456789")

        return call

    models = FakeModels(predictor, config, metrics)
    label = label or (None if label is False else keep("label"))
    app = make_app(models, config, metrics=metrics, observe=keep("observe"), record=keep("record"), label=label)
    return Serving(app, config, models, metrics, told)


def check_refusal(response, status):
    """The reply to a refused request: its status, a text, the request's id, nothing else."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() - {"ready"} == {"error", "request_id"}
    assert response.headers["x-request-id"] == body["request_id"]
    assert not LEAKS.search(response.text)
    return body["error"]


def tensor(data=None, **changes):
    if data is None:
        data = [0] * 48
    return {"inputs": [{"name": "image", "shape": [1, 4, 4, 3], "datatype": "UINT8", "data": data} | changes]}


def shade(value, kind="PNG", size=(9, 7)):
    return encode(Image.new("RGB", size, (value, value, value)), kind)


def make_body(images, *, outputs=None, **parameters):
    """A request of the binary tensor data extension, and its headers."""
    document = {
        "inputs": [
            {
                "name": "image",
                "shape": list(images.shape),
                "datatype": "UINT8",
                "parameters": {"binary_data_size": images.nbytes},
            }
        ]
    }
    if outputs:
        document["outputs"] = outputs
    if parameters:
        document["parameters"] = parameters
    text = json.dumps(document).encode()
    return text + images.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def read_reply(response):
    """Name -> array of a reply with binary tensors."""
    length = int(response.headers["inference-header-content-length"])
    document, at, found = json.loads(response.content[:length]), length, {}
    for tensor in document["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[tensor["name"]] = tensor["data"]
            continue
        found[tensor["name"]] = (tensor, response.content[at : at + size])
        at += size
    assert at == len(response.content)
    return found


@contextlib.contextmanager
def listening(serving, *, token=None):
    """Port of this machine at which `serving` answers as a server does, in a thread of its own."""
    guard = Guard(serving.app, serving.config, token=token, metrics=serving.metrics, models=serving.models)
    options = {"http": make_connection_class(serving.config.limits, serving.metrics), "log_config": None}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(guard, lifespan="off", access_log=False, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
