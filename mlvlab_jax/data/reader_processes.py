"""Processes that read batches ahead: deaf to the signals of their run, gone when it is, and missed when they die."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
from absl import flags

from mlvlab_jax.errors import MlvlabError

#: How Grain says that a process ended without a word.
_DIED = "terminated unexpectedly"


def read_by_processes(
    dataset: grain.IterDataset, *, num_processes: int, buffer: int, describe: Callable[[int], str]
) -> Iterator[Any]:
    """The elements of `dataset`, in their order.

    Args:
        dataset: Is taken to each process, and read there from its place on.
        num_processes: How many.
        buffer: Elements each of them keeps ready.
        describe: Says what element i, from 0, is, for the message about a process that died.

    Raises:
        MlvlabError: A process died before it gave an element.
    """
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own, which only absl's runner parses
    options = grain.MultiprocessingOptions(num_workers=num_processes, per_worker_buffer_size=buffer)
    reads, given = iter(dataset.mp_prefetch(options, worker_init_fn=_settle_in)), 0
    try:
        with _without_accelerator():
            element = next(reads, None)
        while element is not None:
            yield element
            given += 1
            element = next(reads, None)
    except RuntimeError as error:
        if _DIED not in str(error):
            raise
        raise MlvlabError(
            f"a reader process died before it gave {describe(given)}: {error}; expected {num_processes} "
            "(pipeline.num_processes) to live as long as the run; the system may have run out of memory: lower "
            "pipeline.num_processes or pipeline.prefetch_batches; the same command goes on from the last checkpoint"
        ) from error
    finally:
        reads.close()


@contextlib.contextmanager
def _without_accelerator() -> Iterator[None]:
    """Processes started in the block do not see the accelerator, which belongs to the trainer."""
    before = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        yield
    finally:
        os.environ.pop("JAX_PLATFORMS") if before is None else os.environ.update(JAX_PLATFORMS=before)


def _settle_in(index: int, count: int) -> None:
    """In a reader process, at its start.

    A terminal and some schedulers send the signal that asks a run to stop to all of its processes, and the run needs
    its readers up to its last step; it ends them itself. One that was killed cannot.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a child"
    parent.join()
    os._exit(1)
