"""Threads that turn bytes into arrays, with a bounded number of requests in line for them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from mlvlab_jax.config.serving import BatchingConfig
from mlvlab_jax.serving.errors import DeadlineError, OverloadedError

if TYPE_CHECKING:
    from mlvlab_jax.serving.metrics import ServingMetrics

Result = TypeVar("Result")


class Decoders:
    """`num_decoders` threads, and at most `queue_size` requests with them, as many as may wait for the device.

    Args:
        config: Numbers of threads and of requests.
        metrics: Told what is refused here.
    """

    def __init__(self, config: BatchingConfig, *, metrics: "ServingMetrics") -> None:
        self._threads = ThreadPoolExecutor(config.num_decoders, "mlvlab-decode")
        self._room = config.queue_size
        self._metrics = metrics

    async def run(self, function: Callable[[], Result], *, deadline: float) -> Result:
        """What `function` returns or raises; it is not called once `deadline` (as of `loop.time()`) passed in the line.

        Raises:
            OverloadedError: Too many are in line.
            DeadlineError: The deadline passed.
        """
        if self._room == 0:
            self._metrics.add_refusal("queue_full")
            raise OverloadedError(1.0)
        self._room -= 1
        job = self._threads.submit(function)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            self._metrics.add_refusal("deadline")
            raise DeadlineError from None
        except asyncio.CancelledError:
            self._metrics.add_refusal("client_gone")
            raise
        finally:
            self._room += 1
