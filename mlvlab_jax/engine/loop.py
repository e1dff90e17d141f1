"""The training loop. "Step k" is the state after k batches, each of them an update unless it was left out."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.inspection import check_before_training
from mlvlab_jax.data.quarantine import Quarantine
from mlvlab_jax.engine.attempt import AttemptLog
from mlvlab_jax.engine.beginning import Beginning, begin
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.compiling import check_compile_options
from mlvlab_jax.engine.dispatch import check_dispatch
from mlvlab_jax.engine.distributed import from_first, is_first
from mlvlab_jax.engine.double_check import check_determinism
from mlvlab_jax.engine.experiment import Experiment, make_experiment
from mlvlab_jax.engine.folder import describe_move, describe_tags, write_start
from mlvlab_jax.engine.guard import Guard
from mlvlab_jax.engine.peers import ending_without_peers
from mlvlab_jax.engine.progress import Progress
from mlvlab_jax.engine.recovery import Found, begin_looking, list_steps, recover
from mlvlab_jax.engine.resolution import check_progressive
from mlvlab_jax.engine.shared_quarantine import SharedQuarantine
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.engine.step import describe_loss
from mlvlab_jax.engine.teacher import open_teacher
from mlvlab_jax.engine.trainer import Breakable, Ended, Trainer, describe_versions
from mlvlab_jax.files import write_json
from mlvlab_jax.types import Tracker


@dataclasses.dataclass(frozen=True)
class RunResult:
    """How a run ended: what ended it, the final state and progress, and what summary.json says.

    best: the state the summary calls so, at that step; None of an interrupted run.
    """

    ended: Ended
    state: TrainState
    progress: Progress
    summary: dict[str, Any]
    experiment: Experiment
    best: TrainState | None


def run(
    config: Config,
    *,
    workdir: Path,
    tracker: Tracker,
    stop_requested: Callable[[int], bool] = lambda step: False,
    breakable: Breakable = contextlib.nullcontext,
    attempt: AttemptLog | None = None,
) -> RunResult:
    """Trains, or goes on training, in `workdir`.

    Args:
        config: What to do.
        workdir: Run folder, already held by this process.
        tracker: Where numbers go.
        stop_requested: Asked before the first step, after each, and after each batch of an evaluation, with the number
            of steps made; true saves and ends the run.
        breakable: Context of waiting for data and programs, which may raise StopRequested there.
        attempt: Watches this start of the run, and goes on when training has ended; None: one that ends with it.

    Raises:
        MlvlabError: Of the kinds of `make_experiment`; NonFiniteError when the loss is lost; CorruptionError;
            DiskError.
    """
    if attempt is None:
        with AttemptLog(workdir) as own:
            rest: dict[str, Any] = {"stop_requested": stop_requested, "breakable": breakable, "attempt": own}
            return run(config, workdir=workdir, tracker=tracker, **rest)
    check_compile_options(config.compile_options)
    looking = begin_looking(workdir / "checkpoints")
    experiment = make_experiment(config)
    experiment = dataclasses.replace(experiment, teacher=open_teacher(config, experiment.data))
    check_dispatch(config, experiment)
    check_progressive(config, experiment)
    check_determinism(config, experiment.mesh, flags=os.environ.get("XLA_FLAGS", ""))
    told = describe_loss(config.training, multi_label=experiment.data.train.label_sets is not None)
    for line in (*experiment.model.notes, *told, *check_before_training(experiment.data, config.validation)):
        tracker.note(line)
    # A run that goes on has its weights in its checkpoints.
    new = not list_steps(workdir / "checkpoints")
    begun = begin(config, experiment, workdir=workdir) if new else Beginning(experiment.state)
    experiment = dataclasses.replace(experiment, state=begun.state)
    opening = _opening(config, experiment, begun, workdir, tracker, attempt, looking)
    with opening as trainer, ending_without_peers(workdir):
        in_memory, first_step = experiment.data.train.source.resident, trainer.progress.step
        attempt.begin(config, in_memory=in_memory, first_step=first_step, note=tracker.note)
        try:
            summary = trainer.finish(trainer.train(stop_requested, breakable), stop_requested)
            attempt.ended = summary["ended"]
            tracker.summary(summary)
        finally:
            tracker.finish()
    if is_first():
        write_json(workdir / "summary.json", summary)
    return RunResult(summary["ended"], trainer.state, trainer.progress, summary, experiment, trainer.best)


@contextlib.contextmanager
def _opening(
    config: Config,
    experiment: Experiment,
    begun: Beginning,
    workdir: Path,
    tracker: Tracker,
    attempt: AttemptLog,
    looking: "Future[Found] | None",
) -> Iterator[Trainer]:
    """Opens what the run folder holds, at the newest intact checkpoint; closes the checkpoints after the block."""
    identity, versions = dict(experiment.data.identity), describe_versions(experiment)
    teacher = None if experiment.teacher is None else experiment.teacher.describe()
    manifest = from_first(
        lambda: write_start(
            workdir,
            config,
            data_identity=identity,
            data_version=versions,
            weights=begun.provenance,
            teacher=teacher,
        )
    )
    for line in (*begun.notes, *describe_move(manifest)):
        tracker.note(line)
    folder, mode = workdir / "checkpoints", config.training.early_stopping.mode
    with attempt.clock.phase("checkpoint"):
        newest = recover(folder, tracker.note, looking=looking)
    with CheckpointStore(folder, config.checkpoint, mode=mode, note=tracker.note, saved=attempt.saved) as store:
        quarantine = Quarantine(
            workdir / "quarantine.jsonl",
            sizes={name: len(split) for name, split in experiment.data.splits.items()},
            max_bad_fraction=config.pipeline.max_bad_fraction,
            writes=is_first(),
        )
        shared = SharedQuarantine(quarantine)
        guard = Guard(config, experiment.state, experiment.mesh, workdir=workdir, note=tracker.note)
        yield Trainer(config, experiment, store, tracker, attempt, shared, guard, describe_tags(manifest), newest)
