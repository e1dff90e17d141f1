"""What a process of a run does when another one is gone: it says which, and ends without waiting for it."""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from mlvlab_jax.engine.distributed import is_joined
from mlvlab_jax.errors import JoinError, MlvlabError

#: What errors of jax say where a collective or its service lost somebody.
_LOST = re.compile(r"gloo|nccl|heartbeat|coordination|barrier|unavailable|connection|socket closed", re.IGNORECASE)
#: How long to listen for signs of life, which processes give each second, before one is called gone.
_LISTEN_S = 3.0
#: How much later process 0 ends than the others: they need jax's service, which is in it, to say why they end.
LAST_S = 3.0
#: How long a process that failed by itself has to tidy up, part of which needs the others.
_TIDY_S = 30.0


def sign_path(workdir: Path, index: int) -> Path:
    """Where process `index` of a run gives its sign of life."""
    return workdir / "alive" / f"{index}.json"


@contextlib.contextmanager
def ending_without_peers(workdir: Path) -> Iterator[None]:
    """A failure of the block ends this process in bounded time, whatever became of the others; alone it does nothing.

    Where the failure is that another process is gone, the process ends here, with exit code 76 and its number. After
    any other it has half a minute to tidy up.

    Args:
        workdir: Run folder.
    """
    try:
        yield
    except BaseException as error:
        if is_joined():
            if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
                _end_without(workdir, str(error).partition("\n")[0])
            late = threading.Timer(_TIDY_S, _end_late, (error,))
            late.daemon = True
            late.start()
        raise


def _end_without(workdir: Path, reason: str) -> None:
    index, count = jax.process_index(), jax.process_count()
    gone = find_silent(workdir, own=index, count=count)
    who = f"process {', '.join(map(str, gone))} is gone" if gone else "another process is gone"
    print(
        f"error: process {index} of {count}: {who} ({reason}); expected all to stay until the end; look at their logs; "
        "the same command goes on from the last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    if index == 0:
        time.sleep(LAST_S)
    os._exit(JoinError.exit_code)


def _end_late(error: BaseException) -> None:
    print(f"error: ended without the other processes, after {type(error).__name__}: {error}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(getattr(error, "exit_code", MlvlabError.exit_code))


def find_silent(workdir: Path, *, own: int, count: int) -> list[int]:
    """The processes of a run that give no sign of life for some seconds, in which this waits."""
    others = [index for index in range(count) if index != own]
    before = {index: read_time(sign_path(workdir, index)) for index in others}
    time.sleep(_LISTEN_S)
    return [index for index in others if read_time(sign_path(workdir, index)) in (None, before[index])]


def read_time(path: Path) -> int | None:
    """When the file was last written, in nanoseconds by the file system's clock; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
