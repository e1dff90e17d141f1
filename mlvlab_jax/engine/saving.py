"""Saves that go on behind the training: begun where there is room, sealed once committed, counted where they fail."""

import concurrent.futures
import contextlib
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from mlvlab_jax.config.schema import CheckpointConfig
from mlvlab_jax.engine.distributed import from_first, gather, is_first, is_joined
from mlvlab_jax.engine.faults import strike
from mlvlab_jax.engine.integrity import NAME, seal
from mlvlab_jax.engine.manager import (
    SAVE_ERRORS,
    clear_away,
    close_manager,
    delete_step,
    describe_failure,
    open_manager,
    remove_unfinished,
)
from mlvlab_jax.engine.retention import Rank, list_superfluous
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.errors import DiskError

_POLL_S = 0.01
#: Failed saves in a row that end a run.
_MOST_FAILURES = 3
#: What a save takes beyond its arrays: descriptions, blocks that are not full.
_MARGIN_BYTES = 2**20


class Saver:
    """Saves into a folder, one save at a time. Older checkpoints are deleted once the new one is sealed, never before.

    A save that the disk refuses is cleared away and told of, and training goes on; the third in a row ends it. All
    processes of a run call each method alike.

    Args:
        folder: Where the checkpoints lie; made if missing.
        config: What is kept.
        rank: Which of two checkpoints is better.
        note: Is told of saves that failed.
        saved: Is told the step of each that is on disk and sealed, in a thread beside.

    Attributes:
        manager: Orbax's; another one after a failure.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        rank: Rank,
        *,
        note: Callable[[str], None],
        saved: Callable[[int], None],
    ) -> None:
        from_first(lambda: remove_unfinished(folder))
        self.manager = open_manager(folder, rank, read_only=False)
        self._folder, self._config, self._rank = folder, config, rank
        self._note, self._saved = note, saved
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._sealing: Future[None] | None = None
        self._begun: int | None = None
        self._num_bytes = 0
        self._failures: list[str] = []

    def save(
        self, state: TrainState, progress: dict[str, Any], *, step: int, monitored: float | None, anew: bool
    ) -> None:
        """Starts saving; returns once the arrays are copied, before they are written.

        A checkpoint of that step stays as it is, unless it is to be made `anew`.

        Raises:
            DiskError: This, or the one before, is the third failure in a row.
        """
        self._settle()
        if step in self.manager.all_steps():
            if not anew:
                return
            from_first(lambda: delete_step(self._folder, step))
            self.manager.reload()
        self._num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        failure = None
        try:
            room = Room(*from_first(lambda: measure_room(self._folder, self._num_bytes)))
            if room.free < room.needed:
                self._count_failure(step, "No space left on device")
                return
            self._begin(state, progress, step=step, monitored=monitored)
        except SAVE_ERRORS as error:
            failure = describe_failure(error)
        if failure := _agree(failure):
            self._start_over(step)
            self._count_failure(step, failure)
            return
        self._begun = step
        if is_first():
            self._sealing = self._sealer.submit(self._conclude, step)

    def look(self) -> None:
        """Counts a save that has failed by now; for after each step. Several processes find out at the next save.

        Raises:
            DiskError: It is the third failure in a row.
        """
        if self._sealing is not None and self._sealing.done() and not is_joined():
            self._settle()

    def wait(self) -> None:
        """Returns when everything is committed to disk and sealed.

        Raises:
            DiskError: The newest save failed.
        """
        self._settle()
        if self._failures:
            raise self._give_up()

    def close(self) -> None:
        """Waits for what goes on, and lets the folder go; says nothing of failures."""
        self._sealer.shutdown()
        close_manager(self.manager)

    def _begin(self, state: TrainState, progress: dict[str, Any], *, step: int, monitored: float | None) -> None:
        metrics = None if monitored is None else {"monitored": monitored, "step": step}
        # A copy on the device: the training step may overwrite the original's memory while it is being written.
        snapshot = jax.tree.map(lambda x: x.copy(), state)
        args = ocp.args.Composite(state=ocp.args.StandardSave(snapshot.present()), progress=ocp.args.JsonSave(progress))
        self.manager.save(step, args=args, metrics=metrics, force=True)

    def _conclude(self, step: int) -> None:
        # Asked again and again, as waiting for Orbax belongs to the thread that saves.
        while self.manager.is_saving_in_progress():
            time.sleep(_POLL_S)
        folder = self._folder / str(step)
        if folder.is_dir():
            strike("seal")
            seal(folder)
            self._saved(step)
            self._delete_superfluous()
            remove_unfinished(self._folder)  # writes of a save that failed may have come in after it was cleared away

    def _delete_superfluous(self) -> None:
        sealed = [step for step in self.manager.all_steps() if (self._folder / str(step) / NAME).is_file()]
        measured = {}
        for step in sealed:
            try:
                measured[step] = self.manager.metrics(step)
            except (ValueError, OSError):
                continue  # damaged since: not this one's to judge, and nothing is deleted on its account
        for step in list_superfluous(measured, self._config, self._rank):
            strike("delete")
            delete_step(self._folder, step)

    def _settle(self) -> None:
        """Waits for the save that was begun last, and counts it where it failed."""
        step, self._begun = self._begun, None
        sealing, self._sealing = self._sealing, None
        if step is None:
            return
        failure = None
        try:
            if sealing is not None:
                concurrent.futures.wait([sealing])
            self.manager.wait_until_finished()
            if sealing is not None:
                sealing.result()
        except SAVE_ERRORS as error:
            failure = describe_failure(error)
        if failure := _agree(failure):
            self._start_over(step)
            self._count_failure(step, failure)
        else:
            self._failures = []
            self.manager.reload()

    def _start_over(self, step: int) -> None:
        """Clears the failed save away, and its manager, in which threads and steps that are not there linger."""
        close_manager(self.manager)
        from_first(lambda: clear_away(self._folder, step))
        self.manager = open_manager(self._folder, self._rank, read_only=False)

    def _count_failure(self, step: int, reason: str) -> None:
        with contextlib.suppress(OSError):
            reason = f"{reason} ({measure_room(self._folder, self._num_bytes)})"
        self._failures.append(f"step {step}: {reason}")
        if len(self._failures) == _MOST_FAILURES:
            raise self._give_up()
        self._note(
            f"the checkpoint of step {step} was not saved: {reason}; training goes on, and the next save is "
            f"tried (failure {len(self._failures)} in a row; {_MOST_FAILURES} end the run)"
        )

    def _give_up(self) -> DiskError:
        steps = self.manager.all_steps()
        newest = f"the newest checkpoint there is of step {max(steps)}" if steps else "no checkpoint is there"
        return DiskError(
            f"{self._folder}: {len(self._failures)} saves in a row failed, the last of {self._failures[-1]}; {newest}; "
            "free some space or make the folder writable, and start again with the same command"
        )


class Room(NamedTuple):
    """Bytes on a disk. free: for whoever asks. needed: by a save."""

    free: int
    needed: int

    def __str__(self) -> str:
        return f"{self.free / 1e6:,.2f} MB free, {self.needed / 1e6:,.2f} MB needed"


def measure_room(folder: Path, num_bytes: int) -> Room:
    """Room on the disk of `folder`, and what a save of arrays of `num_bytes` needs."""
    return Room(shutil.disk_usage(folder).free, num_bytes + _MARGIN_BYTES)


def _agree(failure: str | None) -> str | None:
    """A failure of any process; None where all are well."""
    return next((other for other in gather(failure) if other is not None), None)
