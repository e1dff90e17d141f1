"""What every reply carries, and the replies to what is refused: fixed texts and a request id, nothing of the inside."""

import json
import logging
import math
import random
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from mlvlab_jax.data.decode import BadImageError
from mlvlab_jax.serving.errors import DeadlineError, InputError, OverloadedError, PredictionError
from mlvlab_jax.serving.models import NotReadyError, UnknownModelError

_log = logging.getLogger(__name__)

#: A client's own request id is taken if it can stand in a log, a file name and a label as it is.
_PLAIN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SCOPE_KEY = "mlvlab.request_id"
#: Ids have to differ, not to be secret. The system's own random numbers would let go of Python's lock each time.
_ids = random.Random()
#: Status of a request whose client left; it is only counted, nobody reads it.
CLIENT_GONE = 499
_PATH_TEXTS = {404: "no such path", 405: "the method is not allowed here"}
#: Kinds that always mean the same.
_REPLIES: dict[type[Exception], tuple[int, str]] = {
    UnknownModelError: (404, "no such model or version"),
    NotReadyError: (503, "the server is not ready"),
    InputError: (400, "the images are not what the model takes"),
    DeadlineError: (504, "the deadline passed before the answer was there"),
    PredictionError: (500, "the model gives no answer for this input"),
}
#: Reason of a BadImageError -> status and text.
_IMAGE_REPLIES = {
    "empty": (400, "the body is empty; send the bytes of an image file"),
    "format": (415, "not a JPEG, PNG, WebP, GIF or BMP file"),
    "too large": (413, "the image has more pixels than are accepted"),
    "corrupt": (400, "the image file is damaged or ends early"),
    "unreadable": (400, "the image file cannot be read"),
}


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        text: What the client is told; it holds nothing of the request and nothing of the inside.
        headers: More headers of the reply.
    """

    def __init__(self, status: int, text: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = dict(headers or {})


def find_request_id(scope: Scope) -> str:
    """The client's X-Request-Id where it is plain, else a new one; the same however often it is asked for."""
    known: str | None = scope.get(_SCOPE_KEY)
    if known is None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        plain = _PLAIN_ID.fullmatch(given)
        known = scope[_SCOPE_KEY] = given.decode("ascii") if plain else f"{_ids.getrandbits(128):032x}"
    return known


def reply_bytes(
    scope: Scope, content: bytes, *, media_type: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A reply with its request id."""
    named = {"X-Request-Id": find_request_id(scope), **(headers or {})}
    return Response(content, status_code=status, headers=named, media_type=media_type)


def reply_json(
    scope: Scope, content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON document with its request id."""
    encoded = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    return reply_bytes(scope, encoded, media_type="application/json", status=status, headers=headers)


def reply_error(scope: Scope, status: int, text: str, *, headers: Mapping[str, str] | None = None) -> Response:
    """The reply to a request that is refused: {"error": text, "request_id": ...}."""
    return reply_json(scope, {"error": text, "request_id": find_request_id(scope)}, status=status, headers=headers)


def name_version(version: str) -> dict[str, str]:
    """The header that says which version answered."""
    return {"X-Model-Version": version}


def reply_failure(scope: Scope, error: Exception) -> Response:
    """The reply to a request that failed: its own status and text for each known error, 500 and a log for others."""
    if isinstance(error, RefusedError):
        return reply_error(scope, error.status, error.text, headers=error.headers)
    if isinstance(error, BadImageError):
        return reply_error(scope, *_IMAGE_REPLIES[error.reason])
    if isinstance(error, OverloadedError):
        text = "too many requests are waiting" if error.reason == "queue_full" else "the server is stopping"
        wait_s = max(1, math.ceil(error.retry_after_s))
        return reply_error(scope, 503, text, headers={"Retry-After": str(wait_s)})
    for kind, (status, text) in _REPLIES.items():
        if isinstance(error, kind):
            return reply_error(scope, status, text)
    _log.error("request %s failed", find_request_id(scope), exc_info=error)
    return reply_error(scope, 500, "internal error")


def add_path_replies(app: FastAPI) -> None:
    """Makes `app` answer for paths and methods it does not have as for everything else."""

    async def reply(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = _PATH_TEXTS.get(error.status_code, "the request is not understood")
        return reply_error(request.scope, error.status_code, text, headers=error.headers)

    app.add_exception_handler(HTTPException, reply)
