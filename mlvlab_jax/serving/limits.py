"""How a request's body is read: whole, within its limits, before anything looks at it."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlvlab_jax.config.serving import LimitsConfig

#: Bodies of the largest size that may be held at a time, over all requests.
_MAX_BODIES = 8
#: Seconds for which the rest of a refused body is read and dropped: a client that is still sending when the connection
#: is closed does not see the answer.
LINGER_S = 1.0
#: Key of a scope whose connection was closed by us; the value is the status that was sent.
REFUSED = "mlvlab.refused"


class BodyError(Exception):
    """A body that is not read on.

    Args:
        status: HTTP status of the reply.
        text: What the client is told.
        reason: As it is counted; None: it is not.
    """

    def __init__(self, status: int, text: str, *, reason: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.reason = reason


class ClientGoneError(Exception):
    """The client left before its body was all there."""


class Bodies:
    """Reads bodies, and knows how many bytes of them are held: `release` gives back what `read` returned."""

    def __init__(self, limits: "LimitsConfig") -> None:
        self._timeout_s = limits.body_timeout_s
        self._max_bytes = int(limits.max_body_mib * 2**20)
        self._room = _MAX_BODIES * self._max_bytes

    async def read(self, headers: Iterable[tuple[bytes, bytes]], receive: Callable[[], Any]) -> bytes:
        """The body of the ASGI request whose messages `receive` gives.

        Raises:
            BodyError: It is too long, too slow or compressed, or too much is held already.
            ClientGoneError: The client left.
        """
        known = dict(headers)
        if known.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
            raise BodyError(415, "a compressed body is not accepted")
        self._check(int(known.get(b"content-length", b"0")), held=0)
        parts: list[bytes] = []
        num = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    self._check(num + len(part), held=num)
                    num += len(part)
                    self._room -= len(part)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            self._room += num
            raise BodyError(408, "the body took too long", reason="too_slow") from None
        except BaseException:
            self._room += num
            raise

    def release(self, body: bytes) -> None:
        """Says that a body is not held any more."""
        self._room += len(body)

    def _check(self, num_bytes: int, *, held: int) -> None:
        """Refuses a body of `num_bytes`, of which `held` are counted already."""
        if num_bytes > self._max_bytes:
            raise BodyError(413, "the body is too large", reason="too_large")
        if num_bytes - held > self._room:
            raise BodyError(503, "too many requests are waiting", reason="queue_full")


def has_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request says that a body follows."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0 ")) for name, value in headers
    )


async def drop_rest(receive: Callable[[], Any]) -> None:
    """Reads and drops what still comes of a body, for a short time."""
    try:
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
