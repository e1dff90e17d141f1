"""POST /v2/models/{name}/infer: the inference of the Open Inference Protocol, tensors in and out."""

import asyncio
import functools

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.serving.after import Answer, Audience
from mlvlab_jax.serving.binary import HEADER_LENGTH
from mlvlab_jax.serving.decoders import Decoders
from mlvlab_jax.serving.incoming import Incoming, receive, while_connected
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.models import Models
from mlvlab_jax.serving.openapi import DEADLINE, INFER_BODY, InferAnswer, document_errors, document_path
from mlvlab_jax.serving.protocol import InferReply, InferRequest, count_json_values, parse_request, render_reply
from mlvlab_jax.serving.replies import find_request_id, name_version, reply_bytes
from mlvlab_jax.types import ImageSpec

#: Bytes of JSON, and numbers in one, that are read and written at once; more is left to the decoders' threads, so that
#: others are answered meanwhile.
_FEW_BYTES, _FEW_VALUES = 64 * 2**10, 10_000


def add_infer(
    app: FastAPI,
    models: Models,
    config: ServingConfig,
    *,
    decoders: Decoders,
    metrics: ServingMetrics,
    audience: Audience,
) -> None:
    """Adds the route, with and without a version."""

    async def infer(request: Request) -> Response:
        """The outputs of the model for a tensor of images."""
        with models.find(request.path_params["name"], request.path_params.get("version")).lease() as served:
            predictor = served.predictor
            incoming = await receive(request, config.batching, metrics=metrics)
            async with while_connected(request):
                asked = await _parse(request, incoming, predictor.image, decoders)
                outputs = await served.batcher.submit(asked.images, deadline=incoming.deadline)
                latency_s = asyncio.get_running_loop().time() - incoming.arrived
                request_id = find_request_id(request.scope)
                call = functools.partial(render_reply, asked, outputs, predictor=predictor, request_id=request_id)
                few = count_json_values(asked, outputs) <= _FEW_VALUES
                reply = call() if few else await decoders.run(call, deadline=incoming.deadline)
        metrics.add_predictions(predictor.name, predictor.version, len(asked.images))
        response = _make_response(request, reply, version=predictor.version)
        answer = Answer(request_id, asked.images, outputs, predictor.version, latency_s)
        response.background = audience.tell_later(answer)
        return response

    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        app.add_api_route(
            path,
            infer,
            methods=["POST"],
            response_model=InferAnswer,
            responses=document_errors(400, 404, 408, 413, 415, 499, 500, 503, 504),
            openapi_extra={"parameters": [*document_path(path), DEADLINE], "requestBody": INFER_BODY},
        )


async def _parse(request: Request, incoming: Incoming, image: ImageSpec, decoders: Decoders) -> InferRequest:
    header_length = request.headers.get(HEADER_LENGTH)
    call = functools.partial(parse_request, incoming.body, header_length, image=image)
    few = header_length is not None or len(incoming.body) <= _FEW_BYTES
    return call() if few else await decoders.run(call, deadline=incoming.deadline)


def _make_response(request: Request, reply: InferReply, *, version: str) -> Response:
    headers = name_version(version)
    if reply.header_length is None:
        return reply_bytes(request.scope, reply.body, media_type="application/json", headers=headers)
    headers[HEADER_LENGTH] = str(reply.header_length)
    return reply_bytes(request.scope, reply.body, media_type="application/octet-stream", headers=headers)
