"""One request that nobody sent, before the server is ready: what a first one imports and builds is there then."""

import asyncio
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mlvlab_jax.serving.app import make_app
from mlvlab_jax.serving.metrics import ServingMetrics

if TYPE_CHECKING:
    from mlvlab_jax.config.serving import ServingConfig
    from mlvlab_jax.serving.models import Models

_SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/v1/classify",
    "raw_path": b"/v1/classify",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"host", b"localhost"), (b"content-type", b"image/png")],
    "client": None,
    "server": None,
}


async def rehearse(models: "Models", config: "ServingConfig") -> int:
    """Sends a grey picture through an application of its own, which counts and tells nobody.

    Returns:
        The status of the answer.
    """
    app = make_app(models, config, metrics=ServingMetrics(), observe=None, record=None, label=None)
    body = asyncio.Queue[dict[str, Any]]()  # after the body it blocks, as for a client that waits
    body.put_nowait({"type": "http.request", "body": _draw(models), "more_body": False})
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(dict(_SCOPE), body.get, send)
    return statuses[0]


def _draw(models: "Models") -> bytes:
    """A PNG of the size that the model takes."""
    height, width, channels = models.current().predictor.image
    pixels = np.full((height, width, channels), 127, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "PNG")
    return file.getvalue()
