"""The life of a server: it listens, becomes ready, answers, and stops without dropping what it accepted."""

import asyncio
import contextlib
import importlib.util
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.serving.auth import Token
from mlvlab_jax.serving.connection import make_connection_class
from mlvlab_jax.serving.guard import Guard
from mlvlab_jax.serving.rehearsal import rehearse

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from mlvlab_jax.config.serving import ServingConfig
    from mlvlab_jax.serving.metrics import ServingMetrics
    from mlvlab_jax.serving.models import Models

_BACKLOG = 2048
#: Files a server has open besides its connections.
_OTHER_FILES = 256
#: Seconds for which a server that has nothing left to do still says that it stops: clients learn it from an answer
#: rather than from a connection that broke.
_FAREWELL_S = 0.5
#: Seconds for which those who connected just before may still ask.
_LAST_CALL_S = 0.1


def open_listener(host: str, port: int) -> socket.socket:
    """A socket bound to an address of this machine; it takes no connection before the server runs.

    Raises:
        ConfigError: The address is not one of this machine, or the port is taken.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{host} port {port}: {error.strerror}; expected a free port of an address of this machine; "
            "stop what listens there, or give --port 0 for any free one",
            path="port",
        ) from None
    listener.setblocking(False)
    return listener


def allow_connections(num: int) -> None:
    """Raises the number of open files to what `num` connections need, as far as the system lets a user."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def find_loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """The fastest event loop there is."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve(
    app: "ASGIApp",
    config: "ServingConfig",
    *,
    models: "Models",
    metrics: "ServingMetrics",
    token: Token | None,
    listener: socket.socket,
    context: ssl.SSLContext | None,
    stop: asyncio.Event,
    on_ready: Callable[[], None],
) -> None:
    """Serves until `stop` is set, and then until what was accepted is answered.

    Args:
        app: What answers, unguarded.
        config: Of the server.
        models: The versions that answer; started and closed here.
        metrics: Of the server.
        token: What each request must carry; None: anyone may ask.
        listener: As `open_listener` gives it; closed here.
        context: Of TLS; None: without.
        stop: Set when the server is to stop.
        on_ready: Called once requests are taken.

    Raises:
        MlvlabError: There is no version that can be served.
    """
    guarded = Guard(app, config, token=token, metrics=metrics, models=models)
    server = _Server(guarded, config, metrics=metrics, listener=listener, context=context)
    running = asyncio.create_task(server.serve())
    starting = asyncio.create_task(models.start())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await rehearse(models, config)
            on_ready()
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await _drain(server, models, config.grace_s)
    finally:
        for task in (starting, stopped):
            task.cancel()
        server.should_exit = True
        await running
        await models.close(_FAREWELL_S)


async def _drain(server: "_Server", models: "Models", grace_s: float) -> None:
    """Refuses what comes now; returns when what came before is answered, or after `grace_s`."""
    models.drain()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            await asyncio.sleep(_FAREWELL_S)
            server.stop_listening()
            await asyncio.sleep(_LAST_CALL_S)
            while server.server_state.tasks:
                await asyncio.sleep(0.02)


class _Server(uvicorn.Server):
    """uvicorn's, on a socket that is there already, and without its signals: it would die of them once it stopped."""

    def __init__(
        self,
        app: "ASGIApp",
        config: "ServingConfig",
        *,
        metrics: "ServingMetrics",
        listener: socket.socket,
        context: ssl.SSLContext | None,
    ) -> None:
        self._listener, self._context = listener, context
        self._handshake_s = config.limits.header_timeout_s
        self.servers: list[asyncio.AbstractServer] = []
        super().__init__(
            uvicorn.Config(
                app,
                http=make_connection_class(config.limits, metrics),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=config.limits.header_timeout_s,
                timeout_graceful_shutdown=1,
            )
        )

    async def startup(self, sockets: Any = None) -> None:
        """Uvicorn's hook: begins to listen."""
        await self.lifespan.startup()

        def connect() -> asyncio.Protocol:
            connection: asyncio.Protocol = self.config.http_protocol_class(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return connection

        listening = await asyncio.get_running_loop().create_server(
            connect,
            sock=self._listener,
            ssl=self._context,
            ssl_handshake_timeout=self._handshake_s if self._context else None,
            backlog=_BACKLOG,
        )
        self.servers = [listening]
        self.started = True

    def stop_listening(self) -> None:
        """Takes no further connection; those that are open stay."""
        for listening in self.servers:
            listening.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's hook: takes none."""
        yield
