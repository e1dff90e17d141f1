"""Orbax's manager of a folder of checkpoints: how it is opened, what its failures mean, how it is closed after one."""

import contextlib
import errno
import logging
import os
import shutil
from pathlib import Path

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mlvlab_jax.engine.integrity import NAME
from mlvlab_jax.engine.retention import Rank
from mlvlab_jax.errors import CheckpointError
from mlvlab_jax.files import DISK_ERRNOS

#: What Orbax, TensorStore and jax raise where a save fails; only `describe_failure` knows whether the disk is to blame.
SAVE_ERRORS = (OSError, ValueError, RuntimeError)
_REFUSALS = (*DISK_ERRNOS, errno.EACCES, errno.EPERM)
_UNFINISHED = ".orbax-checkpoint-tmp"
#: Each kind of thread that Orbax has at work may hand its error to a call of its own.
_MOST_ERRORS = 4


def open_manager(folder: Path, rank: Rank, *, read_only: bool) -> ocp.CheckpointManager:
    """A manager that deletes nothing.

    Raises:
        CheckpointError: What lies there cannot be read.
    """
    # Failures are told by whoever catches them; Orbax and its event loops would log each with pages of tracebacks.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.PreserveAll(),
        best_fn=lambda metrics: rank(metrics)[0],
        cleanup_tmp_directories=False,  # it tells of a failure at it only when the next save begins, and fails that
        create=not read_only,
        read_only=read_only,
        # Made in the background, a folder that cannot be made leaves threads that keep the process for 20 minutes.
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
    )
    try:
        return ocp.CheckpointManager(folder, options=options, item_names=("state", "progress"))
    except ValueError as error:
        raise CheckpointError(f"{folder}: the checkpoints cannot be read: {error}") from error


def close_manager(manager: ocp.CheckpointManager) -> None:
    """Closes a manager whose last save may have failed; what is still to be said of that is left out."""
    for _ in range(_MOST_ERRORS):
        with contextlib.suppress(*SAVE_ERRORS):
            manager.close()
            return


def describe_failure(error: Exception) -> str:
    """Why the disk refused a save, in words.

    Raises:
        Exception: The same one, where it was not the disk.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    said = str(error)  # TensorStore passes the system's words on
    found = next((text for number in _REFUSALS if (text := os.strerror(number)) in said), None)
    if found is None:
        raise error
    return found


def clear_away(folder: Path, step: int) -> None:
    """Removes what a save of `step` that failed has left behind, as far as the disk lets it."""
    remove_unfinished(folder)
    if not (folder / str(step) / NAME).is_file():
        shutil.rmtree(folder / str(step), ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what saves and deletions have not finished, as far as the disk lets it; for where none is going on."""
    for path in folder.glob(f"*{_UNFINISHED}"):
        shutil.rmtree(path, ignore_errors=True)


def delete_step(folder: Path, step: int) -> None:
    """Removes a checkpoint: killed at any moment it is whole, or a leftover that the next start clears away."""
    leftover = folder / f"{step}{_UNFINISHED}"
    with contextlib.suppress(OSError):
        (folder / str(step)).rename(leftover)
        shutil.rmtree(leftover)
