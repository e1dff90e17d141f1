"""The version that answers: loaded before the server is ready, and replaced without a dropped request."""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlvlab_jax.errors import MlvlabError, PackageError
from mlvlab_jax.serving.sources import Found, Source, check_digest, stamp

if TYPE_CHECKING:
    from mlvlab_jax.config.serving import ServingConfig
    from mlvlab_jax.serving.batcher import Batcher
    from mlvlab_jax.serving.metrics import ServingMetrics
    from mlvlab_jax.serving.predictor import Predictor

_log = logging.getLogger(__name__)

#: Seconds after which the device's thread of a version that is left has let go of it.
_SETTLE_S = 0.2


class UnknownModelError(Exception):
    """No model, or version of it, of that name is served."""


class NotReadyError(Exception):
    """No version is loaded yet."""


class Served:
    """One loaded version. Whoever uses it holds a lease, taken before the first `await` after it was got."""

    def __init__(self, predictor: "Predictor", batcher: "Batcher") -> None:
        self.predictor = predictor
        self.batcher = batcher
        self._num_leases = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextlib.contextmanager
    def lease(self) -> Iterator["Served"]:
        """Keeps the version loaded until the block is left."""
        self._num_leases += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._num_leases -= 1
            if self._num_leases == 0:
                self._unused.set()

    async def wait_unused(self) -> None:
        """Returns once nobody holds a lease."""
        await self._unused.wait()


class _Refusal(NamedTuple):
    """A version that cannot be served, and its files as they were then; `path` is None where there were none."""

    found: Found
    path: Path | None
    mark: Any

    def stands(self, found: Found) -> bool:
        """Whether trying `found` again would be in vain."""
        return found == self.found and (self.path is None or stamp(self.path) == self.mark)


