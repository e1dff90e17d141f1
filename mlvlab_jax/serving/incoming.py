"""A request on its way in: its body, when its answer must be there, and whether its client still waits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import ClientDisconnect, Request

from mlvlab_jax.config.serving import BatchingConfig
from mlvlab_jax.serving.replies import CLIENT_GONE, RefusedError

if TYPE_CHECKING:
    from mlvlab_jax.serving.metrics import ServingMetrics

#: Digits of the largest number a header or query may give.
_MAX_DIGITS = 9


class Incoming(NamedTuple):
    """A body, and the times of its last byte and of its deadline, as of `loop.time()`."""

    body: bytes
    arrived: float
    deadline: float


async def receive(request: Request, config: BatchingConfig, *, metrics: "ServingMetrics") -> Incoming:
    """The whole body of a request that asks for a prediction; its deadline counts from its last byte.

    Raises:
        RefusedError: X-Deadline-Ms is not a number from 1, or the client left.
    """
    given = request.headers.get("x-deadline-ms")
    deadline_ms = config.deadline_ms if given is None else min(config.deadline_ms, parse_count(given, "X-Deadline-Ms"))
    try:
        body = await request.body()
    except ClientDisconnect:
        metrics.add_refusal("client_gone")
        raise RefusedError(CLIENT_GONE, "the client left") from None
    arrived = asyncio.get_running_loop().time()
    return Incoming(body, arrived, arrived + deadline_ms / 1e3)


def parse_count(text: str, name: str) -> int:
    """The number, from 1, that a header or query gives.

    Raises:
        RefusedError: It gives something else.
    """
    plain = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    if not plain or int(text) == 0:
        raise RefusedError(400, f"{name} must be a whole number, at least 1")
    return int(text)


@contextlib.asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancels what runs in the block as soon as the client is gone; the body must have been read.

    Raises:
        RefusedError: The client left.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if left and task.uncancel() == 0:
            raise RefusedError(CLIENT_GONE, "the client left") from None
        raise
    finally:
        watcher.cancel()
