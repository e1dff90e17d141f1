"""Puts single requests together into batches for the one thread that feeds the device.

When the device becomes free, it takes what is there, up to a full batch: under load batches grow by themselves, and
nobody ever waited for them. While it is free, a request waits for others only as long as others are known to come:
those whose images are being decoded (`Batcher.arriving`), and never longer than `max_wait_ms`. A lone client never
waits.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import numpy as np

from mlvlab_jax.config.serving import BatchingConfig
from mlvlab_jax.serving.errors import DeadlineError, InputError, OverloadedError, PredictionError
from mlvlab_jax.serving.isolation import answer_each, concatenate
from mlvlab_jax.serving.predictor import Outputs

Reason = Literal["queue_full", "deadline", "client_gone", "draining"]
#: A request may have so many full batches of images; one client does not get the device for itself for longer.
_MAX_BATCHES = 8
#: Seconds an image takes, before one was computed.
_FIRST_GUESS_S = 0.1
#: Weight of the last batch in the seconds an image takes.
_SMOOTHING = 0.2


class BatcherMetrics(Protocol):
    """What a batcher tells of itself; called from the event loop and from the batcher's thread."""

    def set_queue(self, num_images: int) -> None:
        """Images wait for the device now."""

    def add_batch(self, num_images: int, *, seconds: float) -> None:
        """The device took `seconds` for a batch, padding not counted."""

    def add_refusal(self, reason: Reason) -> None:
        """A request was not computed."""

    def add_nonfinite(self, num_images: int) -> None:
        """The logits of these images are not finite."""


class _Request:
    """Images of one client; `num_taken` of them have been given to the device, `parts` have come back."""

    __slots__ = ("deadline", "future", "images", "num_taken", "parts", "since")

    def __init__(self, images: np.ndarray, future: "asyncio.Future[Outputs]", *, since: float, deadline: float) -> None:
        self.images = images
        self.future = future
        self.since = since
        self.deadline = deadline
        self.num_taken = 0
        self.parts: list[Outputs] = []


class _Piece(NamedTuple):
    """Images `start` to `stop` of a request, computed in one batch."""

    request: _Request
    start: int
    stop: int


