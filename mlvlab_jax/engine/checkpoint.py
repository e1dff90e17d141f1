"""Checkpoints by Orbax: state and progress saved as one thing, asynchronously; the newest and the best are kept.

A checkpoint counts once it is sealed: committed by Orbax, and then every file's size and digest written down beside it.
What was changed or cut off after that is found before anything is restored from it.
"""

import dataclasses
import datetime
import logging
import math
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mlvlab_jax.config.schema import CheckpointConfig
from mlvlab_jax.engine.distributed import from_first, is_first
from mlvlab_jax.engine.faults import strike
from mlvlab_jax.engine.integrity import find_damage, seal, summarise
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.errors import CheckpointError, DiskError

Which = Literal["best", "last"] | int
_POLL_S = 0.01


@dataclasses.dataclass(frozen=True)
class Rank:
    """How checkpoints are compared: by the monitored metric, the earliest first among equals."""

    mode: Literal["min", "max"]

    def __call__(self, metrics: dict[str, Any]) -> tuple[float, int]:
        """Sort key, the best largest."""
        value = float(metrics["monitored"])
        signed = value if self.mode == "max" else -value
        return (signed if value == value else float("-inf"), -int(metrics["step"]))


class ArrayRecord(NamedTuple):
    """An array of a saved state. name: its path, such as variables/params/head/kernel."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Of the values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class CheckpointStore:
    """Numbered checkpoints in a folder.

    Args:
        folder: Where they lie; made if missing.
        config: What is kept.
        mode: Whether a lower or a higher monitored metric is better.
        read_only: Nothing is written, nor tidied up behind a training run that may be going on there.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, *, mode: Literal["min", "max"], read_only: bool = False
    ) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._folder = folder.resolve()
        self._rank = Rank(mode)
        keep = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(config.keep_last),
                preservation_policy.BestN(
                    get_metric_fn=self._rank,
                    n=config.keep_best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=lambda m: self._rank(m)[0],
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        if read_only and not self._folder.is_dir():
            raise CheckpointError(f"{self._folder}: no such folder, so no checkpoint; check --workdir, or train first")
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options, item_names=("state", "progress"))
        except ValueError as error:
            raise CheckpointError(f"{self._folder}: the checkpoints cannot be read: {error}") from error
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._sealing: Future[None] | None = None

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish_sealing()
        finally:
            self._sealer.shutdown()
            self._manager.close()

    def save(
        self, state: TrainState, progress: dict[str, Any], *, step: int, monitored: float | None, anew: bool = False
    ) -> None:
        """Starts saving; returns once the arrays are copied, before they are written.

        Args:
            state: What is saved.
            progress: Beside it, plain JSON values.
            step: Its number.
            monitored: The metric it is ranked by; None where it was not measured.
            anew: Whether a checkpoint of that step is replaced, as one that was not measured; otherwise it stays.

        Raises:
            DiskError: The write failed.
        """
        if step in self._manager.all_steps():
            if not anew:
                return
            self._discard(step)
        self._finish_sealing()
        metrics = None if monitored is None else {"monitored": monitored, "step": step}
        # A copy on the device: the training step may overwrite the original's memory while it is being written.
        snapshot = jax.tree.map(lambda x: x.copy(), state)
        args = ocp.args.Composite(state=ocp.args.StandardSave(snapshot), progress=ocp.args.JsonSave(progress))
        try:
            self._manager.save(step, args=args, metrics=metrics, force=True)
        except OSError as error:
            raise self._disk_error(error) from error
        if is_first():
            self._sealing = self._sealer.submit(self._seal, step)

    def _discard(self, step: int) -> None:
        """Takes a checkpoint away in one move, so that a kill leaves none of it that looks like one."""
        self.wait()
        folder = self._folder / str(step)
        tmp = folder.with_name(f"{step}.orbax-checkpoint-tmp-discarded")
        from_first(lambda: str(folder.rename(tmp)))
        self._manager.reload()
        if is_first():
            shutil.rmtree(tmp)

    def _seal(self, step: int) -> None:
        strike("seal")
        # Asked again and again, as waiting for Orbax belongs to the thread that saves.
        while self._manager.is_saving_in_progress():
            time.sleep(_POLL_S)
        folder = self._folder / str(step)
        if folder.is_dir():
            seal(folder)

    def _finish_sealing(self) -> None:
        sealing, self._sealing = self._sealing, None
        try:
            if sealing is not None:
                sealing.result()
        except OSError as error:
            raise self._disk_error(error) from error

    def wait(self) -> None:
        """Returns when everything is committed to disk and sealed.

        Raises:
            DiskError: A write failed.
        """
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            raise self._disk_error(error) from error
        self._finish_sealing()

    def steps(self) -> list[int]:
        """Steps there is a checkpoint of, ascending."""
        return sorted(self._manager.all_steps())

    def resolve(self, which: Which) -> int:
        """The step that 'best', 'last' or a number means.

        Raises:
            CheckpointError: There is no such checkpoint.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(
                f"{self._folder}: no checkpoint; expected at least one; train first, or correct --workdir"
            )
        if which == "last":
            return steps[-1]
        if which == "best":
            measured = {step: self._read_metrics(step) for step in steps}
            ranked = [step for step in steps if measured[step]]
            return max(ranked, key=lambda step: self._rank(measured[step])) if ranked else steps[-1]
        if which not in steps:
            raise CheckpointError(
                f"{self._folder}: no checkpoint of step {which}; there are {steps}, 'best' and 'last'"
            )
        return which

    def _read_metrics(self, step: int) -> Any:
        try:
            return self._manager.metrics(step)
        except (ValueError, OSError) as error:
            raise CheckpointError(
                f"{self._folder / str(step)}: the metrics cannot be read: {error}; name another step, or 'last'"
            ) from error

    def saved_at(self, step: int) -> datetime.datetime:
        """When the checkpoint of `step` was committed, in UTC to the second."""
        committed_ns = self._manager.metadata(step).commit_timestamp_nsecs or 0
        return datetime.datetime.fromtimestamp(committed_ns // 10**9, datetime.UTC)

    def monitored(self, step: int) -> float | None:
        """The metric by which the checkpoint of `step` is ranked; None where it was not measured."""
        metrics = self._read_metrics(step)
        return None if metrics is None else float(metrics["monitored"])

    def count_bytes(self, step: int) -> int:
        """Size of the files of `step`."""
        return sum(path.stat().st_size for path in (self._folder / str(step)).rglob("*") if path.is_file())

    def describe(self, step: int) -> list[ArrayRecord]:
        """The arrays of the state of `step`, read from its description."""
        with ocp.PyTreeCheckpointer() as reader:
            tree = _read_tree(reader, self._state_folder(step))
        named = jax.tree_util.tree_leaves_with_path(tree)
        return [ArrayRecord(_name(path), tuple(leaf.shape), str(leaf.dtype)) for path, leaf in named]

    def read_arrays(self, step: int) -> dict[str, np.ndarray]:
        """The arrays of the state of `step` as plain numpy, by name, whatever devices they were saved from.

        Raises:
            CheckpointError: The files are not those that were saved.
        """
        self._check(step)
        folder = self._state_folder(step)
        with ocp.PyTreeCheckpointer() as reader:
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _read_tree(reader, folder))
            restored = reader.restore(folder, ocp.args.PyTreeRestore(restore_args=as_numpy))
        return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(restored)}

    def read_progress(self, step: int) -> dict[str, Any]:
        """What was saved beside the state of `step`."""
        restored = self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
        progress: dict[str, Any] = restored["progress"]
        return progress

    def restore(
        self, step: int, like: TrainState, layout: TrainState, *, verify: bool = True
    ) -> tuple[TrainState, dict[str, Any]]:
        """State and progress of `step`, laid out by `layout` on whatever mesh that is now.

        Args:
            step: One of `steps()`.
            like: A state, or its shapes, of the same structure.
            layout: Shardings.
            verify: Whether to compare the files with their digests first; not where `recover` has just done it.

        Raises:
            CheckpointError: The files are not those that were saved, or do not hold such a state.
        """
        if verify:
            self._check(step)
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, layout)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), progress=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except (ValueError, FileNotFoundError, KeyError) as error:
            raise CheckpointError(f"{self._folder / str(step)}: cannot be restored: {error}") from error
        return restored["state"], restored["progress"]

    def _state_folder(self, step: int) -> Path:
        return self._folder / str(step) / "state"

    def _check(self, step: int) -> None:
        if lines := from_first(lambda: find_damage(self._folder / str(step))):
            others = [other for other in self.steps() if other != step]
            raise CheckpointError(
                f"{self._folder / str(step)}: the checkpoint is damaged: {summarise(lines)}; "
                + (f"there are also the steps {others}" if others else "there is no other")
            )

    def _disk_error(self, error: OSError) -> DiskError:
        return DiskError(f"{self._folder}: {error.strerror or error}; free some space or choose another --workdir")


def _read_tree(reader: Any, folder: Path) -> Any:
    """Descriptions of the arrays of a saved tree."""
    return reader.metadata(folder).item_metadata.tree


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
