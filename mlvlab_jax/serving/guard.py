"""What stands before every route: counting, who may ask, whether requests are taken, and how much is read."""

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlvlab_jax.serving.auth import BROWSER_CHALLENGE, CHALLENGE, Token
from mlvlab_jax.serving.limits import REFUSED, Bodies, BodyError, ClientGoneError, drop_rest, has_body
from mlvlab_jax.serving.page import reply_page
from mlvlab_jax.serving.replies import CLIENT_GONE, reply_error

if TYPE_CHECKING:
    from mlvlab_jax.config.serving import ServingConfig
    from mlvlab_jax.serving.metrics import ServingMetrics
    from mlvlab_jax.serving.models import Models

_log = logging.getLogger(__name__)

#: Answered whether or not a model can answer.
_ALWAYS = frozenset({"/", "/metrics", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
_Headers = Iterable[tuple[str, str]]


class Guard:
    """The application that the server runs: `app` behind the checks; nothing of it is reached around them.

    Args:
        app: What answers.
        config: Of the server.
        token: What each request must carry; None: anyone may ask.
        metrics: Told of each request.
        models: Knows whether requests are taken.
    """

    def __init__(
        self, app: ASGIApp, config: "ServingConfig", *, token: Token | None, metrics: "ServingMetrics", models: "Models"
    ) -> None:
        self._app, self._token, self._metrics, self._models = app, token, metrics, models
        self._bodies = Bodies(config.limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, ended, status = time.perf_counter(), 0.0, 0

        async def watched(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._models.draining and (b"connection", b"close") not in message["headers"]:
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)
            if not message.get("more_body", False):
                ended = time.perf_counter()  # the application may go on, to tell those who watch

        try:
            await self._answer(scope, receive, watched)
        except Exception:
            _log.exception("a request failed")
            if status:
                raise  # the connection is closed: the rest of the answer cannot be made up
            await reply_error(scope, 500, "internal error")(scope, receive, watched)
        finally:
            seconds = (ended or time.perf_counter()) - began
            code = status or scope.get(REFUSED, CLIENT_GONE)
            self._metrics.add_request(scope["path"], code=code, seconds=seconds)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        if self._token is not None and not self._token.admits(v for n, v in headers if n == b"authorization"):
            await self._refuse_stranger(scope, receive, send)
        elif _is_from_other_site(scope):
            await self._refuse(403, "pages of other sites may not ask", "unauthorized", scope, receive, send)
        elif not self._models.ready and scope["path"] not in _ALWAYS:
            reason, text = ("draining", "the server is stopping") if self._models.draining else (None, "not ready yet")
            await self._refuse(503, text, reason, scope, receive, send, [("Retry-After", "1")])
        elif has_body(headers):
            await self._answer_body(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the body; the application then gets it in one message."""
        try:
            body = await self._bodies.read(scope["headers"], receive)
        except BodyError as error:
            later = [("Retry-After", "1")] if error.status == 503 else []
            await self._refuse(error.status, error.text, error.reason, scope, receive, send, later)
            return
        except ClientGoneError:
            if REFUSED not in scope:
                self._metrics.add_refusal("client_gone")
            return
        message: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def receive_whole() -> Message:
            nonlocal message
            given, message = message, None
            return given or await receive()

        try:
            await self._app(scope, receive_whole, send)
        finally:
            self._bodies.release(body)

    async def _refuse_stranger(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Asks for the token; at / a person is shown the page, which asks for it itself."""
        headers = [("WWW-Authenticate", CHALLENGE)]
        if not any(name == b"accept" and b"text/html" in value for name, value in scope["headers"]):
            await self._refuse(401, "a token is needed", "unauthorized", scope, receive, send, headers)
        elif scope["path"] == "/" and not has_body(scope["headers"]):
            self._metrics.add_refusal("unauthorized")
            await reply_page(scope, status=401, headers=dict(headers))(scope, receive, send)
        else:
            headers.append(("WWW-Authenticate", BROWSER_CHALLENGE))
            await self._refuse(401, "a token is needed", "unauthorized", scope, receive, send, headers)

    async def _refuse(
        self,
        status: int,
        text: str,
        reason: str | None,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: _Headers = (),
    ) -> None:
        """Replies without having read the body; drops the rest of it and closes, so that the reply is seen."""
        if reason is not None:
            self._metrics.add_refusal(reason)
        reply = reply_error(scope, status, text)
        reply.raw_headers.extend((name.lower().encode(), value.encode()) for name, value in headers)
        if not has_body(scope["headers"]):
            await reply(scope, receive, send)
            return
        reply.raw_headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": reply.raw_headers})
        await send({"type": "http.response.body", "body": reply.body, "more_body": True})
        await drop_rest(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_from_other_site(scope: Scope) -> bool:
    """Whether a browser says that a page of another site made it ask: it may hold the token, or be on this machine."""
    return scope["method"] not in ("GET", "HEAD") and any(
        name == b"sec-fetch-site" and value == b"cross-site" for name, value in scope["headers"]
    )
