"""POST /v2/models/{name}/infer: the inference of the Open Inference Protocol, tensors in and out."""

import asyncio
import functools

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from mlvlab_jax.serving.after import Answer
from mlvlab_jax.serving.binary import HEADER_LENGTH
from mlvlab_jax.serving.incoming import receive, while_connected
from mlvlab_jax.serving.openapi import (
    DEADLINE,
    INFER_BODY,
    InferAnswer,
    document_binary,
    document_errors,
    document_path,
)
from mlvlab_jax.serving.parts import Parts
from mlvlab_jax.serving.protocol import InferReply, count_json_values, parse_request, render_reply
from mlvlab_jax.serving.replies import find_request_id, name_version, reply_bytes

#: Numbers that are written as JSON at once; more is left to the decoders' threads, so that others are answered
#: meanwhile.
_FEW_VALUES = 10_000


def add_infer(app: FastAPI, parts: Parts) -> None:
    """Adds the route, with and without a version."""

    async def infer(request: Request) -> Response:
        """The outputs of the model for a tensor of images."""
        return await _infer(request, parts)

    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        app.add_api_route(
            path,
            infer,
            methods=["POST"],
            response_model=InferAnswer,
            responses=document_errors(400, 404, 408, 413, 415, 499, 500, 503, 504) | document_binary("The outputs"),
            openapi_extra={"parameters": [*document_path(path), DEADLINE], "requestBody": INFER_BODY},
        )


async def _infer(request: Request, parts: Parts) -> Response:
    with parts.models.find(request.path_params["name"], request.path_params.get("version")).lease() as served:
        predictor, request_id = served.predictor, find_request_id(request.scope)
        incoming = await receive(request, parts.config.batching, metrics=parts.metrics)
        asked = parse_request(incoming.body, request.headers.get(HEADER_LENGTH), image=predictor.image)
        async with while_connected(request):
            outputs = await served.batcher.submit(asked.images, deadline=incoming.deadline)
            latency_s = asyncio.get_running_loop().time() - incoming.arrived
            render = functools.partial(render_reply, asked, outputs, predictor=predictor, request_id=request_id)
            few = count_json_values(asked, outputs) <= _FEW_VALUES
            reply = render() if few else await parts.decoders.run(render, deadline=incoming.deadline)
    parts.metrics.add_predictions(predictor.name, predictor.version, len(asked.images))
    response = _make_response(request, reply, version=predictor.version)
    answer = Answer(request_id, asked.images, outputs, predictor.version, latency_s)
    response.background = parts.audience.tell_later(answer)
    return response


def _make_response(request: Request, reply: InferReply, *, version: str) -> Response:
    headers = name_version(version)
    if reply.header_length is None:
        return reply_bytes(request.scope, reply.body, media_type="application/json", headers=headers)
    headers[HEADER_LENGTH] = str(reply.header_length)
    return reply_bytes(request.scope, reply.body, media_type="application/octet-stream", headers=headers)
