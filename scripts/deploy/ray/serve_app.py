"""A Ray Serve application: the same predictor, as many copies over a cluster as there is work for.

Install the extra on every node, and put the package where all of them can read it:

    pip install 'mlvlab_jax[ray]'
    serve run scripts.deploy.ray.serve_app:make_app package=/models/digits
    curl --data-binary @three.png http://127.0.0.1:8000/v1/classify

`serve run` listens on loopback alone. Ray Serve knows no tokens: put what asks for them in front before other machines
can reach it, and do not let them reach Ray's own ports. A replica is ready once every size of batch is compiled; a new
package is rolled out by running the application again, with its path.
"""

import asyncio
import uuid

import numpy as np
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.data.decode import BadImageError
from mlvlab_jax.serving.predictor import Predictor

CONFIG = ServingConfig()
_MAX_SIZE = CONFIG.batching.max_size


@serve.deployment(
    # A replica has two batches, one computed and one that fills; what waits for it is bounded as in the server.
    max_ongoing_requests=2 * _MAX_SIZE,
    max_queued_requests=CONFIG.batching.queue_size,
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": _MAX_SIZE,
        "upscale_delay_s": 10,
        "downscale_delay_s": 300,
    },
    graceful_shutdown_timeout_s=CONFIG.grace_s,
    ray_actor_options={"num_cpus": 1},
)
class Classifier:
    """Answers POST /v1/classify with the bytes of an image file, as the server of mlvlab_jax does.

    Args:
        package: Path of the package.
    """

    def __init__(self, package: str) -> None:
        self._predictor = Predictor.open(package, max_batch=_MAX_SIZE)

    @serve.batch(max_batch_size=_MAX_SIZE, batch_wait_timeout_s=CONFIG.batching.max_wait_ms / 1e3)
    async def classify(self, images: list[np.ndarray]) -> list[np.ndarray]:
        """Probabilities, (k), of each image, uint8 (h w c), put together to batches by Ray."""
        return list((await asyncio.to_thread(self._predictor.predict, np.stack(images))).probabilities)

    async def __call__(self, request: Request) -> JSONResponse:
        """One request."""
        if (request.method, request.url.path) != ("POST", "/v1/classify"):
            return JSONResponse({"error": "expected POST /v1/classify"}, 404)
        body = await _read_body(request, max_bytes=int(CONFIG.limits.max_body_mib * 2**20))
        if body is None:
            return JSONResponse({"error": f"expected at most {CONFIG.limits.max_body_mib:g} MiB"}, 413)
        try:
            _, pixels = await asyncio.to_thread(self._predictor.decode, body)
        except BadImageError as error:
            return JSONResponse({"error": f"not an image that can be read: {error.reason}"}, 400)
        probabilities = await self.classify(pixels)
        if not np.isfinite(probabilities).all():
            return JSONResponse({"error": "the model gives no answer"}, 500)
        top = self._predictor.top(probabilities, CONFIG.top_k)
        return JSONResponse(
            {
                "request_id": str(uuid.uuid4()),
                "model": self._predictor.name,
                "version": self._predictor.version,
                "predictions": [{"label": label, "probability": probability} for label, probability in top],
            }
        )


async def _read_body(request: Request, *, max_bytes: int) -> bytes | None:
    """The body; None as soon as it is over `max_bytes`."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            return None
        parts.append(part)
    return b"".join(parts)


def make_app(arguments: dict[str, str]) -> serve.Application:
    """The application of `serve run ...:make_app package=PATH`."""
    return Classifier.bind(arguments["package"])
