"""From a configuration to a running server, and to its end: what one process that serves is made of."""

import asyncio
import functools
import gc
import logging
import os
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlvlab_jax.serving.app import make_app
from mlvlab_jax.serving.auth import Token
from mlvlab_jax.serving.batcher import Batcher
from mlvlab_jax.serving.hooks import Hooks
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.models import Models
from mlvlab_jax.serving.predictor import Predictor
from mlvlab_jax.serving.server import allow_connections, find_loop_factory, open_listener, serve
from mlvlab_jax.serving.sources import Found, Source

if TYPE_CHECKING:
    from mlvlab_jax.config.serving import ServingConfig

_log = logging.getLogger(__name__)


def launch(
    config: "ServingConfig", source: Source, *, token: Token | None, context: ssl.SSLContext | None, started: float
) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends the process at once, SIGHUP looks for a new version.

    Args:
        config: Of the server.
        source: Says which version is to be served.
        token: What each request must carry; None: anyone may ask.
        context: Of TLS; None: without.
        started: When the process began, as of `time.monotonic()`.

    Raises:
        ConfigError: The address cannot be listened on.
        MlvlabError: There is no version that can be served.
    """
    _set_up_logging()
    allow_connections(config.limits.max_connections)
    with open_listener(config.host, config.port) as listener:
        metrics = ServingMetrics(queue_capacity=config.batching.queue_size)
        hooks = Hooks(config, metrics=metrics)

        async def main() -> bool:
            models = Models(
                source,
                config,
                metrics=metrics,
                open_version=functools.partial(_open_version, config),
                make_batcher=lambda predictor: Batcher(predictor.predict, config.batching, metrics=metrics),
                on_change=hooks.follow,
            )
            app = make_app(
                models, config, metrics=metrics, observe=hooks.observe, record=hooks.record, label=hooks.label
            )
            stop = asyncio.Event()
            _take_signals(models, stop)
            place = f"{'https' if context else 'http'}://{_name(listener.getsockname())}"
            await serve(
                app,
                config,
                models=models,
                metrics=metrics,
                token=token,
                listener=listener,
                context=context,
                stop=stop,
                on_ready=lambda: _announce(models, place, token=token, seconds=time.monotonic() - started),
            )
            return models.loading

        try:
            with asyncio.Runner(loop_factory=find_loop_factory()) as runner:
                loading = runner.run(main())
        finally:
            hooks.close()
    _log.info("stopped")
    if loading:  # its thread is compiling, which nothing interrupts
        sys.stdout.flush()
        os._exit(0)


@functools.cache
def _import_all() -> None:
    """Imports what loading a version needs, and takes it out of the collector's sight.

    A version that is left is freed by a collection; over all modules that one would hold up the requests ten times
    as long.
    """
    import jax

    import mlvlab_jax.package.export  # noqa: F401

    jax.devices()
    gc.collect()
    gc.freeze()


def _open_version(config: "ServingConfig", path: Path, found: Found) -> Predictor:
    _import_all()
    return Predictor.open(
        path,
        max_batch=config.batching.max_size,
        compile_cache=config.compile_cache,
        name=found.name,
        version=found.version,
    )


def _take_signals(models: Models, stop: asyncio.Event) -> None:
    def ask(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        _log.info("stopping: what was accepted is answered; a second signal ends at once")
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    loop.add_signal_handler(signal.SIGHUP, models.look)


def _set_up_logging() -> None:
    """State changes of this project and errors of all others, one line each, on standard error."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("mlvlab_jax").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of each request that is not HTTP


def _name(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _announce(models: Models, place: str, *, token: Token | None, seconds: float) -> None:
    predictor = models.current().predictor
    height, width, channels = predictor.image
    header = " -H 'Authorization: Bearer TOKEN'" if token else ""
    print(
        f"{predictor.name} {predictor.version}: {len(predictor.class_names)} classes, images {height} x {width} x "
        f"{channels}\n"
        f"  page: {place}/{' (it asks for the token)' if token else ''}\n"
        f"  try:  curl{header} -H 'Content-Type: image/*' --data-binary @PICTURE {place}/v1/classify\n"
        f"ready after {seconds:.1f} s; Ctrl-C stops",
        flush=True,
    )
