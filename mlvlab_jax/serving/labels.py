"""POST /v1/labels: the true class of an image that was answered before."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from mlvlab_jax.monitoring.errors import UnknownLabelError, UnknownPredictionError
from mlvlab_jax.serving.openapi import LABEL_BODY, LabelAccepted, document_errors
from mlvlab_jax.serving.replies import RefusedError, reply_json
from mlvlab_jax.serving.strict_json import parse_json

TakeLabel = Callable[[str, int, str], None]


def add_labels(app: FastAPI, label: TakeLabel | None) -> None:
    """Adds the route; without `label` it answers 404."""

    async def labels(request: Request) -> Response:
        """Takes the true class of an image that was answered before; the live accuracy is made of these."""
        if label is None:
            raise RefusedError(404, "nothing is watched here")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "send JSON, with Content-Type application/json")
        request_id, item, name = _parse(await request.body())
        try:
            label(request_id, item, name)
        except UnknownPredictionError:
            raise RefusedError(404, "no such prediction, or it has its label already") from None
        except UnknownLabelError:
            raise RefusedError(400, "the model has no class of that name") from None
        return reply_json(request.scope, {"request_id": request_id}, status=202)

    app.add_api_route(
        "/v1/labels",
        labels,
        methods=["POST"],
        status_code=202,
        response_model=LabelAccepted,
        responses=document_errors(400, 404, 408, 413, 415),
        openapi_extra={"requestBody": LABEL_BODY},
    )


def _parse(body: bytes) -> tuple[str, int, str]:
    document: Any = parse_json(body)
    if isinstance(document, dict):
        request_id, item, name = document.get("request_id"), document.get("item", 0), document.get("label")
        if isinstance(request_id, str) and type(item) is int and item >= 0 and isinstance(name, str):
            return request_id, item, name
    raise RefusedError(400, 'expected {"request_id": string, "item": whole number, "label": name of a class}')