class Batcher:
    """An asyncio front to `predict`, which runs in one thread of its own and is never called twice at a time.

    Args:
        predict: From images, uint8 (b h w c), to their answers; at most `max_size` at a time.
        config: Sizes, and how long a request may wait.
        metrics: Told what happens.
    """

    def __init__(
        self, predict: Callable[[np.ndarray], Outputs], config: BatchingConfig, *, metrics: BatcherMetrics
    ) -> None:
        self._predict = predict
        self._config = config
        self._metrics = metrics
        self._max_images = min(config.max_size * _MAX_BATCHES, config.queue_size)
        self._changed = threading.Condition()
        self._queue: deque[_Request] = deque()
        self._num_queued = 0
        self._num_arriving = 0
        self._seconds_an_image = _FIRST_GUESS_S
        self._stopped = False
        self._draining = False
        self._requests: set[_Request] = set()
        self._drained = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def num_queued(self) -> int:
        """Images that wait for the device."""
        return self._num_queued

    @contextlib.contextmanager
    def arriving(self) -> Iterator[None]:
        """Says that a request is about to be submitted, for as long as the block runs: its image is being decoded."""
        self._num_arriving += 1
        try:
            yield
        finally:
            self._num_arriving -= 1
            if self._num_arriving == 0 and self._queue:
                # After what follows the block, which is most likely the submit.
                asyncio.get_running_loop().call_soon(self._wake)

    async def submit(self, images: np.ndarray, *, deadline: float) -> Outputs:
        """Answers to the images of one request, in their order.

        Args:
            images: uint8 (n h w c), n at most 8 full batches and the queue's size.
            deadline: As of `loop.time()`; after it nothing of the request is computed any more.

        Raises:
            InputError: Not such images.
            OverloadedError: There is no room for them now, or the batcher was closed.
            DeadlineError: The deadline passed before the answer was there.
            PredictionError: The model has no answer for one of the images.
        """
        loop = asyncio.get_running_loop()
        self._check(images)
        self.check_room(len(images))
        now, left = time.monotonic(), deadline - loop.time()
        request = _Request(images, loop.create_future(), since=now, deadline=now + left)
        timer = loop.call_at(deadline, _expire, request.future)
        self._requests.add(request)
        self._push(request)
        try:
            return await request.future
        except asyncio.CancelledError:
            self._metrics.add_refusal("client_gone")
            raise
        except DeadlineError:
            self._metrics.add_refusal("deadline")
            raise
        finally:
            timer.cancel()
            self._requests.discard(request)
            self._forget(request)

    def check_room(self, num_images: int) -> None:
        """Refuses so many images if they cannot be taken now: before time goes into decoding them.

        Raises:
            OverloadedError: There is no room for them, or the batcher was closed.
        """
        if self._draining:
            self._metrics.add_refusal("draining")
            raise self._overloaded("draining")
        if self._num_queued + num_images > self._config.queue_size:
            self._metrics.add_refusal("queue_full")
            raise self._overloaded("queue_full")

    async def close(self, grace_s: float) -> None:
        """Takes no request any more, and ends when all are answered, or after `grace_s` seconds.

        Those that are left then are refused with OverloadedError.
        """
        self._draining = True
        if self._requests:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), grace_s)
        for request in list(self._requests):
            if not request.future.done():
                self._metrics.add_refusal("draining")
                request.future.set_exception(self._overloaded("draining"))
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _check(self, images: np.ndarray) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or not 1 <= len(images) <= self._max_images:
            raise InputError(
                f"images are {images.dtype} {images.shape}; expected uint8 (n, h, w, c), n from 1 to {self._max_images}"
            )

    def _overloaded(self, reason: Literal["queue_full", "draining"]) -> OverloadedError:
        """Room is there when what waits now has been computed."""
        return OverloadedError(self._num_queued * self._seconds_an_image, reason=reason)

    def _push(self, request: _Request) -> None:
        with self._changed:
            self._queue.append(request)
            self._num_queued += len(request.images)
            self._metrics.set_queue(self._num_queued)
            self._changed.notify()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _forget(self, request: _Request) -> None:
        """Takes out of the queue what has not been computed of a request that is answered, refused or given up."""
        with self._changed:
            left = len(request.images) - request.num_taken
            if left:
                self._queue.remove(request)
                request.num_taken = len(request.images)
                self._num_queued -= left
                self._metrics.set_queue(self._num_queued)
        if self._draining and not self._requests:
            self._drained.set()

    def _work(self) -> None:
        """The thread: one batch after the other until the batcher is closed."""
        while pieces := self._take():
            images = _gather(pieces)
            started = time.perf_counter()
            outputs, num_nonfinite = answer_each(self._predict, images)
            seconds = time.perf_counter() - started
            self._seconds_an_image += _SMOOTHING * (seconds / len(images) - self._seconds_an_image)
            self._metrics.add_batch(len(images), seconds=seconds)
            if num_nonfinite:
                self._metrics.add_nonfinite(num_nonfinite)
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits for the answers
                pieces[0].request.future.get_loop().call_soon_threadsafe(self._deliver, pieces, outputs)

    def _take(self) -> list[_Piece]:
        """The next batch, once there is one; nothing when the batcher is closed."""
        with self._changed:
            while not self._stopped:
                wait_s = self._patience_s()
                if wait_s is None or wait_s > 0:
                    self._changed.wait(wait_s)
                elif pieces := self._cut():
                    return pieces
        return []

    def _patience_s(self) -> float | None:
        """Seconds to wait before the next batch is taken, None without end; 0 or less: take it now."""
        if not self._queue:
            return None
        if self._num_arriving == 0 or self._num_queued >= self._config.max_size:
            return 0.0
        return self._queue[0].since + self._config.max_wait_ms / 1e3 - time.monotonic()

    def _cut(self) -> list[_Piece]:
        """Takes images of one shape from the head of the queue, `max_size` at most; those nobody waits for are left."""
        pieces: list[_Piece] = []
        room, now = self._config.max_size, time.monotonic()
        while self._queue and room:
            request = self._queue[0]
            start, num = request.num_taken, len(request.images)
            if request.future.done() or request.deadline <= now:
                stop = start = num
            elif pieces and request.images.shape[1:] != pieces[0].request.images.shape[1:]:
                break
            else:
                stop = min(num, start + room)
                pieces.append(_Piece(request, start, stop))
                room -= stop - start
            self._num_queued -= stop - request.num_taken
            request.num_taken = stop
            if stop == num:
                self._queue.popleft()
        self._metrics.set_queue(self._num_queued)
        return pieces

    def _deliver(self, pieces: list[_Piece], outputs: Outputs | None) -> None:
        """Hands its rows to each request; on the event loop, once a batch."""
        at = 0
        for request, start, stop in pieces:
            rows = slice(at, at := at + stop - start)
            if request.future.done():
                continue
            part = None if outputs is None else Outputs(*(array[rows] for array in outputs))
            bad = [0] if part is None else np.flatnonzero(np.isnan(part.probabilities[:, 0]))
            if part is None or len(bad):
                request.future.set_exception(PredictionError(start + int(bad[0])))
                continue
            request.parts.append(part)
            if stop == len(request.images):
                request.future.set_result(concatenate(request.parts))


def _expire(future: "asyncio.Future[Outputs]") -> None:
    if not future.done():
        future.set_exception(DeadlineError())


def _gather(pieces: list[_Piece]) -> np.ndarray:
    """The images of a batch."""
    parts = [request.images[start:stop] for request, start, stop in pieces]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
