"""POST /v1/classify: the bytes of an image file in, the most probable classes out."""

import asyncio
import functools

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from mlvlab_jax.serving.after import Answer
from mlvlab_jax.serving.incoming import parse_count, receive, while_connected
from mlvlab_jax.serving.openapi import DEADLINE, IMAGE_BODY, TOP_K, Classified, document_errors
from mlvlab_jax.serving.parts import Parts
from mlvlab_jax.serving.replies import RefusedError, find_request_id, name_version, reply_json


def add_classify(app: FastAPI, parts: Parts) -> None:
    """Adds the route."""

    async def classify(request: Request) -> Response:
        """The most probable classes of one image file, with calibrated probabilities."""
        return await _classify(request, parts)

    app.add_api_route(
        "/v1/classify",
        classify,
        methods=["POST"],
        response_model=Classified,
        responses=document_errors(400, 408, 413, 415, 499, 500, 503, 504),
        openapi_extra={"parameters": [TOP_K, DEADLINE], "requestBody": IMAGE_BODY},
    )


async def _classify(request: Request, parts: Parts) -> Response:
    content_type = _read_content_type(request)
    top_k = _read_top_k(request, default=parts.config.top_k)
    with parts.models.current().lease() as served:
        predictor, batcher = served.predictor, served.batcher
        incoming = await receive(request, parts.config.batching, metrics=parts.metrics)
        decode = functools.partial(predictor.decode, incoming.body)
        async with while_connected(request):
            batcher.check_room(1)
            with batcher.arriving():
                header, pixels = await parts.decoders.run(decode, deadline=incoming.deadline)
            outputs = await batcher.submit(pixels[None], deadline=incoming.deadline)
        best = predictor.top(outputs.probabilities[0], top_k)
    name, version, request_id = predictor.name, predictor.version, find_request_id(request.scope)
    parts.metrics.add_predictions(name, version, 1)
    predictions = [{"label": label, "probability": probability} for label, probability in best]
    content = {"request_id": request_id, "model": name, "version": version, "predictions": predictions}
    response = reply_json(request.scope, content, headers=name_version(version))
    latency_s = asyncio.get_running_loop().time() - incoming.arrived
    size_px, file = (header.height, header.width), (content_type, incoming.body)
    response.background = parts.audience.tell_later(
        Answer(request_id, pixels[None], outputs, version, latency_s, size_px=size_px, file=file)
    )
    return response


def _read_content_type(request: Request) -> str:
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise RefusedError(
            415, "send the bytes of an image file as the body, with Content-Type image/* or application/octet-stream"
        )
    return given


def _read_top_k(request: Request, *, default: int) -> int:
    given = request.query_params.get("top_k") if request.scope["query_string"] else None
    return default if given is None else parse_count(given, "top_k")
