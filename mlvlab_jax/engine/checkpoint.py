"""Checkpoints by Orbax: state and progress saved as one thing, asynchronously; the newest and the best are kept."""

import dataclasses
import datetime
import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mlvlab_jax.config.schema import CheckpointConfig
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.errors import CheckpointError, DiskError

Which = Literal["best", "last"] | int


@dataclasses.dataclass(frozen=True)
class Rank:
    """How checkpoints are compared: by the monitored metric, the earliest first among equals."""

    mode: Literal["min", "max"]

    def __call__(self, metrics: dict[str, Any]) -> tuple[float, int]:
        """Sort key, the best largest."""
        value = float(metrics["monitored"])
        signed = value if self.mode == "max" else -value
        return (signed if value == value else float("-inf"), -int(metrics["step"]))


class CheckpointStore:
    """Numbered checkpoints in a folder.

    Args:
        folder: Where they lie; made if missing.
        config: What is kept.
        mode: Whether a lower or a higher monitored metric is better.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, *, mode: Literal["min", "max"]) -> None:
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
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep, best_fn=lambda m: self._rank(m)[0], cleanup_tmp_directories=True
            ),
            item_names=("state", "progress"),
        )

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def save(self, state: TrainState, progress: dict[str, Any], *, step: int, monitored: float | None) -> None:
        """Starts saving; returns once the arrays are copied, before they are written.

        Raises:
            DiskError: The write failed.
        """
        if step in self._manager.all_steps():
            return
        metrics = None if monitored is None else {"monitored": monitored, "step": step}
        # A copy on the device: the training step may overwrite the original's memory while it is being written.
        snapshot = jax.tree.map(lambda x: x.copy(), state)
        args = ocp.args.Composite(state=ocp.args.StandardSave(snapshot), progress=ocp.args.JsonSave(progress))
        try:
            self._manager.save(step, args=args, metrics=metrics, force=True)
        except OSError as error:
            raise self._disk_error(error) from error

    def wait(self) -> None:
        """Returns when everything is committed to disk.

        Raises:
            DiskError: A write failed.
        """
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            raise self._disk_error(error) from error

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
            measured = {step: self._manager.metrics(step) for step in steps}
            ranked = [step for step in steps if measured[step]]
            return max(ranked, key=lambda step: self._rank(measured[step])) if ranked else steps[-1]
        if which not in steps:
            raise CheckpointError(
                f"{self._folder}: no checkpoint of step {which}; there are {steps}, 'best' and 'last'"
            )
        return which

    def saved_at(self, step: int) -> datetime.datetime:
        """When the checkpoint of `step` was committed, in UTC to the second."""
        committed_ns = self._manager.metadata(step).commit_timestamp_nsecs or 0
        return datetime.datetime.fromtimestamp(committed_ns // 10**9, datetime.UTC)

    def restore(self, step: int, like: TrainState, layout: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """State and progress of `step`, laid out by `layout` on whatever mesh that is now.

        Args:
            step: One of `steps()`.
            like: A state, or its shapes, of the same structure.
            layout: Shardings.

        Raises:
            CheckpointError: The files do not hold such a state.
        """
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, layout)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target), progress=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except (ValueError, FileNotFoundError, KeyError) as error:
            raise CheckpointError(f"{self._folder / str(step)}: cannot be restored: {error}") from error
        return restored["state"], restored["progress"]

    def _disk_error(self, error: OSError) -> DiskError:
        return DiskError(f"{self._folder}: {error.strerror or error}; free some space or choose another --workdir")
