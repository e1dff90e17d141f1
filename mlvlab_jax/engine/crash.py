"""What is written down of a run that ended by an exception: crash.json, for whoever looks at it later."""

import contextlib
import datetime
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path

from mlvlab_jax.engine.folder import list_versions
from mlvlab_jax.errors import INTERNAL_EXIT_CODE, DiskError, MlvlabError
from mlvlab_jax.files import DISK_ERRNOS, write_json


def remove_crashes(workdir: Path) -> None:
    """Takes away what earlier attempts at the run left behind, of all their processes."""
    for path in workdir.glob("crash*.json"):
        path.unlink()


def write_crash(
    workdir: Path,
    error: BaseException,
    *,
    phase: str,
    step: int,
    metrics: Mapping[str, float],
    process: tuple[int, int],
) -> None:
    """Writes the report to crash.json, or crash-I.json by process I of several.

    A disk that refuses leaves it out, as does a folder that is no run's yet.

    Args:
        workdir: Run folder.
        error: What ended the run.
        phase: Where it was raised.
        step: Updates handed to the device.
        metrics: The newest ones by name.
        process: Number of this process, and of how many.
    """
    if not (workdir / "config.yaml").is_file():
        return
    report = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "error": {"kind": type(error).__name__, "message": str(error), "exit_code": find_exit_code(error)},
        "phase": phase,
        "step": step,
        "process": {"index": process[0], "count": process[1]},
        # JSON knows no NaN.
        "metrics": {name: value if value - value == 0 else str(value) for name, value in metrics.items()},
        "versions": list_versions(),
        "traceback": "".join(traceback.format_exception(error)).splitlines(),
        "threads": _list_threads(),
    }
    with contextlib.suppress(OSError):
        write_json(workdir / ("crash.json" if process[1] == 1 else f"crash-{process[0]}.json"), report)


def find_exit_code(error: BaseException) -> int:
    """With which the command will end."""
    if isinstance(error, MlvlabError):
        return error.exit_code
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return DiskError.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else INTERNAL_EXIT_CODE


def _list_threads() -> dict[str, list[str]]:
    """The call stack of every other thread, by its name."""
    frames = sys._current_frames()
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    return {
        f"{thread.name} ({thread.ident})": "".join(traceback.format_stack(frames[thread.ident])).splitlines()
        for thread in others
        if thread.ident in frames
    }
