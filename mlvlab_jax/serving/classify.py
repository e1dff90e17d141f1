"""POST /v1/classify: the bytes of an image file in, the most probable classes out."""

import asyncio
import functools

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.serving.after import Answer, Audience
from mlvlab_jax.serving.decoders import Decoders
from mlvlab_jax.serving.incoming import parse_count, receive, while_connected
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.models import Models
from mlvlab_jax.serving.openapi import DEADLINE, IMAGE_BODY, TOP_K, Classified, document_errors
from mlvlab_jax.serving.replies import RefusedError, find_request_id, name_version, reply_json


def add_classify(
    app: FastAPI,
    models: Models,
    config: ServingConfig,
    *,
    decoders: Decoders,
    metrics: ServingMetrics,
    audience: Audience,
) -> None:
    """Adds the route."""

    async def classify(request: Request) -> Response:
        """The most probable classes of one image file, with calibrated probabilities."""
        content_type = _read_content_type(request)
        top_k = _read_top_k(request, default=config.top_k)
        with models.current().lease() as served:
            predictor, batcher = served.predictor, served.batcher
            incoming = await receive(request, config.batching, metrics=metrics)
            decode = functools.partial(predictor.decode, incoming.body)
            async with while_connected(request):
                with batcher.arriving():
                    header, pixels = await decoders.run(decode, deadline=incoming.deadline)
                outputs = await batcher.submit(pixels[None], deadline=incoming.deadline)
            best = predictor.top(outputs.probabilities[0], top_k)
        metrics.add_predictions(predictor.name, predictor.version, 1)
        request_id = find_request_id(request.scope)
        content = {
            "request_id": request_id,
            "model": predictor.name,
            "version": predictor.version,
            "predictions": [{"label": label, "probability": probability} for label, probability in best],
        }
        response = reply_json(request.scope, content, headers=name_version(predictor.version))
        answer = Answer(
            request_id,
            pixels[None],
            outputs,
            predictor.version,
            asyncio.get_running_loop().time() - incoming.arrived,
            size_px=(header.height, header.width),
            file=(content_type, incoming.body),
        )
        response.background = audience.tell_later(answer)
        return response

    app.add_api_route(
        "/v1/classify",
        classify,
        methods=["POST"],
        response_model=Classified,
        responses=document_errors(400, 408, 413, 415, 499, 500, 503, 504),
        openapi_extra={"parameters": [TOP_K, DEADLINE], "requestBody": IMAGE_BODY},
    )


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