class Models:
    """The version that is served, and its successor while that one is made ready.

    All methods are for the thread of the event loop; versions are loaded on one of their own.

    Args:
        source: Says which version is meant.
        config: Of the server.
        metrics: Of the server.
        open_version: Loads and checks a package, and compiles and warms its programs.
        make_batcher: Puts a predictor on a device thread.
        on_change: Told of each version as it begins to answer.
    """

    def __init__(
        self,
        source: Source,
        config: "ServingConfig",
        *,
        metrics: "ServingMetrics",
        open_version: "Callable[[Path, Found], Predictor]",
        make_batcher: "Callable[[Predictor], Batcher]",
        on_change: Callable[[Served], None] = lambda served: None,
    ) -> None:
        self._source, self._config, self._metrics = source, config, metrics
        self._open_version, self._make_batcher = open_version, make_batcher
        self._on_change = on_change
        self._current: Served | None = None
        self._serving: Found | None = None
        self._refusal: _Refusal | None = None
        self._trouble = ""
        self._draining = False
        self._loading = False
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "mlvlab-models")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._current is not None and not self._draining

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop."""
        return self._draining

    @property
    def loading(self) -> bool:
        """Whether a version is being loaded, which cannot be interrupted."""
        return self._loading

    def current(self) -> Served:
        """The version that answers.

        Raises:
            NotReadyError: None is loaded yet.
        """
        if self._current is None:
            raise NotReadyError
        return self._current

    def find(self, name: str, version: str | None = None) -> Served:
        """The version that answers, if it is the one that is named.

        Raises:
            UnknownModelError: It is not.
            NotReadyError: None is loaded yet.
        """
        served = self.current()
        if name != served.predictor.name or version not in (None, served.predictor.version):
            raise UnknownModelError
        return served

    async def start(self) -> None:
        """Loads the first version, and begins to follow the source.

        Raises:
            MlvlabError: There is none that can be served.
        """
        self._metrics.ready.set(0)
        self._change(*await asyncio.get_running_loop().run_in_executor(self._thread, self._open_first))
        self._on_change(self.current())
        self._spawn(self._follow())

    def look(self) -> None:
        """Looks at the source now, and tries again what was refused."""
        self._refusal = None
        self._wake.set()

    def drain(self) -> None:
        """Says that no further requests are taken."""
        self._draining = True
        self._metrics.ready.set(0)

    async def close(self, grace_s: float) -> None:
        """Ends following, and the device's thread once what it has is done, but within `grace_s`."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._current is not None:
            await self._current.batcher.close(grace_s)

    def _change(self, found: Found, predictor: "Predictor") -> None:
        """Lets `predictor` answer from this moment on."""
        old, self._current = self._current, Served(predictor, self._make_batcher(predictor))
        self._serving = found
        self._metrics.set_model(predictor.name, predictor.version, package=found.sha256)
        self._metrics.ready.set(not self._draining)
        if old is not None:
            self._spawn(self._retire(old))

    async def _retire(self, served: Served) -> None:
        """Frees a version once the last request that was given to it is answered."""
        await served.wait_unused()
        await served.batcher.close(self._config.grace_s)
        del served
        await asyncio.sleep(_SETTLE_S)
        gc.collect()  # compiled programs refer to themselves

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._config.follow_s if self._source.follows else None)
            self._wake.clear()
            began = time.monotonic()
            following = await loop.run_in_executor(self._thread, self._open_next)
            if following is not None:
                left = self.current().predictor.version
                self._change(*following)
                self._tell()
                self._metrics.reloads.labels("ok").inc()
                self._metrics.reload_failing.set(0)
                found, seconds = following[0], time.monotonic() - began
                del following
                _log.info("reload: %s %s serves, %s left; %.1f s", found.name, found.version, left, seconds)

    def _tell(self) -> None:
        try:
            self._on_change(self.current())
        except Exception:  # noqa: BLE001 - who watches must not stop what is watched
            _log.exception("an observer of versions failed; it goes on with the old one")

    def _open_first(self) -> "tuple[Found, Predictor]":
        found = self._source.find()
        return found, self._load(found, self._source.open(found))

    def _open_next(self) -> "tuple[Found, Predictor] | None":
        """On the thread: the version that is meant now, loaded; None if the one that answers is to go on."""
        path = None
        try:
            found = self._source.find()
            self._trouble = ""
            if found == self._serving:
                self._metrics.reload_failing.set(0)
                self._refusal = None
            if found == self._serving or (self._refusal and self._refusal.stands(found)):
                return None
        except PackageError as error:
            self._refuse(str(error))
            return None
        except Exception as error:  # noqa: BLE001 - whatever a registry that is away raises, the old version goes on
            self._note_away(error)
            return None
        try:
            path = self._source.open(found)
            mark = stamp(path)
            return found, self._load(found, path)
        except Exception as error:  # noqa: BLE001 - whatever a broken version raises, the old one goes on
            self._refusal = _Refusal(found, path, mark if path else None)
            self._refuse(f"{found.name} {found.version}: {describe(error)}")
        gc.collect()  # what was loaded of it
        return None

    def _load(self, found: Found, path: Path) -> "Predictor":
        self._loading = True
        try:
            predictor = self._open_version(path, found)
        finally:
            self._loading = False
        check_digest(found, predictor.package.manifest.sha256)
        if self._current is not None:
            _check_like(self._current.predictor, predictor)
        return predictor

    def _refuse(self, reason: str) -> None:
        self._metrics.reloads.labels("refused").inc()
        self._metrics.reload_failing.set(1)
        _log.error("reload refused: %s; %s keeps serving", reason, self.current().predictor.version)

    def _note_away(self, error: Exception) -> None:
        """Says it once, not every few seconds."""
        if (trouble := describe(error)) != self._trouble:
            self._trouble = trouble
            _log.warning("registry away: %s; %s keeps serving", trouble, self.current().predictor.version)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def describe(error: Exception) -> str:
    """What a log says of `error`, in one line."""
    text = str(error) if isinstance(error, MlvlabError) else f"{type(error).__name__}: {error}"
    return text.strip().partition("\n")[0]


def _check_like(old: "Predictor", new: "Predictor") -> None:
    if new.image != old.image:
        raise PackageError(
            f"takes images of {tuple(new.image)}, as no client of {old.version} sends them; expected "
            f"{tuple(old.image)}; give the other size a model name and a server of its own"
        )
    if new.class_names != old.class_names:
        _log.warning("reload: %s %s has other classes than %s", new.name, new.version, old.version)
