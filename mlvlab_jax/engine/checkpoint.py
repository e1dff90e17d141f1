"""Checkpoints by Orbax: state and progress saved as one thing, asynchronously; the newest and the best are kept.

A checkpoint counts once it is sealed: committed by Orbax, and then every file's size and digest written down beside it.
What was changed or cut off after that is found before anything is restored from it.
"""

import dataclasses
import datetime
import math
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from mlvlab_jax.config.schema import CheckpointConfig
from mlvlab_jax.engine.distributed import from_first
from mlvlab_jax.engine.integrity import find_damage, summarise
from mlvlab_jax.engine.manager import close_manager, open_manager
from mlvlab_jax.engine.mismatch import Kind, list_mismatches
from mlvlab_jax.engine.retention import Rank
from mlvlab_jax.engine.saving import Saver
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.errors import CheckpointError

Which = Literal["best", "last"] | int


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
        note: Is told of saves that failed.
        saved: Is told the step of each that is on disk and sealed, in a thread beside.

    Raises:
        CheckpointError: There is no such folder to read, or it cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        *,
        mode: Literal["min", "max"],
        read_only: bool = False,
        note: Callable[[str], None] = lambda text: None,
        saved: Callable[[int], None] = lambda step: None,
    ) -> None:
        self._folder = folder.resolve()
        self._rank = Rank(mode)
        if read_only and not self._folder.is_dir():
            raise CheckpointError(f"{self._folder}: no such folder, so no checkpoint; check --workdir, or train first")
        if read_only:
            self._reader = open_manager(self._folder, self._rank, read_only=True)
        self._saver = None if read_only else Saver(self._folder, config, self._rank, note=note, saved=saved)

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._saver is None:
            close_manager(self._reader)
        else:
            self._saver.close()

    @property
    def _manager(self) -> ocp.CheckpointManager:
        return self._reader if self._saver is None else self._saver.manager

    @property
    def _writer(self) -> Saver:
        assert self._saver is not None, "opened to read only"
        return self._saver

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
            DiskError: As `Saver.save`.
        """
        self._writer.save(state, progress, step=step, monitored=monitored, anew=anew)

    def look(self) -> None:
        """Finds out whether the save that goes on has failed; for after each step.

        Raises:
            DiskError: As `Saver.look`.
        """
        self._writer.look()

    def wait(self) -> None:
        """Returns when everything is committed to disk and sealed.

        Raises:
            DiskError: The newest save failed.
        """
        self._writer.wait()

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
        """The arrays of the state of `step`, read from its description.

        Raises:
            CheckpointError: There is none.
        """
        try:
            with ocp.PyTreeCheckpointer() as reader:
                tree = _read_tree(reader, self._state_folder(step))
        except (ValueError, FileNotFoundError, KeyError) as error:
            raise CheckpointError(f"{self._folder / str(step)}: the arrays cannot be listed: {error}") from error
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
        self._compare(step, like)
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, layout)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target.present()), progress=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except (ValueError, FileNotFoundError, KeyError) as error:
            raise CheckpointError(f"{self._folder / str(step)}: cannot be restored: {error}") from error
        return dataclasses.replace(target, **restored["state"]), restored["progress"]

    def _compare(self, step: int, like: TrainState) -> None:
        """Raises where the saved state is of another model; Orbax names one array, and passes other types by."""
        named = jax.tree_util.tree_leaves_with_path(like)
        expected = {_name(path): Kind(tuple(leaf.shape), str(leaf.dtype)) for path, leaf in named}
        found = {array.name: Kind(array.shape, array.dtype) for array in self.describe(step)}
        if lines := list_mismatches(expected, found):
            listed = "\n".join(f"  {line}" for line in lines)
            raise CheckpointError(
                f"{self._folder / str(step)}: the state of another model:\n{listed}\n"
                "bring back the code and the configuration that it was saved with, or give another --workdir"
            )

    def _state_folder(self, step: int) -> Path:
        return self._folder / str(step) / "state"

    def _check(self, step: int) -> None:
        if lines := from_first(lambda: find_damage(self._folder / str(step))):
            others = [other for other in self.steps() if other != step]
            raise CheckpointError(
                f"{self._folder / str(step)}: the checkpoint is damaged: {summarise(lines)}; "
                + (f"there are also the steps {others}" if others else "there is no other")
            )


def _read_tree(reader: Any, folder: Path) -> Any:
    """Descriptions of the arrays of a saved tree."""
    return reader.metadata(folder).item_metadata.tree


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
