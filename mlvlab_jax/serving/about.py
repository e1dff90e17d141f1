"""The routes that tell of the server and its model: health, metadata, metrics, the OpenAPI document."""

import json
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

import mlvlab_jax
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.models import Models
from mlvlab_jax.serving.openapi import (
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    document_errors,
    document_path,
)
from mlvlab_jax.serving.protocol import describe_model
from mlvlab_jax.serving.replies import find_request_id, name_version, reply_bytes, reply_json

_SERVER = {"name": "mlvlab_jax", "version": mlvlab_jax.__version__, "extensions": ["binary_tensor_data"]}
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def add_health(app: FastAPI, models: Models) -> None:
    """Adds the server's own metadata, and whether it lives and takes requests."""

    async def server(request: Request) -> Response:
        """The server and the extensions of the protocol it speaks."""
        return reply_json(request.scope, _SERVER)

    async def live(request: Request) -> Response:
        """Whether the process answers."""
        return reply_json(request.scope, {"live": True})

    async def ready(request: Request) -> Response:
        """Whether requests are taken."""
        if models.ready:
            return reply_json(request.scope, {"ready": True})
        refusal = {"ready": False, "error": "the server is not ready", "request_id": find_request_id(request.scope)}
        return reply_json(request.scope, refusal, status=503)

    app.add_api_route("/v2", server, response_model=ServerMetadata, responses=document_errors())
    app.add_api_route("/v2/health/live", live, response_model=Live, responses=document_errors())
    app.add_api_route("/v2/health/ready", ready, response_model=Ready, responses=document_errors(503))


def add_metadata(app: FastAPI, models: Models) -> None:
    """Adds the model's metadata and whether it takes requests, with and without a version."""

    async def metadata(request: Request) -> Response:
        """The model's versions and tensors."""
        predictor = models.find(request.path_params["name"], request.path_params.get("version")).predictor
        return reply_json(request.scope, describe_model(predictor), headers=name_version(predictor.version))

    async def ready(request: Request) -> Response:
        """Whether the model takes requests."""
        predictor = models.find(request.path_params["name"], request.path_params.get("version")).predictor
        headers = name_version(predictor.version)
        return reply_json(request.scope, {"name": predictor.name, "ready": True}, headers=headers)

    errors = document_errors(404, 503)
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        extra = {"parameters": document_path(path)}
        app.add_api_route(path, metadata, response_model=ModelMetadata, responses=errors, openapi_extra=extra)
        app.add_api_route(f"{path}/ready", ready, response_model=ModelReady, responses=errors, openapi_extra=extra)


def add_metrics(app: FastAPI, metrics: ServingMetrics) -> None:
    """Adds the page that Prometheus reads."""

    async def show(request: Request) -> Response:
        """All counters, as Prometheus reads them."""
        return reply_bytes(request.scope, metrics.render(), media_type=_METRICS_TYPE)

    content: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    app.add_api_route("/metrics", show, response_class=Response, responses=document_errors() | content)


def add_openapi(app: FastAPI) -> None:
    """Adds the OpenAPI document of the routes that were added before."""
    # Whether a token is needed is the server's matter; a client that has one sends it so.
    token = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    described = app.openapi()
    components = {**described["components"], **token}
    document = json.dumps({**described, "components": components, "security": [{"token": []}, {}]}).encode()

    async def openapi(request: Request) -> Response:
        return reply_bytes(request.scope, document, media_type="application/json")

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
