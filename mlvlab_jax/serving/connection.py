"""One HTTP connection, with an end to everything a client can drag out before there is a request to answer.

The parser and the life of a request are uvicorn's; what is added is bounded time and size of headers, a bounded number
of pieces of a body, and a bounded number of connections.
"""

import asyncio
import json
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mlvlab_jax.serving.limits import LINGER_S, REFUSED

if TYPE_CHECKING:
    from mlvlab_jax.config.serving import LimitsConfig
    from mlvlab_jax.serving.metrics import ServingMetrics

#: Of the pieces a body is sent in, each of which costs the event loop, this many or one a KiB may come.
_MIN_CHUNKS = 1000
#: Requests that may be sent ahead of the answer to the first.
_MAX_PIPELINED = 16


class _Reply(NamedTuple):
    status: int
    text: str
    reason: str | None = None


_BAD_REQUEST = _Reply(400, "the request is not HTTP as it should be")
_LONG_HEADERS = _Reply(431, "the headers are too long", "too_large")
_SLOW_HEADERS = _Reply(408, "the headers took too long", "too_slow")
_MANY_CHUNKS = _Reply(413, "the body comes in too many pieces", "too_large")
_PIPELINED = _Reply(400, "too many requests were sent ahead")


def make_connection_class(limits: "LimitsConfig", metrics: "ServingMetrics") -> type[HttpToolsProtocol]:
    """The protocol of uvicorn, which makes one for each connection, held to `limits`."""

    class Connection(LimitedConnection):
        _limits, _metrics = limits, metrics

    return Connection


class LimitedConnection(HttpToolsProtocol):
    """A connection held to limits; `make_connection_class` says which."""

    _limits: "LimitsConfig"
    _metrics: "ServingMetrics"
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _refused = False
    _in_headers = True
    _num_header_bytes = 0
    _num_silent_bytes = 0
    _num_chunks = 0
    _reply = _BAD_REQUEST

    def connection_made(self, transport: Any) -> None:
        """Counts the connection, and closes it if it is one too many."""
        super().connection_made(transport)
        self._metrics.connections.set(len(self.connections))
        if len(self.connections) > self._limits.max_connections:
            transport.abort()
        else:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts it out."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)
        self._metrics.connections.set(len(self.connections))

    def data_received(self, data: bytes) -> None:
        """Gives the parser what came; what may be headers in pieces that end at the limit, for a read can be larger."""
        limit = int(self._limits.max_header_kib * 2**10)
        while data and self._in_headers and not self._refused:
            room = limit - self._num_header_bytes
            piece, data = data[:room], data[room:]
            self._num_header_bytes += len(piece)
            super().data_received(piece)
            if self._in_headers and self._num_header_bytes >= limit:
                self._refuse(_LONG_HEADERS)
        if data and not self._refused:
            self._num_silent_bytes += len(data)
            super().data_received(data)
            if not self._in_headers and self._num_silent_bytes > limit:
                self._refuse(_LONG_HEADERS)  # headers after the body, or notes to its pieces, without end

    def on_headers_complete(self) -> None:
        """The request begins."""
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._end_parsing(_PIPELINED)
        self._in_headers = False
        self._num_silent_bytes = self._num_chunks = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A piece of a body of unstated length begins."""
        self._num_chunks += 1
        if self._num_chunks > max(_MIN_CHUNKS, self._limits.max_body_mib * 2**10):
            self._end_parsing(_MANY_CHUNKS)

    def on_body(self, body: bytes) -> None:
        """A part of the body came."""
        self._num_silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is all there; what comes now are the next one's headers."""
        super().on_message_complete()
        self._in_headers, self._num_header_bytes = True, 0

    def on_response_complete(self) -> None:
        """The answer is all written."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()
        elif self._in_headers and (self.cycle is None or self.cycle.response_complete):
            self._expect_headers()

    def pause_writing(self) -> None:
        """The client does not read its answer; it is not waited for for ever."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.body_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._stop_write_timer()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls once the parser gave up."""
        self._refuse(self._reply)

    def _end_parsing(self, reply: _Reply) -> NoReturn:
        self._reply = reply
        raise ValueError(reply.text)  # the parser stops, and `send_400_response` answers

    def _expect_headers(self) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(self._limits.header_timeout_s, self._give_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _give_up(self) -> None:
        if self._num_header_bytes:
            self._refuse(_SLOW_HEADERS)
        else:
            self.transport.close()
            self._abort_later()

    def _abort_later(self) -> None:
        """Closing waits for the client to read the rest, but not for ever."""
        self._stop_timer()
        self._timer = self.loop.call_later(self._limits.body_timeout_s, self.transport.abort)

    def _refuse(self, reply: _Reply) -> None:
        """Answers what never became a request, and closes; an answer that is on its way is only cut off."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if reply.reason is not None:
            self._metrics.add_refusal(reply.reason)
        underway = self.cycle is not None and not self.cycle.response_complete
        if not underway or not self.cycle.response_started:
            self.transport.write(_render(reply))
        if underway:
            self.cycle.scope[REFUSED] = reply.status
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            self._metrics.add_request("", code=reply.status, seconds=0.0)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # What still comes is dropped for a while: a client that is still sending would not see the reply.
        self._stop_timer()
        self._timer = self.loop.call_later(LINGER_S, self.transport.abort)


def _render(reply: _Reply) -> bytes:
    request_id = uuid.uuid4().hex
    body = json.dumps({"error": reply.text, "request_id": request_id}).encode()
    head = (
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
