"""Load for a server on loopback: wrk where it is installed, and an asyncio client that times each request by itself.

Everything is bounded: seconds, connections, and one request at a time on each of them.
"""

import asyncio
import collections
import json
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: Seconds after which a request is given up, and counted as broken.
TIMEOUT_S = 15.0


class Reply(NamedTuple):
    """status: 0 where none came. seconds: from when the request was due. at_s: when it was due, from the start."""

    status: int
    seconds: float
    at_s: float
    body: bytes


def make_request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One request at a time, over a connection that is opened again where the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.WriteTransport | None = None
        self._reply: asyncio.Future[tuple[int, bytes]] | None = None
        self._data = b""
        #: Of the last reply; 0 where it says nothing.
        self.retry_after_s = 0

    async def open(self) -> None:
        """Connects, unless it is connected."""
        if self._transport is None or self._transport.is_closing():
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the reply; 0 where none came."""
        try:
            await self.open()
            self._data, self._reply = b"", asyncio.get_running_loop().create_future()
            self._transport.write(request)
            return await asyncio.wait_for(self._reply, TIMEOUT_S)
        except (OSError, TimeoutError):
            self.close()
            return 0, b""

    def data_received(self, data: bytes) -> None:
        """As of asyncio."""
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        if end and found and len(body) >= int(found[1]):
            later = re.search(rb"retry-after: (\d+)", head, re.IGNORECASE)
            self.retry_after_s = int(later[1]) if later else 0
            if b"connection: close" in head.lower():
                self.close()
            self._settle(int(head.split(b" ", 2)[1]), body)

    def connection_lost(self, exc: Exception | None) -> None:
        """As of asyncio."""
        self._transport = None
        self._settle(0, b"")

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.abort()

    def _settle(self, status: int, body: bytes) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result((status, body))


async def closed_loop(port: int, request: bytes, *, num_clients: int, seconds: float) -> list[Reply]:
    """Each client asks again as soon as it has an answer; after a refusal, when Retry-After says, a second at least."""
    began, replies = time.perf_counter(), []

    async def client() -> None:
        connection = Connection(port)
        await connection.open()
        while (asked := time.perf_counter()) < began + seconds:
            status, body = await connection.ask(request)
            replies.append(Reply(status, time.perf_counter() - asked, asked - began, body))
            if status != 200:
                await asyncio.sleep(max(1, connection.retry_after_s))
        connection.close()

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return replies


async def open_loop(
    port: int, make: Callable[[], bytes], *, rate: float, until: Callable[[float], bool], max_connections: int
) -> tuple[list[Reply], int]:
    """A request every 1 / `rate` seconds, whatever became of those before; timed from when it was due.

    Returns:
        The replies, and how many requests could not be sent because every connection was busy.
    """
    began, replies, unsent = time.perf_counter(), [], 0
    idle = collections.deque(Connection(port) for _ in range(max_connections))
    tasks: set[asyncio.Task[None]] = set()

    async def ask(connection: Connection, due_s: float) -> None:
        status, body = await connection.ask(make())
        replies.append(Reply(status, time.perf_counter() - began - due_s, due_s, body))
        idle.append(connection)

    number = 0
    while not until(now_s := time.perf_counter() - began):
        while (due_s := number / rate) <= now_s:
            number += 1
            if idle:
                task = asyncio.create_task(ask(idle.popleft(), due_s))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            else:
                unsent += 1
        await asyncio.sleep(min(0.005, 1 / rate))
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return replies, unsent


def measure_throughput(port: int, path: str, body: Path, *, num_clients: int, seconds: int) -> dict[str, Any]:
    """Requests a second, p50 and p99 in ms and replies by status, of `num_clients` closed loops."""
    if shutil.which("wrk") is None:
        request = make_request(path, body.read_bytes())
        return describe(asyncio.run(closed_loop(port, request, num_clients=num_clients, seconds=seconds)), seconds)
    script = str(Path(__file__).with_suffix("").with_name("serving.lua"))
    options = ["-t", "1", "-c", str(num_clients), "-d", f"{seconds}s", "--timeout", f"{TIMEOUT_S:.0f}s", "-s", script]
    command = ["wrk", *options, f"http://127.0.0.1:{port}{path}", "--", str(body)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 2 * TIMEOUT_S)
    return json.loads(done.stdout.splitlines()[-1])


def describe(replies: Sequence[Reply], seconds: float) -> dict[str, Any]:
    """As `measure_throughput`, of replies."""
    codes = collections.Counter(str(reply.status) for reply in replies)
    taken = [reply.seconds for reply in replies]
    return {
        "requests_s": round(len(replies) / seconds, 1),
        "p50_ms": percentile_ms(taken, 50),
        "p99_ms": percentile_ms(taken, 99),
        "codes": dict(codes),
        "broken": codes["0"],
    }


def percentile_ms(seconds: Sequence[float], percent: int) -> float | None:
    """Milliseconds; None of nothing."""
    if len(seconds) < 2:
        return round(1e3 * seconds[0], 3) if seconds else None
    return round(1e3 * statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1], 3)
